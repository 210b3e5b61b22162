"""How fast and lean is the empirical NTK against torch.func and its peers?

Each side runs in a child of its own environment, which times itself after its imports;
the parent asks both in turn, for the least of three calls each time: the first call of
a turn finds its caches taken by the other side. Both run on one thread, and ratios are
of CPU time: on a machine that others use, threads wait for each other at every
parallel region, and the clock measures the scheduler. Peak memory is that of the first
full kernel of a fresh process, above what it held after a kernel of four samples. Both
sides must agree on the norm of the kernel. Perceptron 784-512-512-10; CNN 1-16-32 with
3x3 kernels on 28x28, pooled by 4; encoder of two layers 64 wide on 16 tokens; float32.

``python bench_ntk.py [case ...]``; without names, every case.
"""

import json
import math
import os
import subprocess
import sys
import venv
from pathlib import Path

from harness import summarise, write
from ntk_child import CASES

ROOT = Path(__file__).parents[1]
CHILD = Path(__file__).with_name("ntk_child.py")
PAIRS = 5
# Calls of a turn, on both sides; their least time counts.
CALLS = 3
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
# Of a whole installation; past it the peer is left out, with a message.
INSTALL_SECONDS = 900
TORCH = ["-c", str(ROOT / "constraints.txt"), "torch==2.13.0"]
# --no-deps: its torchvision is for examples that are not run here.
ENVIRONMENTS = {
    "nngeometry": [TORCH, ["numpy"], ["--no-deps", "nngeometry==0.4"]],
    "neural_tangents": [
        [
            *("jax==0.4.23", "jaxlib==0.4.23", "numpy<2", "scipy<1.13"),
            "neural-tangents==0.6.5",
        ]
    ],
}
# Case, peer, least ratio of times, least ratio of memory, most bytes above the output.
QUESTIONS = [
    ("mlp-two-sets-100-full", "torch_func", 200.0, 50.0, None),
    ("mlp-two-sets-100-full", "neural_tangents", 40.0, None, None),
    ("mlp-100-full", "nngeometry", 4.0, None, None),
    ("mlp-1000-full", "nngeometry", 2.0, None, None),
    ("cnn-200-trace", "torch_func", 2.0, None, None),
    ("cnn-100-full", "nngeometry", None, None, None),
    ("encoder-64-trace", "torch_func", 1.0, None, 500_000_000),
    ("mlp-2000-trace", None, None, None, 2**30),
]


class Child:
    """A process that computes its kernel as often as it is told, on one thread."""

    def __init__(self, python: str, peer: str, case: str) -> None:
        self.process = subprocess.Popen(
            [python, str(CHILD), peer, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD,
        )

    def ask(self, calls: int) -> dict:
        """Return what the child prints: the least times of some calls.

        Raises:
            RuntimeError: It ended without an answer.
        """
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read()[-2000:])
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def python_of(peer: str) -> str | None:
    """Return the interpreter of a peer, making its environment where there is none."""
    if peer not in ENVIRONMENTS:
        return sys.executable
    folder = ROOT / f".venv-{peer.replace('_', '-')}"
    done, python = folder / "installed", folder / "bin" / "python"
    if not done.exists():
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        try:
            for packages in ENVIRONMENTS[peer]:
                subprocess.run([*pip, *packages], check=True, timeout=INSTALL_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"{peer} is left out: its environment does not install ({error})")
            return None
        done.touch()
    return str(python)


def answer(case, peer, aim, memory_aim, above_output) -> dict | None:
    """Return the row of one question; None where the peer is left out."""
    row = {"case": case, "peer": peer}
    ours = Child(sys.executable, "ours", case)
    first = ours.ask(1)
    row |= {
        "output_bytes": first["output_bytes"],
        "our_peak_bytes": first["peak_bytes"],
        "our_peak_above_output": first["peak_bytes"] - first["output_bytes"],
        "aim_above_output": above_output,
    }
    if peer is None:
        row["ours_seconds"] = round(ours.ask(CALLS)["cpu_seconds"], 4)
        ours.close()
        return row
    python = python_of(peer)
    if python is None:
        ours.close()
        return None
    theirs = Child(python, peer, case)
    their_first = theirs.ask(1)
    if not math.isclose(first["norm"], their_first["norm"], rel_tol=1e-4):
        raise AssertionError(f"{case}: the kernels of {peer} and ours differ")
    pairs = [(ours.ask(CALLS), theirs.ask(CALLS)) for _ in range(PAIRS)]
    row |= summarise([(a["cpu_seconds"], b["cpu_seconds"]) for a, b in pairs])
    wall = summarise([(a["seconds"], b["seconds"]) for a, b in pairs])
    row["wall"] = {key: wall[key] for key in ("ratio_median", "ours_seconds")}
    row["wall"]["theirs_seconds"] = wall["theirs_seconds"]
    peaks = first["peak_bytes"], their_first["peak_bytes"]
    row |= {
        "aim": aim,
        "their_peak_bytes": peaks[1],
        "memory_ratio": round(peaks[1] / max(peaks[0], 1), 1),
        "memory_aim": memory_aim,
    }
    ours.close()
    theirs.close()
    return row


def main() -> None:
    wanted = sys.argv[1:] or list(CASES)
    rows = []
    for question in QUESTIONS:
        if question[0] in wanted:
            row = answer(*question)
            if row is not None:
                print(row, flush=True)
                rows.append(row)
    if sys.argv[1:] or os.environ.get("SPECTRANK_BENCH_DRY"):
        return  # A part is no answer to the question.
    best = rows[0]
    claim = (
        f"On one thread the full NTK of a perceptron on two sets of 100 takes "
        f"{best['ours_seconds']:.3f} s, {best['ratio_median']:.0f} times faster than "
        f"torch.func and in {best['memory_ratio']:.0f} times less memory"
    )
    write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()
