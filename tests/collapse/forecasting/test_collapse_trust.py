"""Limits of trust, on mixtures that did not fix them."""

import math

import pytest
import torch
from torch import nn

from spectrank.collapse.forecasting import forecast, minimise
from spectrank.collapse.forecasting.trust import (
    ERROR_PER_SHARE,
    SHARE_LIMIT,
    SPREAD_LIMIT,
    trust,
)
from spectrank.experiments.data.digits import load_digits
from spectrank.experiments.data.mixtures import gaussian_mixture


def judged(share, spread=0.001, *, worst_spread=0.01, num_starts=3):
    return trust(share, spread, worst_spread=worst_spread, num_starts=num_starts)


def test_both_limits_must_hold():
    good = judged(0.2)
    assert good.verdict == "holds"
    assert good.error == pytest.approx(0.3 * 0.2 + 0.001)
    for verdict, reason in (
        (judged(0.31), "variation within classes"),
        (judged(0.2, worst_spread=0.021), "another basin"),
        (judged(0.2, num_starts=1), "ask for seeds=3"),
        (judged(math.nan), "layer is zero"),
        (judged(None), "no parameter of its own"),
        (judged(0.2, worst_spread=math.nan), "another basin"),
    ):
        assert verdict.verdict == "not_applicable"
        assert reason in verdict.reason
    assert judged(SHARE_LIMIT, worst_spread=SPREAD_LIMIT).verdict == "holds"


def test_every_fault_is_named():
    both = judged(2.0, worst_spread=0.5)
    assert "variation within classes" in both.reason
    assert "another basin" in both.reason


def net(seed: int, inputs: int = 12, classes: int = 4) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(
        nn.Linear(inputs, 16),
        nn.Tanh(),
        nn.Linear(16, 16),
        nn.Tanh(),
        nn.Linear(16, classes),
    ).double()
    with torch.no_grad():
        for p in made.parameters():
            bound = 1 / math.sqrt(p.shape[-1])
            p.uniform_(-bound, bound, generator=generator)
    return made


def compare(noise: float, weight_decay: float, seed: int):
    """Verdicts, estimates, true errors and true ranks of the three weights."""
    data = gaussian_mixture(
        100,
        num_classes=4,
        clusters_per_class=1,
        dimension=12,
        centre_norm=2.0,
        noise=noise,
        seed=seed,
    )
    x, labels = data.inputs.double(), data.labels
    return judge(net(seed), x, labels, weight_decay)


def judge(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, weight_decay: float):
    table = forecast(model, [(x, labels)], weight_decay=weight_decay, seeds=3)
    full = minimise(model, x, labels, weight_decay=weight_decay, tolerance=1e-8)
    assert full.status == "ok"
    rows = []
    for name, p in full.model.named_parameters():
        if p.ndim != 2:
            continue
        sigma = torch.linalg.svdvals(p.detach())
        of = table.where(subject=name)
        guess = torch.tensor(
            of.where(variant="forecast").frame["values"][0].to_list(),
            dtype=torch.float64,
        )
        rows.append(
            {
                "verdict": of.where(metric="forecast_trust").frame["verdict"][0],
                "share": of.where(metric="forecast_trust").frame["value"][0],
                "estimate": table.value(name, "forecast_error"),
                "error": float((guess - sigma).norm() / sigma.norm()),
                "range": of.where(metric="numerical_rank")
                .frame.select("lower", "upper")
                .row(0),
                "starts": [
                    sum(v > 1e-2 * values[0] for v in values)
                    for values in of.where(variant="start").frame["values"].to_list()
                ],
                "forecast rank": table.value(name, "numerical_rank"),
                "rank": int((sigma > 1e-2 * sigma[0]).sum()),
            }
        )
    return rows


def test_a_trusted_forecast_has_the_rank_and_every_one_the_error_it_states():
    rows = [row for seed in (21, 22, 23) for row in compare(0.1, 3e-3, seed)]
    trusted = [row for row in rows if row["verdict"] == "holds"]
    assert len(trusted) >= 3
    for row in trusted:
        assert row["rank"] == row["forecast rank"] == 3
    for row in rows:
        assert row["share"] < SHARE_LIMIT
        assert row["error"] <= row["estimate"]
        assert row["range"] == (min(row["starts"]), max(row["starts"]))
    # One redraw ends below the model's own start, which the forecast follows.
    assert any(row["range"][0] < row["forecast rank"] for row in rows)


def test_starts_that_disagree_take_the_trust_away_where_training_ends_elsewhere():
    # Near the decay at which the rank falls from 3 to 2 both are local minima.
    for row in compare(0.1, 1e-2, 21)[:2]:
        assert row["verdict"] == "not_applicable"
        assert row["share"] < SHARE_LIMIT
        assert (row["forecast rank"], row["rank"]) == (2, 3)
        assert row["range"] == (min(row["starts"]), max(row["starts"])) == (2, 3)
        assert row["error"] <= row["estimate"]


def test_noise_takes_the_trust_away_and_the_first_layer_has_a_higher_rank():
    first, *_ = compare(1.0, 2e-2, 21)
    assert first["verdict"] == "not_applicable"
    assert first["share"] > SHARE_LIMIT
    assert first["rank"] > first["forecast rank"]
    # Beyond the limit the estimate says at least that the values are off.
    assert first["error"] > ERROR_PER_SHARE * SHARE_LIMIT


def test_the_limits_hold_on_digits_which_did_not_fix_them():
    data = load_digits("train")
    kept = data.labels < 3
    x, labels = data.rows(dtype=torch.float64)[kept], data.labels[kept]
    strong = judge(net(31, 64, 3), x, labels, 0.1)
    trusted = [row for row in strong if row["verdict"] == "holds"]
    assert trusted, "a strong decay holds the variation within classes back"
    for row in strong:
        assert row["rank"] == row["forecast rank"] == 2
        assert row["error"] <= row["estimate"]
