"""What moved between two checkpoints, against NumPy and SciPy."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

import spectrank as sr
from spectrank.errors import DomainError, UnknownNameError
from spectrank.scanning import Gate, compare


def _pair(seed, shape=(30, 20), size=0.1):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(*shape, generator=g, dtype=torch.float64)
    D = torch.randn(shape[0], 2, generator=g, dtype=torch.float64) @ torch.randn(
        2, shape[1], generator=g, dtype=torch.float64
    )
    return A, A + size * D


def _row(table, metric, **keys):
    (row,) = list(table.where(metric=metric, **keys))
    return row


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25)])
def test_distances_are_those_of_numpy(shape):
    A, B = _pair(0, shape)
    table = compare({"w": A}, {"w": B}, top=3)
    a, b = A.numpy(), B.numpy()
    d = b - a
    change = _row(table, "relative_change")
    assert change["value"] == pytest.approx(
        np.linalg.norm(d) / np.linalg.norm(a), rel=1e-13
    )
    assert change["lower"] <= change["value"] <= change["upper"]
    cosine = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert _row(table, "cosine")["value"] == pytest.approx(cosine, rel=1e-13)
    stable = {
        run: np.linalg.norm(x) ** 2 / np.linalg.norm(x, 2) ** 2
        for run, x in (("before", a), ("after", b), ("difference", d))
    }
    for run, truth in stable.items():
        value = _row(table, "stable_rank", run=run)["value"]
        assert value == pytest.approx(truth, rel=1e-10)
    change = _row(table, "stable_rank", run="change")
    truth = stable["after"] - stable["before"]
    assert change["value"] == pytest.approx(truth, abs=1e-9)
    assert change["lower"] <= truth <= change["upper"]
    shift = np.abs(
        np.linalg.svd(a, compute_uv=False) - np.linalg.svd(b, compute_uv=False)
    ).max()
    check = _row(table, "singular_value_displacement")
    assert check["value"] == pytest.approx(shift, rel=1e-10)
    assert check["bound"] == pytest.approx(np.linalg.norm(d, 2), rel=1e-4)
    assert check["verdict"] == "holds"


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
@pytest.mark.parametrize("k", [1, 4])
def test_subspaces_are_those_of_a_dense_svd(shape, k):
    A, B = _pair(1, shape)
    table = compare({"w": A}, {"w": B}, top=k)
    U, s, Vt = np.linalg.svd(A.numpy())
    P, t, Qt = np.linalg.svd(B.numpy())
    for side, X, Y in (
        ("left", U[:, :k], P[:, :k]),
        ("right", Vt[:k].T, Qt[:k].T),
    ):
        variant = f"{side},k={k}"
        overlap = (np.linalg.svd(X.T @ Y, compute_uv=False) ** 2).mean()
        row = _row(table, "subspace_overlap", variant=variant, run="random")
        assert row["value"] == k / len(X)
        row = _row(table, "subspace_overlap", variant=variant, run="difference")
        assert row["value"] == pytest.approx(overlap, abs=1e-11)
        assert row["lower"] <= overlap <= row["upper"]
        angle = scipy.linalg.subspace_angles(X, Y)[0]
        row = _row(table, "largest_angle", variant=variant)
        assert row["value"] == pytest.approx(angle, abs=1e-10)
        check = _row(table, "largest_sine", variant=variant)
        gap = s[k - 1] - t[k]
        bound = np.linalg.norm((B - A).numpy(), 2) / gap
        assert check["bound"] == pytest.approx(bound, rel=1e-4)
        assert check["verdict"] == ("vacuous" if bound >= 1.0 else "holds")


def test_wedin_s_bound_is_reached_by_a_turned_plane():
    # diag(1, 0) turned by t: the sine is sin t, the bound tends to it as t to 0.
    t = 1e-3
    turn = torch.tensor([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
    A = torch.diag(torch.tensor([1.0, 0.0])).double()
    table = compare({"w": A}, {"w": turn.double() @ A}, top=1)
    check = _row(table, "largest_sine", variant="left,k=1")
    assert check["value"] == pytest.approx(math.sin(t), rel=1e-6)
    assert check["verdict"] == "holds"
    assert check["bound"] == pytest.approx(2 * math.sin(t / 2), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e20, 1e150])
def test_directions_do_not_depend_on_the_scale(scale):
    A, B = _pair(2)
    plain = compare({"w": A}, {"w": B}, top=3)
    scaled = compare({"w": scale * A}, {"w": scale * B}, top=3)
    for metric in ("relative_change", "cosine"):
        assert _row(scaled, metric)["value"] == pytest.approx(
            _row(plain, metric)["value"], rel=1e-12
        )
    row = _row(scaled, "subspace_overlap", variant="left,k=3", run="difference")
    truth = _row(plain, "subspace_overlap", variant="left,k=3", run="difference")[
        "value"
    ]
    assert row["value"] == pytest.approx(truth, rel=1e-10)


def test_tied_directions_are_said_to_be_tied():
    table = compare({"w": torch.eye(6)}, {"w": torch.eye(6) + 1e-3}, top=3)
    row = _row(table, "subspace_overlap", variant="left,k=3", run="difference")
    assert row["status"] == "degenerate"
    assert row["lower"] == 0.0
    assert "tied" in row["reason"]


def test_what_did_not_move_is_identical_and_the_rest_is_ranked():
    A, B = _pair(3)
    _, C = _pair(3, size=1.0)
    zero = torch.zeros(4, 4)
    table = compare(
        {"a": A, "b": A.clone(), "c": A.clone(), "z": zero},
        {"a": A, "b": C, "c": B, "z": zero},
    )
    places = {
        row["subject"]: row["place"] for row in table.where(metric="relative_change")
    }
    assert places == {"b": 1, "c": 2, "a": 3, "z": 4}
    for name in ("a", "z"):
        row = _row(table, "relative_change", subject=name)
        assert row["value"] == row["upper"] == 0.0
        assert "identical" in row["reason"]
    assert _row(table, "cosine", subject="a")["value"] == pytest.approx(1.0, abs=1e-14)
    # Of a difference that is zero there is nothing to say.
    assert len(table.where(subject="a", metric="stable_rank", run="difference")) == 0
    assert len(table.where(subject="a", kind="check")) == 0
    assert _row(table, "stable_rank", subject="a", run="change")["value"] == 0.0


def test_a_layer_in_two_factors_is_compared_by_its_product():
    A, _ = _pair(4)
    U, s, Vt = torch.linalg.svd(A, full_matrices=False)
    k = 5
    after = {"fc.0.weight": Vt[:k], "fc.1.weight": U[:, :k] * s[:k]}
    table = compare({"fc.weight": A}, after)
    # Eckart-Young: the difference is the tail of the spectrum.
    change = _row(table, "relative_change")
    assert change["value"] == pytest.approx(float(s[k:].norm() / s.norm()), rel=1e-12)
    assert change["partner"] == "fc.1.weight @ fc.0.weight"
    assert len(table.where(kind="skip")) == 0
    rank = _row(
        compare({"fc.weight": A}, after, metrics="numerical_rank"),
        "numerical_rank",
        run="after",
    )
    assert rank["value"] == k


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_an_adapter_is_compared_by_what_it_adds(prefix):
    g = torch.Generator().manual_seed(0)
    W = torch.randn(24, 32, generator=g)
    A, B = torch.randn(4, 32, generator=g), torch.randn(24, 4, generator=g)
    pair = {f"{prefix}q.lora_A.weight": A, f"{prefix}q.lora_B.weight": B}
    table = compare({"q.weight": W}, pair)
    change = _row(table, "relative_change")
    truth = float((B @ A).norm() / W.norm())
    assert change["value"] == pytest.approx(truth, rel=1e-5)
    assert change["partner"].startswith("q.weight + ")
    rank = sr.metrics.stable_rank((B @ A).double()).value
    row = _row(table, "stable_rank", run="difference")
    assert row["value"] == pytest.approx(rank, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1e-3, 1e-12, 1e-30])
def test_an_update_far_below_the_precision_of_its_base_is_measured(dtype, scale):
    g = torch.Generator().manual_seed(1)
    W = torch.randn(64, 48, generator=g).to(dtype)
    A, B = torch.randn(4, 48, generator=g), scale * torch.randn(64, 4, generator=g)
    table = compare(
        {"q.weight": W}, {"q.lora_A.weight": A, "q.lora_B.weight": B}, spectra=False
    )
    D = B.double().numpy() @ A.double().numpy()
    sigma = np.linalg.svd(D, compute_uv=False)
    expected = {
        "frobenius_norm": np.linalg.norm(D),
        "stable_rank": float((sigma**2).sum() / sigma[0] ** 2),
    }
    for metric, value in expected.items():
        row = _row(table, metric, run="difference")
        assert row["value"] == pytest.approx(value, rel=1e-6)
    change = _row(table, "relative_change")
    truth = np.linalg.norm(D) / np.linalg.norm(W.double().numpy())
    assert change["value"] == pytest.approx(truth, rel=1e-6)
    assert not change["reason"]


@pytest.mark.parametrize(
    "name", ["lora_magnitude_vector", "lora_magnitude_vector.weight"]
)
def test_a_rescaling_adapter_is_not_taken_for_a_sum(name):
    pair = {
        "base_model.model.q.lora_A.weight": torch.randn(4, 32),
        "base_model.model.q.lora_B.weight": torch.randn(24, 4),
        f"base_model.model.q.{name}": torch.ones(24),
        "base_model.model.k.lora_A.weight": torch.randn(4, 32),
        "base_model.model.k.lora_B.weight": torch.randn(24, 4),
    }
    both = {"q.weight": torch.randn(24, 32), "k.weight": torch.randn(24, 32)}
    table = compare(both, pair)
    assert set(table.where(metric="relative_change").frame["subject"]) == {"k.weight"}
    (skip,) = table.where(kind="skip").frame.iter_rows(named=True)
    assert skip["subject"] == "q.weight"
    assert "DoRA" in skip["reason"]


def test_an_adapter_of_an_embedding_is_compared_with_it():
    g = torch.Generator().manual_seed(2)
    W = torch.randn(50, 12, generator=g)
    A, B = torch.randn(3, 50, generator=g), torch.randn(12, 3, generator=g)
    names = (
        "base_model.model.emb.lora_embedding_A",
        "base_model.model.emb.lora_embedding_B",
    )
    table = compare({"emb.weight": W}, dict(zip(names, (A, B), strict=True)))
    truth = float((B @ A).norm() / W.norm())
    assert _row(table, "relative_change")["value"] == pytest.approx(truth, rel=1e-6)


def test_empty_matrices_have_a_status():
    table = compare({"w": torch.zeros(0, 4)}, {"w": torch.zeros(0, 4)})
    assert _row(table, "cosine")["status"] == "degenerate"


def test_every_matrix_without_a_partner_is_named():
    A, B = _pair(5)
    table = compare(
        {"a": A, "b": A.clone(), "shape": A.clone(), "tied": A},
        {"a": B, "c": B.clone(), "shape": torch.ones(3, 3), "tied": B.clone()},
    )
    reasons = {row["subject"]: row["reason"] for row in table.where(kind="skip")}
    assert reasons == {
        "b": "only in the first source",
        "c": "only in the second source",
        "shape": "(30, 20) in the first source, (3, 3) in the second",
        "tied": "only in the second source (in the first: tied to a)",
    }


def test_what_was_not_selected_is_not_said_to_be_missing():
    A, B = _pair(5)
    both = {"a": A, "b": A.clone()}
    table = compare(both, {"a": B, "b": B.clone(), "a2": B.clone()}, select="a*")
    assert {row["subject"] for row in table.where(kind="skip")} == {"a2"}
    with pytest.raises(DomainError, match="the first has none: bias or scale vector"):
        compare({"a": torch.ones(3)}, {"a": torch.ones(3)})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_the_prefix_of_a_wrapper_is_taken_off_or_put_before(prefix):
    A, B = _pair(6)
    plain, wrapped = {"x.weight": A}, {prefix + "x.weight": B}
    table = compare(plain, wrapped)
    assert table.provenance["prefix"] == prefix
    assert _row(table, "relative_change")["partner"] == prefix + "x.weight"
    assert compare(wrapped, plain).provenance["prefix"] == "+" + prefix


def test_names_are_mapped_by_their_beginning():
    A, B = _pair(7)
    table = compare(
        {"old.x.weight": A, "y": A.clone()},
        {"new.x.weight": B, "y": B.clone()},
        rename={"new.": "old."},
    )
    assert len(table.where(metric="relative_change")) == 2
    with pytest.raises(DomainError, match=r"'nex\.' starts none"):
        compare({"a": A}, {"a": B}, rename={"nex.": ""})
    with pytest.raises(DomainError, match="have no name and shape in common"):
        compare({"a": A}, {"b": B})
    with pytest.raises(DomainError, match="top is a whole number from 1, got 0"):
        compare({"a": A}, {"a": B}, top=0)


def test_nan_is_a_status_and_moves_nothing_else():
    A, B = _pair(8)
    nan = torch.full((3, 3), math.nan)
    table = compare({"a": A, "n": torch.ones(3, 3)}, {"a": B, "n": nan})
    row = _row(table, "relative_change", subject="n")
    assert row["status"] == "nonfinite"
    assert row["place"] is None
    assert _row(table, "relative_change", subject="a")["place"] == 1


def test_neither_source_is_changed():
    A, B = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4)
    kept = [p.detach().clone() for m in (A, B) for p in m.parameters()]
    compare(A, B)
    now = [p.detach() for m in (A, B) for p in m.parameters()]
    assert all(map(torch.equal, kept, now))
    assert all(p.grad is None for m in (A, B) for p in m.parameters())


def test_gates_look_at_changes_of_chosen_matrices():
    A, B = _pair(9)
    table = compare({"mlp.a": A, "att.a": A.clone()}, {"mlp.a": B, "att.a": A}, top=2)
    assert len(Gate.parse("relative_change>0.01").failures(table)) == 1
    assert Gate.parse("att.*:relative_change>0.01").failures(table) == []
    (line,) = Gate.parse("mlp.*:stable_rank.change<1e9").failures(table)
    assert line.startswith("mlp.a: stable_rank.change = ")
    both = Gate.parse("subspace_overlap<1.1").failures(table)
    assert len(both) == 2
    assert len(Gate.parse("subspace_overlap[left]<1.1").failures(table)) == 1
    with pytest.raises(UnknownNameError, match=r"rows of relative_change of conv\.\*"):
        Gate.parse("conv.*:relative_change>0").failures(table)
    with pytest.raises(DomainError, match="before, after, change, difference"):
        Gate.parse("stable_rank.chnge<1")


def test_a_comparison_survives_a_file(tmp_path):
    A, B = _pair(10)
    for name, W in (("a", A), ("b", B)):
        torch.save({"w": W}, tmp_path / f"{name}.pt")
    table = compare(tmp_path / "a.pt", tmp_path / "b.pt")
    table.write(tmp_path / "c.parquet")
    again = sr.Table.read(tmp_path / "c.parquet")
    assert again.frame.equals(table.frame)
    assert again.provenance["before"]["input"].endswith("a.pt")
    assert again.provenance["before"]["input_hash"] != again.provenance["input_hash"]
