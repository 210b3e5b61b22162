"""Weights packed by the libraries that define the packings, with what they unpack.

    pip install --no-deps --target PACKAGES auto-gptq==0.7.1 bitsandbytes==0.50.2 \
        compressed-tensors==0.20.1 loguru pydantic auto-round==0.16.1
    pip download --no-deps --no-binary :all: autoawq==0.2.9, unpacked into PACKAGES
    python tests/model/formats/generate_packed_golden.py PACKAGES

Single files of these packages are run, on the processor: their imports ask for other
versions of torch and transformers. Writes packed_golden.safetensors beside itself; a
tensor ``CASE/truth`` is the weight (outputs, inputs) as the library has it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
Tensors = dict[str, Tensor]


def bare(name: str, folder: Path) -> None:
    """Register a package without running its __init__."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def integers(*shape: int, low: int, high: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator)


def scales_of(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) * 0.1 + 0.01).half().float()


def gptq(packages: Path) -> Tensors:
    module = from_file(packages / "auto_gptq/nn_modules/qlinear/qlinear_cuda.py")
    found: Tensors = {}
    inputs, outputs, group = 64, 32, 16
    for bits in (2, 3, 4, 8):
        scales = scales_of(outputs, inputs // group, seed=bits)
        zeros = integers(outputs, inputs // group, low=1, high=2**bits, seed=bits)
        codes = integers(outputs, inputs, low=0, high=2**bits, seed=10 + bits)
        # Inputs in an order of their own, as activation ordering leaves them.
        order = torch.randperm(inputs, generator=torch.Generator().manual_seed(bits))
        places = order // group
        layer = torch.nn.Linear(inputs, outputs, bias=False)
        layer.weight.data = scales[:, places] * (codes - zeros[:, places])
        packed = module.QuantLinear(
            bits, group, inputs, outputs, False, weight_dtype=torch.float32
        )
        packed.pack(layer, scales.clone(), zeros.float(), places.int())
        for name, tensor in packed.state_dict().items():
            stored = tensor.half() if name == "scales" else tensor
            found[f"gptq-{bits}/a.{name}"] = stored
        found[f"gptq-{bits}/truth"] = packed(torch.eye(inputs)).T
    return found


def autoround(packages: Path) -> Tensors:
    bare("auto_round", packages / "auto_round")
    bare("auto_round_extension", packages / "auto_round_extension")
    bare("auto_round_extension.torch", packages / "auto_round_extension/torch")
    bare("auto_round.utils", packages / "auto_round/utils")
    sys.modules["auto_round.utils"].get_packing_device = lambda device: "cpu"
    found: Tensors = {}
    inputs, outputs, group = 64, 32, 16
    # Zero points as they are, and minus one; five bits go through its bit stream.
    for name, bits in (
        ("qlinear_torch", 4),
        ("qlinear_torch", 5),
        ("qlinear_torch_zp", 4),
    ):
        module = importlib.import_module(f"auto_round_extension.torch.{name}")
        scales = scales_of(outputs, inputs // group, seed=bits)
        zeros = integers(outputs, inputs // group, low=1, high=2**bits, seed=bits)
        codes = integers(outputs, inputs, low=0, high=2**bits, seed=10 + bits)
        places = torch.arange(inputs) // group
        layer = torch.nn.Linear(inputs, outputs, bias=False)
        layer.weight.data = scales[:, places] * (codes - zeros[:, places])
        packed = module.QuantLinear(bits, group, inputs, outputs, False)
        packed.device = "cpu"
        packed.pack(layer, scales.clone(), zeros.float())
        case = f"autoround{'-minus-one' if name.endswith('zp') else f'-{bits}'}"
        for part, tensor in packed.state_dict().items():
            found[f"{case}/a.{part}"] = tensor
        packed.scales = packed.scales.float()
        found[f"{case}/truth"] = packed(torch.eye(inputs)).T
    return found


def awq(packages: Path) -> Tensors:
    bare("awq", packages / "awq")
    bare("awq.utils", packages / "awq/utils")
    module = from_file(packages / "awq/modules/linear/gemm.py")
    utilities = importlib.import_module("awq.utils.packing_utils")
    inputs, outputs, group = 64, 96, 32
    scales = scales_of(inputs // group, outputs, seed=1)
    zeros = integers(inputs // group, outputs, low=0, high=16, seed=2)
    codes = integers(outputs, inputs, low=0, high=16, seed=3)
    places = torch.arange(inputs) // group
    layer = torch.nn.Linear(inputs, outputs, bias=False)
    layer.weight.data = scales.T[:, places] * (codes - zeros.T[:, places])
    packed = module.WQLinear_GEMM.from_linear(
        layer, 4, group, scales=scales, zeros=zeros.float()
    )
    found = {f"awq/a.{name}": tensor for name, tensor in packed.state_dict().items()}
    truth = utilities.dequantize_gemm(
        packed.qweight, packed.qzeros, packed.scales.float(), 4, group
    )
    return found | {"awq/truth": truth.T}


def compressed(packages: Path) -> Tensors:
    sys.path.insert(0, str(packages))
    stem = "compressed_tensors.compressors"
    helpers = importlib.import_module(f"{stem}.pack_quantized.helpers")
    found: Tensors = {}
    outputs, inputs, group = 18, 60, 20
    for bits in (4, 8):
        half = 2 ** (bits - 1)
        scales = scales_of(outputs, inputs // group, seed=bits)
        zeros = integers(outputs, inputs // group, low=-half, high=half, seed=bits)
        codes = integers(outputs, inputs, low=-half, high=half, seed=5 + bits)
        words = helpers.pack_to_int32(codes.to(torch.int8), bits)
        packed_zeros = helpers.pack_to_int32(zeros.to(torch.int8), bits, 0)
        unpacked = helpers.unpack_from_int32(words, bits, codes.shape)
        places = torch.arange(inputs) // group
        case = f"compressed-{bits}"
        found[f"{case}/a.weight_packed"] = words
        found[f"{case}/a.weight_scale"] = scales
        found[f"{case}/a.weight_zero_point"] = packed_zeros.contiguous()
        found[f"{case}/a.weight_shape"] = torch.tensor(codes.shape)
        shifted = unpacked.float() - zeros[:, places]
        found[f"{case}/truth"] = shifted * scales[:, places]
    return found | floats(stem) | eight_bits(stem)


def eight_bits(stem: str) -> Tensors:
    quantization = importlib.import_module("compressed_tensors.quantization")
    compressors = importlib.import_module(stem)
    weight = torch.randn(6, 96, generator=torch.Generator().manual_seed(0))
    found: Tensors = {}
    for case, compressor, options in (
        (
            "int8-groups",
            compressors.IntQuantizationCompressor,
            {"type": "int", "symmetric": False},
        ),
        (
            "mxfp8",
            compressors.MXFP8QuantizationCompressor,
            {"type": "float", "scale_dtype": torch.uint8},
        ),
    ):
        args = quantization.QuantizationArgs(
            num_bits=8, strategy="group", group_size=32, **options
        )
        scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)
        largest = weight.reshape(6, 3, 32).abs().amax(-1)
        state = {"weight": weight.clone(), "weight_scale": largest / 100}
        if case == "mxfp8":
            state["weight_scale"] = 2.0 ** torch.floor(torch.log2(largest / 448))
        else:
            zero = integers(6, 3, low=-20, high=20, seed=0).to(torch.int8)
            state["weight_zero_point"] = zero
        packed = compressor.compress(state, scheme)
        found |= {f"{case}/a.{name}": tensor for name, tensor in packed.items()}
        found[f"{case}/truth"] = compressor.decompress(packed, scheme)["weight"].float()
    return found


def floats(stem: str) -> Tensors:
    quantization = importlib.import_module("compressed_tensors.quantization")
    unpack = importlib.import_module(f"{stem}.nvfp4.helpers").unpack_fp4_from_uint8
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    found: Tensors = {}
    for kind, group, strategy, dtype in (
        ("nvfp4", 16, "tensor_group", torch.float8_e4m3fn),
        ("mxfp4", 32, "group", torch.uint8),
    ):
        args = quantization.QuantizationArgs(
            num_bits=4,
            type="float",
            strategy=strategy,
            group_size=group,
            scale_dtype=dtype,
        )
        scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)
        base = importlib.import_module(f"{stem}.{kind}.base")
        compressor = getattr(base, f"{kind.upper()}PackedCompressor")
        largest = weight.reshape(6, -1, group).abs().amax(-1) / 6
        state = {"weight": weight.clone()}
        if kind == "nvfp4":
            overall = torch.tensor([448 * 6 / float(weight.abs().max())])
            scale = (largest * overall).to(dtype)
            state |= {"weight_global_scale": overall, "weight_scale": scale.float()}
        else:
            state["weight_scale"] = 2.0 ** torch.floor(torch.log2(largest))
        packed = compressor.compress(state, scheme)
        found |= {f"{kind}/a.{name}": tensor for name, tensor in packed.items()}
        if kind == "mxfp4":
            found["mxfp4/truth"] = compressor.decompress(packed, scheme)["weight"]
            continue
        # The library unpacks to bfloat16, which rounds: its codes and its formula.
        codes = unpack(packed["weight_packed"], 6, 64, dtype=torch.float32)
        factor = packed["weight_scale"].float() / packed["weight_global_scale"]
        found["nvfp4/truth"] = codes * factor.repeat_interleave(group, dim=1)
    return found


def bitsandbytes(packages: Path) -> Tensors:
    sys.path.insert(0, str(packages))
    functional = importlib.import_module("bitsandbytes.functional")
    weight = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    found: Tensors = {}
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            case = f"bitsandbytes-{kind}{'-nested' if nested else ''}"
            # 1,500 values: the last block of 64 is not full.
            codes, state = functional.quantize_4bit(
                weight, blocksize=64, compress_statistics=nested, quant_type=kind
            )
            found[f"{case}/a.weight"] = codes
            for name, tensor in state.as_dict(packed=True).items():
                found[f"{case}/a.weight.{name}"] = tensor
            found[f"{case}/truth"] = functional.dequantize_4bit(codes, state)
    codes, largest, _ = functional.int8_vectorwise_quant(weight.half())
    found["bitsandbytes-int8/a.weight"] = codes
    found["bitsandbytes-int8/a.SCB"] = largest
    truth = functional.int8_vectorwise_dequant(codes, largest)
    return found | {"bitsandbytes-int8/truth": truth}


def main() -> None:
    packages = Path(sys.argv[1]).resolve()
    found: Tensors = {}
    for make in (gptq, autoround, awq, compressed, bitsandbytes):
        found |= make(packages)
    tensors = {name: t.detach().clone().contiguous() for name, t in found.items()}
    save_file(tensors, HERE / "packed_golden.safetensors")


if __name__ == "__main__":
    main()
