"""`closeness`: golden layers, false alarms, and what it leaves alone."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binom
from sklearn.datasets import load_digits
from torch import nn

import spectrank as sr
from spectrank.errors import ArgumentTypeError, CheckpointError, DomainError
from spectrank.init.closeness import closeness, report
from spectrank.linalg import ensemble

CHECKS = ("at_initialisation", "explained_by_stable_rank")


def seeded(seed, make):
    """What a function of torch's global generator makes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def checks(W, name="fc.weight", **options):
    """The two check rows of one matrix."""
    table = closeness({name: W}, **options)
    return [table.where(metric=metric).frame.row(0, named=True) for metric in CHECKS]


def fill(init, m=96, n=64, **options):
    return lambda: init(torch.empty(m, n), **options)


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


def draw(spectrum, r, seed=0, m=96, n=64):
    generator = torch.Generator().manual_seed(seed)
    law = ensemble(m, n, stable_rank=r, spectrum=spectrum)
    return law.sample(generator, frobenius_norm=math.sqrt(2 * m))


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


def test_the_numbers_of_a_row_are_those_of_its_reference():
    m, n = 48, 32
    W = torch.randn(m, n, generator=torch.Generator().manual_seed(1)).double()
    table = closeness({"w": W}, num_draws=9999)
    s = torch.linalg.svdvals(W)
    r, ratio = float((s**2).sum() / s[0] ** 2), float((s**2).sum() ** 2 / (s**4).sum())
    assert table.value("w", "stable_rank") == pytest.approx(r, rel=1e-4)
    assert table.value("w", "participation_ratio") == pytest.approx(ratio, rel=1e-8)
    assert table.value("w", "stable_rank", variant="orthogonal") == 32.0
    for name in ("flat", "spike"):
        exact = ensemble(m, n, stable_rank=r, spectrum=name).participation_ratio
        found = table.value("w", "participation_ratio", variant=name)
        assert found == pytest.approx(exact, rel=1e-4)
    generator = torch.Generator().manual_seed(8)
    G = torch.randn(4000, m, n, generator=generator, dtype=torch.float64)
    t = torch.linalg.svdvals(G)
    ours = {
        ("stable_rank", "gaussian"): (t**2).sum(1) / t[:, 0] ** 2,
        ("participation_ratio", "gaussian"): (t**2).sum(1) ** 2 / (t**4).sum(1),
        ("spectral_norm", "he-normal"): t[:, 0] * math.sqrt(2 / n),
        ("spectral_norm", "glorot-normal"): t[:, 0] * math.sqrt(2 / (m + n)),
        ("frobenius_norm", "lecun-normal"): G.flatten(1).norm(dim=1) * math.sqrt(1 / n),
    }
    measured = {row["metric"]: row["value"] for row in table.where(variant=None)}
    for (metric, variant), values in ours.items():
        row = table.where(metric=metric, variant=variant).frame.row(0, named=True)
        error = math.hypot(float(values.std()) / 4000**0.5, row["standard_error"] or 0)
        # The root of E ||W||^2 is above E ||W|| by 1 / (4mn) of it.
        assert (
            abs(row["value"] - float(values.mean())) <= 4 * error + 2e-4 * row["value"]
        )
        assert row["deviation"] == pytest.approx(float(values.std()), rel=0.06)
        z = (measured[metric] - row["value"]) / row["deviation"]
        assert row["z_score"] == pytest.approx(z, rel=1e-3)
    half = row["upper"] - row["value"]
    assert half == pytest.approx(4 * (row["standard_error"] or 0.0))


def test_the_conditioned_row_of_a_spiked_matrix_is_the_law_it_was_drawn_from():
    r, m, n = 6.0, 60, 50
    law = ensemble(m, n, stable_rank=r, spectrum="mp-spike")
    table = closeness({"w": draw("mp-spike", r, 3, m, n)})
    row = table.where(metric="participation_ratio", variant="conditioned")
    row = row.frame.row(0, named=True)
    assert row["value"] == pytest.approx(law.participation_ratio, rel=2e-3)
    assert abs(row["z_score"]) < 4
    rest = table.where(metric="rest_distance_to_noise", variant="gaussian")
    assert abs(rest.frame["z_score"][0]) < 4
    odd = closeness({"w": draw("power", r, 3, m, n)})
    rest = odd.where(metric="rest_distance_to_noise", variant="gaussian")
    assert rest.frame["z_score"][0] > 20


def test_a_row_does_not_depend_on_the_rest_of_the_model_nor_on_the_order():
    a = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    b = torch.randn(12, 30, generator=torch.Generator().manual_seed(1))
    both = closeness({"b": b, "a": a})
    alone = closeness({"a": a})
    assert both.where(subject="a").frame.equals(alone.frame)
    assert closeness({"a": a}).frame.equals(alone.frame)
    assert not closeness({"a": a}, seed=1).frame.equals(alone.frame)


def test_scale_free_numbers_do_not_move_with_the_scale():
    W = torch.randn(20, 12, generator=torch.Generator().manual_seed(0)).double()
    one, huge = (closeness({"w": c * W}) for c in (1.0, 1e150))
    for metric in ("rest_stable_rank", "rest_distance_to_noise"):
        left, right = (t.where(metric=metric, variant=None) for t in (one, huge))
        assert left.frame["value"][0] == pytest.approx(right.frame["value"][0])
    assert huge.where(metric="at_initialisation").frame["verdict"][0] == "inconclusive"


def test_norms_alone_give_the_same_verdict_on_the_initialisation(monkeypatch):
    def norms_only(W, needs, **options):
        assert "sigma" not in needs
        return replace(sr.spectrum(W, needs, **options), sigma=None, sigma_error=None)

    W = torch.randn(70, 60, generator=torch.Generator().manual_seed(0)) / 30**0.5
    full = closeness({"w": W})
    monkeypatch.setattr(report, "spectrum", norms_only)
    norms = closeness({"w": W}, bulk=False)
    for table in (full, norms):
        assert table.where(kind="check").frame["verdict"].to_list() == ["holds"] * 2
    first, again = (t.where(metric="at_initialisation").frame for t in (full, norms))
    assert first.equals(again)
    assert len(full.where(metric="rest_stable_rank")) == 2
    assert not len(norms.where(metric="rest_stable_rank"))
    assert not len(norms.where(metric="rest_distance_to_noise"))
    assert len(norms.where(metric="rest_participation_ratio")) == 2
    power = closeness({"w": draw("power", 8)}, bulk=False)
    verdicts = power.where(kind="check").frame["verdict"].to_list()
    assert verdicts == ["violated", "violated"]


def test_the_model_and_the_random_state_are_left_as_they_were():
    model = seeded(
        0, lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    ).double()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    closeness(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_file_is_read_matrix_by_matrix_and_recorded(tmp_path):
    path = tmp_path / "m.safetensors"
    W = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    save_file({"a.weight": W, "b.weight": W.T.contiguous()}, path)
    seen = []
    table = closeness(path, select="a.*", progress=lambda *step: seen.append(step))
    assert seen == [("a.weight", 0, 1)]
    assert table.where(subject="a.weight").frame.equals(
        closeness({"a.weight": W}).frame
    )
    provenance = json.loads(json.dumps(dict(table.provenance)))
    assert provenance["input"] == str(path)
    assert provenance["input_hash"].startswith("sha256:")
    assert provenance["settings"]["num_draws"] == 1999
    assert provenance["settings"]["select"] == ["a.*"]
    copy = tmp_path / "t.parquet"
    table.write(copy)
    assert sr.Table.read(copy).frame.equals(table.frame)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"level": 0.0}, DomainError, "level must lie"),
        ({"level": 0.7}, DomainError, "level must lie"),
        ({"level": "low"}, ArgumentTypeError, "level is a probability"),
        ({"num_draws": 100}, DomainError, "at least 1999 draws, got 100"),
        ({"num_draws": 1e4}, ArgumentTypeError, "num_draws is a whole number"),
        ({"select": 3}, ArgumentTypeError, "select is a pattern.*got int"),
        ({"views": ["linear"]}, ArgumentTypeError, "views maps patterns.*got list"),
        ({"select": "nothing.*"}, DomainError, "'nothing.*' matches none"),
        ({"views": {"x": "linear"}}, DomainError, "'x' matches none"),
    ],
)
def test_a_bad_request_is_refused_with_a_way_out(options, error, message):
    with pytest.raises(error, match=message) as caught:
        closeness({"w": torch.eye(8)}, **options)
    assert ";" in str(caught.value)


def test_draws_that_do_not_fit_in_memory_are_refused_before_any_is_made():
    # 1 999 999 draws of 16 * 4096 bytes; the matrix itself takes four bytes.
    wide = torch.ones(1, 1).expand(4096, 8192)
    with pytest.raises(DomainError, match=r"1999999 for w of 4096 x 8192, 122 GiB; r"):
        closeness({"v": torch.eye(3), "w": wide}, level=1e-6)


def test_a_source_without_tensors_or_a_bad_file_is_refused(tmp_path):
    with pytest.raises(DomainError, match="without any"):
        closeness({})
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"no header")
    with pytest.raises(CheckpointError):
        closeness(path)
