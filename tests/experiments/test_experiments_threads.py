"""Parts on one thread: every BLAS pool, and as before afterwards."""

import numpy as np
import pytest
import torch

from spectrank.experiments.papers import Part, PartResult
from spectrank.experiments.threads import on_one_thread

threadpoolctl = pytest.importorskip("threadpoolctl", reason="extra 'experiments'")


def _num_threads() -> dict[str, int]:
    # The pools exist once a product has been taken.
    _ = np.eye(4) @ np.eye(4), torch.eye(4) @ torch.eye(4)
    info = threadpoolctl.threadpool_info()
    pools = {pool["filepath"]: pool["num_threads"] for pool in info}
    return {**pools, "torch": torch.get_num_threads()}


def test_a_part_runs_on_one_thread_of_every_pool() -> None:
    seen: list[dict[str, int]] = []

    def run(seed: int, tick: object) -> PartResult:
        del seed, tick
        seen.append(_num_threads())
        return PartResult(rows=())

    part = Part(name="part", run=run, claims=(), settings={}, num_steps=1)
    (limited,) = on_one_thread([part])
    torch_before = torch.get_num_threads()
    with threadpoolctl.threadpool_limits(limits=2):
        torch.set_num_threads(2)
        try:
            before = _num_threads()
            limited.run(0, lambda: None)
            after = _num_threads()
        finally:
            torch.set_num_threads(torch_before)
    assert set(seen[0].values()) == {1}
    assert set(before.values()) == {2}
    assert after == before
    assert (limited.name, limited.claims) == (part.name, part.claims)
