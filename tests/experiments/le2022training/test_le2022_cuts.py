"""Cut laws by their rate, by sums written out, and each claim on its own numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.conservation import cuts, followed
from spectrank.experiments.le2022training.conservation.followed import FollowedSize
from spectrank.experiments.le2022training.problems import gaussian, separable, slope

CASES = cuts.cases()


def rates(case, quantity):
    """d/dt of a quadratic quantity: its central difference, exact but for rounding."""
    labels = ("cut rates", case.name)
    data = separable(11, labels, 3, 8, 12)
    params = gaussian(11, labels, 3, case.shapes)
    found = slope(replace(data, forward=case.forward), params).of_risk()
    step = 1e-5
    ahead = {k: v - step * found[k] for k, v in params.items()}
    behind = {k: v + step * found[k] for k, v in params.items()}
    return (quantity.of(ahead) - quantity.of(behind)) / (2 * step)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_cuts_have_rate_zero_and_what_is_no_cut_has_not(case):
    for quantity in case.quantities:
        if quantity.name.startswith("skips-signs"):
            continue
        rate = float(rates(case, quantity).abs().max())
        if quantity.conserved:
            assert rate < 1e-9, quantity.name
        else:
            assert rate > 1e-4, quantity.name


def test_the_dense_skips_and_their_cuts_are_those_written_out():
    case = next(case for case in CASES if case.name == "dense-skips-relu")
    p = gaussian(3, ("written out",), 1, case.shapes)
    x = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 2, 8)
    w = {k: v[0].numpy() for k, v in p.items()}
    for i, sample in enumerate(x[0].numpy()):
        h = np.maximum(w["a.weight"] @ sample + w["a.bias"], 0)
        g = np.maximum(w["b.weight"] @ h + w["c.weight"] @ sample + w["b.bias"], 0)
        f = w["v.weight"] @ g + w["u.weight"] @ h
        assert float(case.forward(p, x)[0, i]) == pytest.approx(float(f[0]), rel=1e-12)
    square = {k: float((v**2).sum()) for k, v in w.items()}
    first, last, naive, _ = (float(q.of(p).reshape(-1)[0]) for q in case.quantities)
    a, b = square["a.weight"] + square["a.bias"], square["b.weight"]
    assert first == pytest.approx(a - b - square["u.weight"])
    bypass = square["c.weight"] + square["b.bias"]
    assert last == pytest.approx(b + bypass - square["v.weight"])
    assert naive == pytest.approx(square["a.weight"] - b)


def test_drifts_are_those_of_a_loop_of_small_euler_steps():
    # One sample of f = a b x, in plain floats.
    def forward(params, x):
        return (params["a.weight"] * params["b.weight"])[:, :, 0] * x[..., 0]

    of = followed.Quantity
    case = followed.Case(
        "loop",
        "f = a b x",
        {"a.weight": (1, 1), "b.weight": (1, 1)},
        forward,
        (
            of("kept", "", lambda p: followed.squares(p, ["a.weight"]), True, 0.0),
            of(
                "moved",
                "",
                lambda p: torch.cat(
                    [p["a.weight"] * p["b.weight"], 0 * p["a.weight"]], 2
                ),
                True,
                0.0,
            ),
        ),
    )
    size = FollowedSize(2, num_samples=1, num_inputs=1, step=0.01, times=(0.5, 1.0))
    found = followed.drifts("loop", case, size, 4)
    labels = ("loop", "loop")
    data, start = separable(4, labels, 2, 1, 1), gaussian(4, labels, 2, case.shapes)
    for r in range(2):
        a, b = (float(start[k][r]) for k in ("a.weight", "b.weight"))
        y = float(data.labels[r, 0] * data.inputs[r, 0, 0])
        now = [a, b]
        for step in range(100_000):
            push = y / (1 + math.exp(y * now[0] * now[1])) * 1e-5
            now = [now[0] + push * now[1], now[1] + push * now[0]]
            if step + 1 == 50_000:
                assert found[r, 0, 0] == pytest.approx(abs(now[0] ** 2 - a**2), 1e-4)
        assert found[r, 0, 1] == pytest.approx(abs(now[0] ** 2 - a**2), rel=1e-4)
        assert found[r, 1, 1] == pytest.approx(abs(now[0] * now[1] - a * b), rel=1e-4)


def test_every_claim_on_cuts_reads_its_own_drift():
    size = FollowedSize(5)
    asked = followed.questions(cuts.NAME, CASES, size)
    quantities = [quantity for case in CASES for quantity in case.quantities]
    names = [question.claim.key.split(".")[-1] for question in asked]
    assert names == [quantity.name for quantity in quantities]
    assert len(set(names)) == len(names)
    y = np.empty((5, len(asked), len(size.times)))
    for k, quantity in enumerate(quantities):
        y[:, k] = 1e-8 if quantity.conserved else 2.0
    y *= 1.0 + 0.1 * np.arange(5)[:, None, None]
    for k, question in enumerate(asked):
        assert question.rows(y, 0)[0]["verdict"] == "reproduced"
        spoiled = y.copy()
        if quantities[k].conserved:
            spoiled[:, k, 1] = 0.3
        else:
            spoiled[:, k] = 1e-8
        verdicts = [other.rows(spoiled, 0)[0]["verdict"] for other in asked]
        assert verdicts.index("contradicted") == k
        assert verdicts.count("reproduced") == len(asked) - 1
