"""`closeness`: verdicts on golden layers, and how often they are false."""

import math

import pytest
import torch
from closeness_layers import CHECKS, checks, draw, fill, seeded
from scipy.stats import binom
from sklearn.datasets import load_digits
from torch import nn

from spectrank.init.closeness import closeness

FRESH = {
    "He normal": fill(nn.init.kaiming_normal_),
    "LeCun normal": fill(nn.init.kaiming_normal_, nonlinearity="linear"),
    "Glorot normal": fill(nn.init.xavier_normal_),
    "Glorot uniform": fill(nn.init.xavier_uniform_),
    "He uniform": fill(nn.init.kaiming_uniform_),
    "PyTorch's default": lambda: nn.Linear(64, 96).weight.detach(),
    "normal of deviation 0.02": fill(nn.init.normal_, std=0.02),
}


@pytest.mark.parametrize("title", FRESH)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fresh_layer_is_called_by_the_name_of_its_initialisation(title, seed):
    first, second = checks(seeded(seed, FRESH[title]))
    assert (first["verdict"], first["state"]) == ("holds", "initial")
    assert f"still at its initialisation: {title}" in first["reason"]
    assert first["value"] > first["bound"] == 1e-3
    assert second["verdict"] == "holds"


def test_the_kernel_of_a_convolution_counts_in_its_fans():
    conv = seeded(1, lambda: nn.Conv2d(16, 32, 3))
    nn.init.xavier_normal_(conv.weight, generator=torch.Generator().manual_seed(5))
    table = closeness(conv)
    row = table.where(metric="at_initialisation").frame.row(0, named=True)
    # Fans 16 * 9 and 32 * 9: a linear layer of the same matrix would have 144 and 32.
    assert "Glorot normal" in row["reason"]
    assert (row["view"], row["m"], row["n"]) == ("conv-unfolded", 32, 144)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("m", "n"), [(96, 64), (64, 96), (64, 64)])
def test_an_orthogonal_layer_is_known_with_its_gain(dtype, m, n):
    W = seeded(1, fill(nn.init.orthogonal_, m, n, gain=math.sqrt(2)))
    first, second = checks(W.to(dtype))
    assert (first["verdict"], first["state"]) == ("holds", "orthogonal")
    assert "gain 1.414" in first["reason"]
    assert second["verdict"] == "not_applicable"


@pytest.mark.parametrize(
    ("spectrum", "state", "explained"),
    [
        ("flat", "flat", "violated"),
        ("spike", "spike", "violated"),
        ("mp-spike", "changed", "holds"),
        ("temper", "changed", "violated"),
        ("slice", "changed", "violated"),
        ("power", "changed", "violated"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ensembles_of_one_stable_rank_are_told_apart(spectrum, state, explained, seed):
    first, second = checks(draw(spectrum, 8, seed))
    assert (first["verdict"], first["state"]) == ("violated", state)
    assert second["verdict"] == explained
    assert second["state"] == {"holds": "noise", "violated": "structured"}[explained]


def test_a_stable_rank_is_said_to_be_below_or_above_the_fresh_one():
    below, _ = checks(draw("mp-spike", 8))
    assert "stable rank 8 is below the 20" in below["reason"]
    above, second = checks(draw("temper", 45))
    assert "stable rank 45 is above the 20" in above["reason"]
    assert second["verdict"] == "not_applicable"
    assert "no room for noise" in second["reason"]


@pytest.mark.parametrize(
    ("spectrum", "r", "verdict"),
    [
        ("spike", 21, "violated"),
        ("flat", 22, "violated"),
        ("slice", 22, "inconclusive"),
    ],
)
def test_few_draws_of_a_large_stable_rank_are_said_to_be_few(spectrum, r, verdict):
    # A fresh layer has 20.3 -/+ 0.7: at 22 there are 104 draws in effect, at 23 none.
    _, second = checks(draw(spectrum, r))
    assert second["verdict"] == verdict
    assert ("draws in effect are too few" in second["reason"]) == (
        verdict == "inconclusive"
    )


def test_a_right_stable_rank_with_a_wrong_participation_ratio_is_not_fresh():
    fresh = closeness({"w": torch.ones(96, 64)})
    r = fresh.value("w", "stable_rank", variant="gaussian")
    first, _ = checks(draw("power", r))
    assert first["verdict"] == "violated"
    assert "participation ratio" in first["reason"]


def test_another_variance_cannot_be_told_from_a_rescaled_layer():
    W = torch.randn(96, 64, generator=torch.Generator().manual_seed(2))
    first, second = checks(0.3 * W)
    assert (first["verdict"], first["state"]) == ("inconclusive", "unlisted scale")
    assert "deviation 0.29" in first["reason"]
    assert second["verdict"] == "holds"


def test_truncated_entries_have_the_spectrum_but_are_said_not_to_be_normal():
    W = seeded(4, lambda: nn.init.trunc_normal_(torch.empty(200, 150), a=-2, b=2))
    W *= math.sqrt(2 / 150) / 0.87962566
    first, _ = checks(W)
    assert first["verdict"] == "holds"
    assert "He normal" in first["reason"]
    assert "are not normal" in first["reason"]


def test_matrices_without_an_answer_say_why():
    inf, nan = math.inf, math.nan
    cases = {
        "the matrix is zero": torch.zeros(8, 8),
        "NaN entries": torch.tensor([[1.0, nan], [0.0, 1.0]]),
        "infinite entries": torch.tensor([[1.0, inf], [0.0, 1.0]]),
        "stable rank of a vector is 1": torch.ones(1, 64),
        "3 singular values": torch.randn(
            3, 9, generator=torch.Generator().manual_seed(0)
        ),
    }
    for reason, W in cases.items():
        first, second = checks(W)
        assert first["verdict"] == second["verdict"] == "not_applicable"
        assert reason in first["reason"]
        assert first["value"] is None


def test_a_matrix_of_rank_one_has_no_rest():
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(k, generator=generator, dtype=torch.float64) for k in (30, 40))
    first, second = checks(torch.outer(u, v))
    assert first["verdict"] == "violated"
    assert second["verdict"] == "not_applicable"
    assert "rank one" in second["reason"]


def test_what_is_no_weight_matrix_is_a_row_with_its_reason():
    table = closeness({"a": torch.ones(4, 4, dtype=torch.int64), "b": torch.eye(5)})
    row = table.where(subject="a").frame.row(0, named=True)
    assert (row["kind"], row["status"]) == ("skip", "skipped")
    assert "integer" in row["reason"]
    assert set(table.where(subject="b").frame["kind"]) == {"check", "measurement"}


LAWS = {
    "normal": lambda: nn.init.kaiming_normal_(torch.empty(24, 16)),
    "uniform": lambda: nn.Linear(16, 24).weight.detach(),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("level", "num"), [(0.05, 250), (1e-3, 250)])
def test_fresh_layers_fail_no_more_often_than_the_level(law, level, num):
    layers = seeded(9, lambda: {f"{i}.weight": LAWS[law]() for i in range(num)})
    table = closeness(layers, level=level, num_draws=1999)
    for metric in CHECKS:
        verdicts = table.where(metric=metric).frame["verdict"].to_list()
        alarms = sum(v in {"violated", "inconclusive"} for v in verdicts)
        # Uniform entries: the level to leading order, at 24 x 16 within a factor 2.
        rate = level if law == "normal" else 2 * level
        assert alarms <= binom.ppf(0.9999, num, rate)
        if metric == "at_initialisation":
            frame = table.where(metric=metric).frame
            held = (frame["value"] > frame["bound"]).to_list()
            assert held == [v == "holds" for v in verdicts]
        if level == 0.05:
            assert alarms >= binom.ppf(1e-4, num, 0.5 * level)


def test_a_trained_layer_is_told_from_its_start():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)

    def make():
        return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))

    model = seeded(0, make)
    before = closeness(model).where(metric="at_initialisation")
    assert set(before.frame["verdict"]) == {"holds"}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    table = closeness(model)
    after = table.where(metric="at_initialisation").frame
    assert after["verdict"][0] == "violated"
    assert "below" in after["reason"][0]
    # 10 x 48 entries that all grew still look independent, of no listed scale.
    assert after["verdict"][1] != "holds"
    explained = table.where(metric="explained_by_stable_rank").frame
    assert explained["verdict"][0] == "violated"
