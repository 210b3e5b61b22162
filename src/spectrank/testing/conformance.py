"""The conformance suite: what every metric promises, turned into assertions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from spectrank.linalg import NEEDS, Value, spectrum
from spectrank.metrics import Metric, get_metric

# The hard numbers, not the comfortable ones.
_SCALES = (1e-200, 1e-30, 1e-3, 1e3, 1e30, 1e200)
_SHAPES = ((12, 12), (30, 7), (7, 30), (1, 9), (9, 1), (1, 1))


def check_metric(metric: Metric | str, *, seed: int = 0) -> None:
    """Assert that a metric keeps the promises of its registration.

    Value inside its enclosure and range, or undefined with a status and a reason; the
    invariances it names, for scales from 1e-200 to 1e200; agreement between the cheap
    route and the dense one; a status and no exception for zero, empty, NaN and infinite
    matrices; the matrix is not changed.

    Args:
        metric: A registered metric or its name.
        seed: Of the random matrices.

    Raises:
        AssertionError: Naming the promise, the matrix and the numbers.

    Example:
        >>> from spectrank.testing import check_metric
        >>> check_metric("stable_rank")
    """
    m = get_metric(metric) if isinstance(metric, str) else metric
    _check_words(m)
    _check_degenerate(m)
    generator = torch.Generator().manual_seed(seed)
    num_measured = 0
    for label, W in _matrices(generator):
        before = W.clone()
        value = m(W)
        assert torch.equal(W, before), f"{m.name} changed the matrix ({label})"
        if math.isnan(value.value):
            # A fit may find too few values to fit, and must say so.
            assert value.status != "ok" and value.reason, (
                f"{m.name} of {label} {tuple(W.shape)} is NaN and gives no reason"
            )
            continue
        num_measured += 1
        _check_enclosure(m, value, W, label)
        _check_routes(m, W, label)
        _check_invariances(m, value, W, label, generator)
    assert num_measured, f"{m.name} has a value on none of the matrices"


def _check_words(m: Metric) -> None:
    for part in ("formula", "source", "summary"):
        assert getattr(m, part), f"{m.name} states no {part}"
    needs = m.needs(m.parameters)
    assert needs and needs <= set(NEEDS), f"{m.name} has needs {sorted(needs)}"
    known = {"scale", "transpose", "orthogonal"}
    assert m.invariances <= known, f"{m.name} names {sorted(m.invariances - known)}"


def _check_degenerate(m: Metric) -> None:
    cases = {
        "zero": (torch.zeros(4, 3), "degenerate"),
        "empty": (torch.empty(0, 3), "degenerate"),
        "NaN": (torch.tensor([[1.0, math.nan]]), "nonfinite"),
        "infinite": (torch.tensor([[1.0, math.inf]]), "nonfinite"),
    }
    for label, (W, status) in cases.items():
        value = m(W)
        assert value.status == status, (
            f"{m.name} of a matrix that is {label} has status {value.status}, "
            f"not {status}"
        )
        assert value.reason, f"{m.name} of a matrix that is {label} gives no reason"
    if m.on_zero is not None and "scale" not in m.invariances:
        near = m(torch.full((4, 3), 1e-150, dtype=torch.float64)).value
        assert math.isclose(near, m.on_zero, abs_tol=1e-100), (
            f"{m.name} of a nearly zero matrix is {near}, promised {m.on_zero} at zero"
        )


def _check_enclosure(m: Metric, value: Value, W: Tensor, label: str) -> None:
    low, high = m.range(min(W.shape))
    where = f"{m.name} of {label} {tuple(W.shape)}"
    # The function itself: the metric clips, which would hide a wrong formula.
    raw = m.function(spectrum(W, NEEDS), **m.parameters).value
    assert low * (1 - 1e-9) <= raw <= high * (1 + 1e-9), (
        f"{where} = {raw} leaves its range [{low}, {high}]"
    )
    assert value.lower <= value.value <= value.upper, (
        f"{where}: {value.value} is not in [{value.lower}, {value.upper}]"
    )


def _check_routes(m: Metric, W: Tensor, label: str) -> None:
    cheap = m(spectrum(W, m.needs(m.parameters)))
    dense = m(spectrum(W, NEEDS))
    assert cheap.lower <= dense.upper and dense.lower <= cheap.upper, (
        f"{m.name} of {label} {tuple(W.shape)}: the enclosures of two routes, "
        f"[{cheap.lower}, {cheap.upper}] and [{dense.lower}, {dense.upper}], are apart"
    )


def _check_invariances(
    m: Metric, value: Value, W: Tensor, label: str, generator: torch.Generator
) -> None:
    variants: dict[str, Tensor] = {}
    if "scale" in m.invariances:
        variants |= {f"scale {c:g}": W * c for c in _SCALES}
    if "transpose" in m.invariances:
        variants["transpose"] = W.T
    if "orthogonal" in m.invariances:
        left, right = (_orthogonal(size, generator) for size in W.shape)
        variants["orthogonal"] = left @ W @ right
    for name, changed in variants.items():
        other = m(changed)
        close = math.isclose(value.value, other.value, rel_tol=1e-9, abs_tol=1e-9)
        overlap = value.lower <= other.upper and other.lower <= value.upper
        # Counts and distances may sit on an edge; then the enclosures must say so.
        assert close or overlap, (
            f"{m.name} of {label} {tuple(W.shape)} is not invariant under {name}: "
            f"{value.value} became {other.value}"
        )


def _matrices(generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    for shape in _SHAPES:
        k = min(shape)
        i = torch.arange(k, dtype=torch.float64)
        spectra = {
            "a flat spectrum": torch.ones(k, dtype=torch.float64),
            "a power law": (i + 1.0) ** -0.7,
            "a graded spectrum": 10.0 ** (-0.5 * i),
            "a gap": torch.where(i < (k + 1) // 2, 1.0, 1e-2).to(torch.float64),
            "rank one": (i == 0).to(torch.float64),
        }
        for label, sigma in spectra.items():
            left = _orthogonal(shape[0], generator)[:, :k]
            right = _orthogonal(shape[1], generator)[:, :k]
            yield label, (left * sigma) @ right.T


def _orthogonal(n: int, generator: torch.Generator) -> Tensor:
    gaussian = torch.randn(n, n, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    return torch.mul(q, r.diagonal().sign())
