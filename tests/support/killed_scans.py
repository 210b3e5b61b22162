"""Scans that die at a chosen step of writing a part, and what the next scan finds.

A program of its own: it imports once and forks for each kill, before any library has
started a thread. A step is: opening the temporary file, each of five pieces of its
bytes, renaming it, and the moment after that.
"""

import hashlib
import json
import os
import pathlib
import sys

# Threads of its own for each of a hundred processes would be half of the time.
os.environ["POLARS_MAX_THREADS"] = "1"

import torch

from spectrank.scanning import scan
from spectrank.scanning.running import jobs

NUM_MATRICES = 7
PIECES = 5
STEPS_OF_A_PART = 1 + PIECES + 2


def source():
    generator = torch.Generator().manual_seed(6)
    # Different shapes, so that each is a job of its own.
    shapes = [(5 + i, 4) for i in range(NUM_MATRICES)]
    return {
        f"w{i}": torch.randn(*shape, generator=generator)
        for i, shape in enumerate(shapes)
    }


def measure(folder):
    return scan(source(), metrics="stable_rank", spectra=False, resume=folder)


class Steps:
    """Dies at step number `last` without a word, as a killed process does."""

    def __init__(self, last):
        self.last = last
        self.count = 0

    def step(self):
        self.count += 1
        if self.count == self.last:
            os._exit(9)

    def plant(self):
        real_open, real_replace = pathlib.Path.open, pathlib.Path.replace
        steps = self

        class Stream:
            def __init__(self, inner):
                self.inner = inner

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.inner.close()

            def write(self, content):
                size = -(-len(content) // PIECES)
                for i in range(PIECES):
                    self.inner.write(content[i * size : (i + 1) * size])
                    self.inner.flush()
                    steps.step()

            def __getattr__(self, name):
                return getattr(self.inner, name)

        def open_(path, mode="r", *args, **kwargs):
            stream = real_open(path, mode, *args, **kwargs)
            if mode != "xb":
                return stream
            steps.step()
            return Stream(stream)

        def replace(path, target):
            steps.step()
            result = real_replace(path, target)
            steps.step()
            return result

        pathlib.Path.open, pathlib.Path.replace = open_, replace


def forked(action):
    """Run in a process of its own; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = action() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def resumed(folders):
    """Scan each folder to the end; how many were measured anew, what came out."""
    measured = []
    real = jobs._measure

    def counted(weights, *rest):
        measured.extend(weight.name for weight in weights)
        return real(weights, *rest)

    jobs._measure = counted
    reports = []
    for folder in folders:
        measured.clear()
        parts = len(list(folder.glob("*.part")))
        rows = json.dumps(list(measure(folder)), sort_keys=True)
        reports.append(
            {
                "parts": parts,
                "measured": list(measured),
                "rows": hashlib.sha256(rows.encode()).hexdigest(),
                "left": len(list(folder.glob(".*.tmp"))),
            }
        )
    return reports


def killed(folder, last):
    Steps(last).plant()
    measure(folder)
    return 0


def main(root, number):
    folders = [root / f"f{last}" for last in range(1, number + 1)]
    codes = [
        forked(lambda f=folder, n=last: killed(f, n))
        for last, folder in enumerate(folders, start=1)
    ]
    # Nothing is forked after this.
    reports = resumed([root / "whole", *folders])
    sys.stdout.write(json.dumps({"codes": codes, "reports": reports}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
