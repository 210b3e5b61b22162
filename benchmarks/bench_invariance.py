"""What does it cost to watch conserved quantities through a training run?

A fully connected ReLU network 784-1024x4-10 in float32 at batch 128, plain SGD, on one
thread, in seconds of the processor. A slice of steps under a watch is compared with one
of the same network without, in turn; every step is accounted for in both, values are
compared with their prediction every 10 steps or at every one.
"""

import argparse
import time
from itertools import pairwise

import torch
from harness import PAIRS, summarise, write
from torch import nn

from spectrank.invariance import Watch, find

AIM = 1.25


class Training:
    """A network, one batch and plain SGD."""

    def __init__(self, width, hidden, batch):
        g = torch.Generator().manual_seed(0)
        self.x = torch.randn(batch, 784, generator=g)
        self.y = torch.randint(10, (batch,), generator=g)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = []
            for n, m in pairwise([784, *[width] * hidden, 10]):
                layers += [nn.Linear(n, m), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def steps(self, number):
        """Train, and return the processor's seconds."""
        start = time.process_time()
        for _ in range(number):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()
        return time.process_time() - start


def row(every, *, width, hidden, batch, number, pairs):
    """Ratio of watched steps to bare ones."""
    bare, watched = (Training(width, hidden, batch) for _ in range(2))
    laws = find(watched.model, watched.x, loss=None)
    with Watch(watched.model, laws, optimizer=watched.optimizer, every=every) as watch:
        bare.steps(10)
        watched.steps(10)
        found = summarise(
            [(bare.steps(number), watched.steps(number)) for _ in range(pairs)]
        )
        verdicts = {row["verdict"] for row in watch.table()}
    assert verdicts <= {"conserved", "explained"}, verdicts
    found["bare_seconds"] = found.pop("ours_seconds") / number
    found["watched_seconds"] = found.pop("theirs_seconds") / number
    return {
        "case": f"every {every}",
        "num_laws": laws.num_laws,
        **found,
        "aim_at_most": AIM,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--smoke", action="store_true", help="small, writes nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.smoke:
        print(row(10, width=32, hidden=2, batch=16, number=10, pairs=1))
        return
    size = {"width": 1024, "hidden": 4, "batch": 128, "number": 20}
    rows = [row(every, **size, pairs=arguments.pairs) for every in (10, 1)]
    ratios = {each["case"]: each["ratio_median"] for each in rows}
    write(
        "what does it cost to watch conserved quantities through a training run",
        f"a watched step takes so many times a bare one: {ratios}",
        rows,
    )


if __name__ == "__main__":
    main()
