"""One side of the kernel benchmark: ``python ntk_child.py PEER CASE``.

Runs in the environment of the peer, with that peer's imports alone. For each line that
it is sent, a number of calls, it computes the kernel as often and prints the least
seconds and CPU seconds of a call, peak memory above what it held before, and the
Frobenius norm, by which both sides are seen to agree.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np

WIDTHS = (784, 512, 512, 10)
# Model, samples of the first and of the second set (0: none), form of the kernel.
CASES = {
    "mlp-two-sets-100-full": ("mlp", 100, 100, "full"),
    "mlp-100-full": ("mlp", 100, 0, "full"),
    "mlp-1000-full": ("mlp", 1000, 0, "full"),
    "mlp-2000-trace": ("mlp", 2000, 0, "trace"),
    "cnn-200-trace": ("cnn", 200, 0, "trace"),
    "cnn-100-full": ("cnn", 100, 0, "full"),
    "encoder-64-trace": ("encoder", 64, 0, "trace"),
}
SHAPES = {"mlp": (784,), "cnn": (1, 28, 28), "encoder": (16, 64)}


def arrays(kind: str, n1: int, n2: int) -> list[np.ndarray]:
    """Return the inputs, the same in every environment."""
    rng = np.random.default_rng(0)
    shape = SHAPES[kind]
    return [
        rng.standard_normal((n, *shape), dtype=np.float32) for n in (n1, n2) if n > 0
    ]


def mlp_weights() -> list[np.ndarray]:
    """Return the weights (m, n) of the perceptron; its biases are zero."""
    rng = np.random.default_rng(1)
    return [
        rng.standard_normal((m, n), dtype=np.float32) * np.float32((2 / n) ** 0.5)
        for n, m in itertools.pairwise(WIDTHS)
    ]


def torch_model(kind: str):
    """Return the module of a case, with the same weights in every environment."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if kind == "mlp":
        layers = [nn.Linear(n, m) for n, m in itertools.pairwise(WIDTHS)]
        with torch.no_grad():
            for layer, weight in zip(layers, mlp_weights(), strict=True):
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.zero_()
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    if kind == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * 49, 10),
        )
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(body, nn.Flatten(), nn.Linear(16 * 64, 10)).eval()


def ours(kind, form, inputs):
    import torch

    import spectrank as sr

    model, data = torch_model(kind), [torch.from_numpy(x) for x in inputs]
    return lambda n: sr.ntk.empirical(model, *(x[:n] for x in data), outputs=form)


def torch_func(kind, form, inputs):
    """The recipe of torch's tutorial: vmap(jacrev), then einsum by parameter."""
    import torch
    from torch.func import functional_call, jacrev, vmap
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model, data = torch_model(kind), [torch.from_numpy(x) for x in inputs]
    params = {k: v.detach() for k, v in model.named_parameters()}

    def single(params, x):
        return functional_call(model, params, (x.unsqueeze(0),)).squeeze(0)

    def jacobian(x):
        found = vmap(jacrev(single), (None, 0))(params, x)
        return [j.flatten(2) for j in found.values()]

    def run(n):
        with sdpa_kernel(SDPBackend.MATH):
            left = jacobian(data[0][:n])
            right = jacobian(data[-1][:n])
        rule = "Naf,Mbf->NMab" if form == "full" else "Naf,Maf->NM"
        parts = [torch.einsum(rule, a, b) for a, b in zip(left, right, strict=True)]
        return torch.stack(parts).sum(0)

    return run


def nngeometry(kind, form, inputs):
    import torch
    from nngeometry import GramMatrix
    from nngeometry.layercollection import LayerCollection
    from torch.utils.data import DataLoader, TensorDataset

    model, x = torch_model(kind), torch.from_numpy(inputs[0])
    layers = LayerCollection.from_model(model)

    def run(n):
        data = TensorDataset(x[:n].clone(), torch.zeros(len(x[:n])))
        loader = DataLoader(data, batch_size=len(data))
        return GramMatrix(model, loader, layer_collection=layers).to_torch()

    return run


def neural_tangents(kind, form, inputs):
    """Structured derivatives, its fastest on this network, jitted."""
    import jax
    import neural_tangents as nt

    weights = [(w.T, np.zeros(len(w), dtype=w.dtype)) for w in mlp_weights()]

    def network(params, x):
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ params[-1][0] + params[-1][1]

    kernel = nt.empirical_ntk_fn(
        network,
        trace_axes=(),
        vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )
    jitted = jax.jit(kernel)

    def run(n):
        second = inputs[1][:n] if len(inputs) > 1 else None
        return jitted(inputs[0][:n], second, weights).block_until_ready()

    return run


PEERS = {
    "ours": ours,
    "torch_func": torch_func,
    "nngeometry": nngeometry,
    "neural_tangents": neural_tangents,
}


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(key)).split()[1])


def main() -> None:
    peer, case = sys.argv[1:]
    kind, n1, n2, form = CASES[case]
    out, sys.stdout = sys.stdout, sys.stderr
    run = PEERS[peer](kind, form, arrays(kind, n1, n2))
    run(4)  # Imports and thread pools; memory is what the kernel itself takes.
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = status("VmRSS")
        times = []
        for _ in range(int(line)):
            # Freed first: a second kernel beside it would count as memory of its own.
            kernel = None
            start = time.perf_counter(), time.process_time()
            kernel = run(n1)
            times.append(
                (time.perf_counter() - start[0], time.process_time() - start[1])
            )
        found = np.asarray(kernel)
        row = {
            "seconds": min(wall for wall, _ in times),
            "cpu_seconds": min(cpu for _, cpu in times),
            "peak_bytes": status("VmHWM") - before,
            "output_bytes": int(found.nbytes),
            "norm": float(np.linalg.norm(found.ravel().astype(np.float64))),
        }
        del kernel, found
        print(json.dumps(row), file=out, flush=True)


if __name__ == "__main__":
    main()
