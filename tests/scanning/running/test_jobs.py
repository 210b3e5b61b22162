"""What is measured together, and that nobody can tell from the numbers."""

import pytest
import torch
from torch import nn

import spectrank as sr
from spectrank.linalg.implicit import FactorProduct
from spectrank.model import iter_weights
from spectrank.scanning.measure import Settings
from spectrank.scanning.running import jobs
from spectrank.scanning.running.jobs import plan_jobs

CPU = torch.device("cpu")


def source():
    generator = torch.Generator().manual_seed(7)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "large": random(200, 180),
        "small": random(40, 30),
        "twin": random(200, 180),
        "bias": random(30),
        "second": random(40, 30).double(),
        "wide": random(30, 40),
        "flat": torch.outer(random(200), random(180)),
        "third": random(40, 30).bfloat16(),
    }


def planned(settings, **options):
    found = plan_jobs(list(iter_weights(source())), settings, **options)
    return [[w.name for w in job.weights] for job in found]


def test_small_matrices_of_one_shape_are_a_job_and_large_ones_are_alone():
    assert planned(Settings.of(None)) == [
        ["large"],
        ["small", "second", "third"],
        ["twin"],
        ["wide"],
        ["flat"],
    ]


def test_a_device_takes_all_of_one_shape_where_all_values_are_wanted():
    assert planned(Settings.of(None), device=CPU) == [
        ["large", "twin", "flat"],
        ["small", "second", "third"],
        ["wide"],
    ]
    norms = Settings.of("stable_rank")
    assert planned(norms, device=CPU) == planned(norms)


def test_a_certificate_is_had_one_by_one():
    settings = Settings.of(None, certify="deterministic")
    assert len(planned(settings, device=CPU)) == 7
    table = sr.scan(source(), certify="deterministic", metrics="stable_rank")
    assert set(table.where(kind="measurement").frame["error_kind"]) == {"certified"}


def test_a_job_is_bounded_and_its_matrices_keep_their_places():
    many = {f"w{i}": torch.empty(5, 4) for i in range(600)}
    found = plan_jobs(list(iter_weights(many)), Settings.of(None))
    assert [len(job.weights) for job in found] == [256, 256, 88]
    assert [p for job in found for p in job.positions] == list(range(600))
    assert sum(job.num_entries for job in found) == 600 * 20


@pytest.mark.parametrize("metrics", [None, "stable_rank", "all"])
def test_a_named_device_changes_no_number_beyond_its_error(metrics):
    plain = sr.scan(source(), metrics=metrics)
    named = sr.scan(source(), metrics=metrics, device="cpu")
    assert named.provenance["device"] == "cpu"
    assert len(plain) == len(named)
    for a, b in zip(plain, named, strict=True):
        for column in ("kind", "subject", "view", "metric", "variant", "status"):
            assert a[column] == b[column]
        if a["values"]:
            assert b["values"] == pytest.approx(a["values"], rel=1e-6, abs=1e-6)
        elif a["status"] == "ok" and a["kind"] == "measurement":
            # Both enclosures hold the truth, so they meet.
            slack = 1e-9 * abs(a["value"])
            if a["lower"] is not None and b["lower"] is not None:
                assert a["lower"] - slack <= b["upper"]
                assert b["lower"] - slack <= a["upper"]
            assert b["value"] == pytest.approx(a["value"], rel=1e-6, abs=1e-9)


def test_what_is_never_formed_makes_no_batch_with_what_is():
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "grouped": nn.Conv2d(8, 8, 1, groups=4),
            "depthwise": nn.Conv2d(8, 8, 1, groups=8),
            "dense": nn.Linear(8, 8),
            "other": nn.Linear(8, 8),
        }
    )
    weights = list(iter_weights(net))
    found = plan_jobs(weights, Settings.of(None))
    assert [[w.name for w in job.weights] for job in found] == [
        ["grouped.weight"],
        ["depthwise.weight"],
        ["dense.weight", "other.weight"],
    ]
    assert found[0].num_entries == 4 * 2 * 2


def test_a_matrix_that_is_never_formed_moves_with_all_it_is():
    W = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    product = FactorProduct(W, W.T, 0.5)
    moved = jobs._to(product, torch.device("meta"))
    assert moved.left.device.type == moved.right.device.type == "meta"
    assert moved.scale == moved.gain == 0.5


def test_views_of_one_tensor_and_grouped_kernels_keep_their_order_in_every_route():
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "grouped": nn.Conv2d(6, 6, 3, groups=3),
            "lstm": nn.LSTM(4, 8),
        }
    )
    weights = list(iter_weights(net))
    table = sr.scan(net, metrics="stable_rank")
    rows = table.where(metric="stable_rank")
    keys = [(row["subject"], row["view"]) for row in rows]
    assert keys == [(w.name, w.view) for w in weights if hasattr(w, "view")]
    assert len(set(keys)) == len(keys) > 10
    named = sr.scan(net, metrics="stable_rank", device="cpu")
    assert named.frame.equals(table.frame)


ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
    "memory: you tried to allocate 80000000000 bytes.\nException raised from ..."
)


@pytest.mark.parametrize(
    "error", [RuntimeError(ALLOCATOR), MemoryError(), torch.OutOfMemoryError("CUDA")]
)
def test_a_matrix_that_memory_is_too_small_for_costs_no_other(
    monkeypatch, tmp_path, error
):
    real = jobs.operand_rows

    def measured(weight, *rest):
        if weight.name == "huge":
            raise error
        return real(weight, *rest)

    monkeypatch.setattr(jobs, "operand_rows", measured)
    both = {"huge": torch.ones(200, 190), "fc": torch.eye(180)}
    with pytest.warns(sr.errors.SpectrankWarning, match="first huge"):
        table = sr.scan(both, metrics="stable_rank", resume=tmp_path)
    (row,) = table.where(subject="huge")
    assert row["kind"] == "skip"
    assert "memory ran out" in row["reason"]
    assert "Exception raised" not in row["reason"]
    assert table.value("fc", "stable_rank") == pytest.approx(180.0)
    # Another time there may be more of it.
    assert len(list(tmp_path.iterdir())) == 1


def test_what_else_fails_is_not_taken_for_memory(monkeypatch):
    def measured(*_):
        raise RuntimeError("planted")

    monkeypatch.setattr(jobs, "operand_rows", measured)
    with pytest.raises(RuntimeError, match="planted"):
        sr.scan({"w": torch.ones(200, 190)})
