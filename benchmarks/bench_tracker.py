"""What does tracking every layer's stable rank add to a training step?

MLP 784-1024x4-10 in float32, batch 128, SGD with momentum, on a mixture of Gaussians.
Steps with the tracker's work in them against steps without, in turn, of one model;
"every 10" takes ten steps a turn, of which one is measured. Rows become a table in
memory. A median does not see what is rare, the rows made every 32 ticks and the full
enclosures, so these are counted over the run after its first 200 steps, timed apart and
added.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import write
from torch import nn

from spectrank.linalg import DEFAULT_FAILURE_PROBABILITY
from spectrank.train.tracker import Tracker
from spectrank.train.tracker.enclose import enclose

WIDTH, DEPTH, BATCH = 1024, 4, 128
STEPS = 1200
AIMS = {1: 0.06, 10: 0.01}


class Training:
    """A classifier and its next step."""

    def __init__(self, width: int) -> None:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise([784] + [width] * DEPTH):
            layers += [nn.Linear(n, m), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Linear(width, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)
        self.labels = torch.randint(10, (64, BATCH))
        centres = torch.randn(10, 784)
        self.inputs = centres[self.labels] + 2.0 * torch.randn(64, BATCH, 784)
        self.num_steps = 0

    def step(self) -> torch.Tensor:
        """Take a step; return its loss."""
        i = self.num_steps % 64
        self.num_steps += 1
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.inputs[i]), self.labels[i])
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def enclosure_seconds(tracker: Tracker, model: nn.Module) -> float:
    """Return what the full enclosures since the first 200 steps took, at the least."""
    frame = tracker.table().where(kind="measurement", route="lanczos-float32").frame
    total = 0.0
    for name, W in model.state_dict().items():
        count = int((frame["subject"] == name).sum())
        if count:

            def once(W: torch.Tensor = W) -> object:
                return enclose(
                    W,
                    rtol=0.05,
                    failure_probability=DEFAULT_FAILURE_PROBABILITY,
                    seed=1,
                )

            total += count * min(seconds(once) for _ in range(4))
    return total


def measure(every: int, drift: bool, width: int, num_steps: int) -> dict[str, Any]:
    """Return the share that a tracker adds, per step."""
    training = Training(width)
    for _ in range(200):
        training.step()
    tracker = Tracker(training.model, every=every, drift=drift)
    # The first enclosure of all matrices comes once a run.
    tracker.measure()
    tracker.flush()

    def tracked() -> None:
        for _ in range(every):
            tracker.observe(training.optimizer, training.step())

    def plain() -> None:
        for _ in range(every):
            training.step()

    times = []
    for i in range(num_steps // (2 * every)):
        # Neither always comes first.
        if i % 2:
            ours, theirs = seconds(tracked), seconds(plain)
        else:
            theirs, ours = seconds(plain), seconds(tracked)
        times.append((ours, theirs))
    step = statistics.median(theirs for _, theirs in times) / every
    ticks = statistics.median(ours / theirs for ours, theirs in times) - 1.0
    rows = row_seconds(tracker, training.optimizer, every) / every
    enclosures = enclosure_seconds(tracker, training.model) / (2 * len(times) * every)
    added = ticks + (rows + enclosures) / step
    return {
        "every": every,
        "drift": drift,
        "turns": len(times),
        "step_ms": round(step * 1e3, 3),
        "ticks_share": round(ticks, 4),
        "rows_ms_a_step": round(rows * 1e3, 4),
        "enclosures_ms_a_step": round(enclosures * 1e3, 4),
        "added_share": round(added, 4),
        "added_ms_a_step": round(added * step * 1e3, 4),
        "aim": AIMS[every],
        "met": added < AIMS[every],
    }


def row_seconds(
    tracker: Tracker, optimizer: torch.optim.Optimizer, every: int
) -> float:
    """Return what it takes to make the rows of a tick, at the least."""
    best = float("inf")
    for _ in range(6):
        # A reading brings all ticks there are into the sink.
        _ = tracker.latest
        for _ in range(16 * every):
            tracker.observe(optimizer, 0.5)
        best = min(best, seconds(lambda: tracker.latest) / 16)
    return best


def main() -> None:
    quick = "--quick" in sys.argv
    width, num_steps = (128, 200) if quick else (WIDTH, STEPS)
    rows = [
        measure(every, drift, width, num_steps)
        for every in (1, 10)
        for drift in (False, True)
    ]
    for row in rows:
        print(row)
    if quick:
        return
    shares = ", ".join(
        f"{100 * r['added_share']:.1f} % every {r['every']}"
        + (" with drift" if r["drift"] else "")
        for r in rows
    )
    claim = (
        "Tracking every layer's stable rank on an MLP 784-1024x4-10, batch 128, adds "
        f"to a training step: {shares}"
    )
    write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()
