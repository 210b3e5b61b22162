"""Moments over processes: gloo, two of them, uneven and empty shares."""

import subprocess
import sys
import textwrap

import pytest
import torch
from exact_moments import exact_within, largest_relative_error
from tolerances import FLOAT64

from spectrank.errors import DomainError
from spectrank.linalg.moments import ClassMoments, CrossMoments, Moments, all_reduce

# What each process runs, once for all tests: argv is its rank and the folder. It
# saves the state that each scene left, and of "unlike" the error's message.
WORKER = textwrap.dedent(
    """
    import datetime, sys, torch
    import torch.distributed as dist
    from spectrank.errors import DomainError
    from spectrank.linalg.moments import (
        ClassMoments, CrossMoments, Moments, all_reduce,
    )

    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=100),
    )
    data = torch.load(f"{folder}/data.pt", weights_only=True)

    def save(name, state):
        torch.save(state, f"{folder}/{name}{rank}.pt")

    def by_class(scene):
        moments = ClassMoments(4, 3)
        moments.update(*data[scene][rank])
        return moments

    moments = by_class("classes")
    before = moments.state_dict()
    save("classes", all_reduce(moments).state_dict())
    after = moments.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)

    for scene in ("first-empty", "second-empty"):
        rows = data[scene][rank][0]
        moments = CrossMoments(None, 2, 3, scatter_in="full")
        moments.update(rows[:, :2], rows)
        save(scene, all_reduce(moments).state_dict())

    # A group of the second process alone: its first member is rank 1 of the world.
    group = dist.new_group([1])
    moments = by_class("classes")
    save("group", (all_reduce(moments, group) if rank else moments).state_dict())

    for scene, moments in (
        ("unlike-scatter", Moments(3, scatter="full" if rank else "trace")),
        ("unlike-type", Moments(3) if rank else ClassMoments(1, 3)),
    ):
        try:
            all_reduce(moments)
        except DomainError as error:
            save(scene, torch.tensor(list(str(error).encode())))
    dist.barrier()
    dist.destroy_process_group()
    """
)


def shares_of(*wanted, seed=0):
    """Rows at relative spread 1e-12, for each process's list of (class, number)."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1.0 + torch.randn(4, 3, dtype=torch.float64, generator=generator)
    shares = []
    for pairs in wanted:
        labels = torch.tensor([c for c, n in pairs for _ in range(n)]).long()
        noise = torch.randn(len(labels), 3, dtype=torch.float64, generator=generator)
        shares.append((centres[labels] + 1e-12 * noise, labels))
    return shares


# Class 0 is on both, 1 on the first only, 2 on the second only, 3 on neither.
SHARES = {
    "classes": shares_of([(0, 9), (1, 5)], [(0, 4), (2, 7)]),
    "first-empty": shares_of([], [(0, 8), (1, 3)]),
    "second-empty": shares_of([(0, 8), (1, 3)], []),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run two processes; return a reader of what each saved of a scene."""
    folder = tmp_path_factory.mktemp("gloo")
    torch.save(SHARES, folder / "data.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=180)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.wait()

    def read(scene):
        paths = (folder / f"{scene}{rank}.pt" for rank in range(2))
        return [torch.load(path, weights_only=True) for path in paths]

    return read


def test_a_class_on_one_process_only_reaches_all_and_all_agree_to_the_bit(outcome):
    first, second = outcome("classes")
    assert all(torch.equal(first[name], second[name]) for name in first)
    shares = SHARES["classes"]
    rows, labels = (torch.cat(parts) for parts in zip(*shares, strict=True))
    summary = ClassMoments.from_state_dict(first).compute()
    assert summary.counts.tolist() == [13, 5, 7, 0]
    each = exact_within(rows, rows, labels, 4)
    assert largest_relative_error(summary.scatter, each.sum(0)) < FLOAT64
    traces = each.diagonal(dim1=1, dim2=2).sum(1)
    assert torch.allclose(summary.traces, traces, rtol=FLOAT64, atol=0.0)


def test_processes_reduce_as_one_process_merges_in_the_order_of_ranks(outcome):
    total = ClassMoments(4, 3)
    for rows, labels in SHARES["classes"]:
        shard = ClassMoments(4, 3)
        shard.update(rows, labels)
        total.merge(shard)
    want, (got, _) = total.state_dict(), outcome("classes")
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("scene", ["first-empty", "second-empty"])
def test_a_process_without_rows_takes_part(outcome, scene):
    first, second = outcome(scene)
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = torch.cat([rows for rows, _ in SHARES[scene]])
    alone = CrossMoments(None, 2, 3, scatter_in="full")
    alone.update(rows[:, :2], rows)
    want = alone.state_dict()
    assert all(torch.equal(first[name], want[name]) for name in want)


def test_a_group_reduces_its_own_members_only(outcome):
    first, second = outcome("group")
    assert first["counts"].tolist() == [9, 5, 0, 0]
    assert second["counts"].tolist() == [4, 0, 7, 0]


@pytest.mark.parametrize("scene", ["unlike-scatter", "unlike-type"])
def test_unlike_accumulators_raise_on_every_process_and_none_waits(outcome, scene):
    for saved in outcome(scene):
        message = bytes(saved.tolist()).decode()
        assert "equal type and settings" in message
        assert "on process 1 of the group" in message


def test_without_a_process_group_there_is_nothing_to_reduce_over():
    with pytest.raises(DomainError, match="init_process_group first, or leave"):
        all_reduce(Moments(2))
