"""`closeness`: the numbers of its rows, what it leaves alone and refuses."""

import json
import math
from dataclasses import replace

import pytest
import torch
from closeness_layers import draw, seeded
from safetensors.torch import save_file
from torch import nn

import spectrank as sr
from spectrank.errors import ArgumentTypeError, CheckpointError, DomainError
from spectrank.init.closeness import closeness, report
from spectrank.linalg import ensemble


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
        ({"select": 3}, ArgumentTypeError, "select is .*got 3"),
        (
            {"views": ["linear"]},
            ArgumentTypeError,
            r"views maps patterns.*got \['linear'\] of type list",
        ),
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
