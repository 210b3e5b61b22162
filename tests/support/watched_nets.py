"""A small network with its laws written out by hand, and runs of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.invariance.laws import GramTerm, Law, Laws, LinearTerm, SquareTerm

# inputs, two ReLU layers, a linear layer, three logits
WIDTHS = (5, 6, 4, 4, 3)


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Linear-ReLU-Linear-ReLU-Linear-Linear with biases of size one."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(pairwise(WIDTHS)):
        layer = nn.Linear(a, b).to(dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(b, a, generator=generator, dtype=dtype))
            layer.bias.copy_(torch.randn(b, generator=generator, dtype=dtype))
            layer.weight.mul_(0.7)
        layers.append(layer)
        if k < 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _square(name: str, shape: tuple[int, ...], axes: tuple[int, ...], c: float):
    n = int(np.prod([shape[a] for a in axes]))
    every = np.arange(n)
    laws = every if axes else np.zeros(1, int)
    return SquareTerm(name, shape, axes, laws, every, np.full(n, c))


def vertex(k: int) -> Law:
    """Incoming less outgoing squares of each unit of the k-th hidden layer."""
    here, after = ("0", "2", "4")[k], ("2", "4", "5")[k]
    fan_in, n, out = WIDTHS[k : k + 3]
    terms = (
        _square(f"{here}.weight", (n, fan_in), (0,), 1.0),
        _square(f"{here}.bias", (n,), (0,), 1.0),
        _square(f"{after}.weight", (out, n), (1,), -1.0),
    )
    return Law(f"vertex {here}", "vertex", "squares", terms, (n,), n, "", "derived")


def cut() -> Law:
    """All squares of the first layer less those of the last, and biases between."""
    names = ("0", "2", "4", "5")
    shapes = [(b, a) for a, b in pairwise(WIDTHS)]
    terms = [_square("0.weight", shapes[0], (), 1.0)]
    terms += [
        _square(f"{n}.bias", (s[0],), (), 1.0)
        for n, s in zip(names, shapes, strict=True)
    ][:3]
    terms.append(_square("5.weight", shapes[-1], (), -1.0))
    return Law("cut", "cut", "squares", tuple(terms), (1,), 1, "", "derived")


def matrix() -> Law:
    """[W b][W b]^T - V^T V of the linear layer."""
    terms = (
        GramTerm("4.weight", (4, 4), (0,), None, 1.0),
        GramTerm("4.bias", (4,), (0,), None, 1.0),
        GramTerm("5.weight", (3, 4), (1,), None, -1.0),
    )
    return Law("matrix 4", "matrix", "gram", terms, (4, 4), 10, "", "derived")


def softmax() -> Law:
    """Column sums of the head, and the sum of its biases."""
    four, one = np.arange(4), np.zeros(1, int)
    terms = (
        LinearTerm("5.weight", (3, 4), (1,), four, four, np.ones(4)),
        LinearTerm("5.bias", (3,), (), one + 4, one, np.ones(1)),
    )
    return Law("softmax 5", "softmax", "linear", terms, (5,), 5, "", "derived")


def laws() -> Laws:
    """All of them."""
    return Laws((vertex(0), vertex(1), vertex(2), cut(), matrix(), softmax()))


def by_hand(weights: dict[str, Tensor], *, ratios: dict[str, float] | None = None):
    """Values of all laws by the formulas, flat; parts over the ratios of the rates."""
    r = {name: (ratios or {}).get(name, 1.0) for name in weights}
    w = {name: tensor.detach().double() for name, tensor in weights.items()}

    def row(k: str) -> Tensor:
        return (w[f"{k}.weight"] ** 2).sum(1) / r[f"{k}.weight"] + (
            w[f"{k}.bias"] ** 2 / r[f"{k}.bias"]
        )

    def column(k: str) -> Tensor:
        return (w[f"{k}.weight"] ** 2).sum(0) / r[f"{k}.weight"]

    found = {
        "vertex 0": row("0") - column("2"),
        "vertex 2": row("2") - column("4"),
        "vertex 4": row("4") - column("5"),
    }
    between = sum((w[f"{k}.bias"] ** 2).sum() / r[f"{k}.bias"] for k in ("2", "4"))
    found["cut"] = (row("0").sum() + between - column("5").sum()).reshape(1)
    W, b, V = w["4.weight"], w["4.bias"], w["5.weight"]
    gap = W @ W.T / r["4.weight"] + torch.outer(b, b) / r["4.bias"]
    found["matrix 4"] = (gap - V.T @ V / r["5.weight"]).flatten()
    sums = V.sum(0) / r["5.weight"]
    found["softmax 5"] = torch.cat([sums, (w["5.bias"].sum() / r["5.bias"])[None]])
    return found


def batches(seed: int, steps: int, dtype: torch.dtype = torch.float64):
    """Random minibatches of 8 samples with labels."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, WIDTHS[0], generator=generator, dtype=dtype)
        yield x, torch.randint(3, (8,), generator=generator)


def backward(model: nn.Module, batch, sign: float = 1.0) -> None:
    """Gradients of the cross entropy of a batch."""
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    (sign * loss).backward()


def run(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    steps: int,
    *,
    seed: int = 1,
    between: Callable[[int], None] | None = None,
    before: Callable[[int], None] | None = None,
    sign: float = 1.0,
) -> None:
    """Train; ``before`` a step is called with gradients set, ``between`` after it."""
    dtype = next(model.parameters()).dtype
    for k, batch in enumerate(batches(seed, steps, dtype), start=1):
        backward(model, batch, sign)
        if before is not None:
            before(k)
        for optimizer in optimizers:
            optimizer.step()
        if between is not None:
            between(k)
