"""Weights packed by other libraries with what these unpack, and their rows."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from spectrank.model import Skip, WeightMatrix, iter_weights

# Packed and unpacked by the libraries themselves: generate_packed_golden.py.
_FOLDER = Path(__file__).parents[1] / "model/formats"
GOLDEN = load_file(_FOLDER / "packed_golden.safetensors")
CASES = sorted({name.partition("/")[0] for name in GOLDEN})
# Formats that look like the first version of GPTQ.
AUTO = {"quant_method": "auto-round", "packing_format": "auto_round"}
TOLD = {
    "autoround-4": AUTO,
    "autoround-5": {"quant_method": "intel/auto-round", "backend": "auto_round"},
    "autoround-minus-one": AUTO | {"packing_format": "auto_round:auto_gptq"},
}


def case_of(name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The packed tensors of a case, and the weight that its library unpacks."""
    start = f"{name}/"
    # Copies: a test may write into them.
    packed = {
        name.removeprefix(start): tensor.clone()
        for name, tensor in GOLDEN.items()
        if name.startswith(start)
    }
    return packed, packed.pop("truth")


def matrix_of(source) -> WeightMatrix:
    """The one matrix of a source."""
    (row,) = [r for r in iter_weights(source) if isinstance(r, WeightMatrix)]
    return row


def reasons_of(source) -> dict[str, str]:
    """Name to reason of what is skipped."""
    return {r.name: r.reason for r in iter_weights(source) if isinstance(r, Skip)}
