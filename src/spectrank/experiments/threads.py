"""Parts of a paper whose matrices are too small for a second BLAS thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from spectrank.experiments.papers import Part, PartResult, Tick
from spectrank.extras import need
from spectrank.train.fleet.threads import single_threaded


def on_one_thread(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Parts that run as before, each BLAS call on one thread.

    torch, NumPy and SciPy may each bring a BLAS with threads of its own: a second
    thread slows L-BFGS and flows on 24 x 24 matrices four times, whichever of the
    three it belongs to.

    Args:
        parts: Of a paper.

    Returns:
        Parts with the same names, settings and claims.
    """
    return tuple(replace(part, run=_limited(part.run)) for part in parts)


def _limited(
    run: Callable[[int, Tick], PartResult],
) -> Callable[[int, Tick], PartResult]:
    def limited(seed: int, tick: Tick) -> PartResult:
        pools = need("threadpoolctl", "running a part on one thread")
        with single_threaded(torch.device("cpu")), pools.threadpool_limits(limits=1):
            return run(seed, tick)

    return limited
