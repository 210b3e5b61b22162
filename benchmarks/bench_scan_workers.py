"""What do two workers take and save on a 2 GB sharded checkpoint?

All default metrics. Memory is of the whole tree of processes, what they share counted
once (Pss of Linux), sampled every 50 ms by a process outside it, over what the same
tree holds after a scan of small matrices. Seconds are of `scan` alone, with the start
of the workers in them; one process has all threads of torch, each worker has one. Also
with a ceiling: what is above it must not be exceeded by the matrices at work.
"""

import argparse
import json
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench_peak_memory as checkpoint
from harness import write

CEILING = 700_000_000
CHILD = """
import json, sys, time, torch, spectrank as sr
if __name__ == "__main__":
    folder, options = sys.argv[1], json.loads(sys.argv[2])
    sr.scan(folder + "/small", **options)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    table = sr.scan(folder + "/large", **options)
    seconds = time.perf_counter() - start
    frame = table.where(kind="measurement").frame
    skipped = len(table.where(kind="skip").frame)
    total = frame["value"].fill_nan(0.0).sum()
    result = {"seconds": round(seconds, 2), "matrices": frame["subject"].n_unique()}
    print(json.dumps({**result, "skipped": skipped, "sum_of_values": total}))
"""


def tree_bytes(pid: int) -> int:
    """Memory of a process and all below it, what they share counted once."""
    total, waiting = 0, [pid]
    while waiting:
        place = Path(f"/proc/{waiting.pop()}")
        try:
            lines = (place / "smaps_rollup").read_text().splitlines()
            total += 1024 * next(int(x.split()[1]) for x in lines if x[:4] == "Pss:")
            children = (place / "task" / place.name / "children").read_text()
            waiting += map(int, children.split())
        except (OSError, StopIteration):
            continue  # It ended meanwhile.
    return total


def watch(child: subprocess.Popen[str]) -> tuple[str, int]:
    """Return the next line of a process and the peak of its tree until then."""
    assert child.stdout
    peak = 0
    while not select.select([child.stdout], [], [], 0.05)[0]:
        peak = max(peak, tree_bytes(child.pid))
    return child.stdout.readline(), peak


def measure(folder: Path, script: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Scan in a fresh process and watch its memory."""
    child = subprocess.Popen(
        [sys.executable, str(script), str(folder), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin
    # Workers end with their scan: its peak has their interpreters in it.
    _, baseline = watch(child)
    child.stdin.write("go\n")
    child.stdin.flush()
    line, peak = watch(child)
    child.stdin.close()
    child.wait()
    return {
        **options,
        **json.loads(line),
        "peak_bytes": peak,
        "baseline_bytes": baseline,
        "peak_above_baseline_bytes": peak - baseline,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total", type=int, default=checkpoint.TOTAL_BYTES)
    options = parser.parse_args()
    whole = options.total == checkpoint.TOTAL_BYTES
    largest = 8 * max(m * n for m, n in checkpoint.SHAPES)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, script = Path(name), Path(name) / "child.py"
        script.write_text(CHILD, encoding="utf-8")
        total = {}
        shapes = {"small": [(600, 500)], "large": checkpoint.SHAPES}
        for part, size in (("small", 8_000_000), ("large", options.total)):
            (folder / part).mkdir()
            total[part] = checkpoint.make_checkpoint(folder / part, size, shapes[part])
        for run in ({"workers": 2}, {"workers": 2, "memory": CEILING}, {}):
            row = measure(folder, script, run)
            row |= {
                "checkpoint_bytes": total["large"],
                "largest_matrix_float64_bytes": largest,
            }
            print(row, flush=True)
            rows.append(row)
    if not whole:
        return
    two, ceiling, one = rows
    claim = (
        f"Two workers scan a {total['large'] / 1e9:.1f} GB sharded checkpoint in "
        f"{two['seconds']:.0f} s (one process {one['seconds']:.0f} s) with "
        f"{two['peak_above_baseline_bytes'] / 1e9:.2f} GB above three idle "
        f"interpreters, {ceiling['peak_above_baseline_bytes'] / 1e9:.2f} GB under a "
        f"ceiling of {CEILING / 1e9:.1f} GB"
    )
    write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()
