"""Shared by the benchmarks: interleaved pairs, peak memory, JSON with its machine.

Ratios are the median of interleaved pairs with their spread, absolute times are
minima: timings on shared machines are 2 to 10 times off for minutes at a stretch.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAIRS = 7


def interleave(
    ours: Callable[[], object], theirs: Callable[[], object], *, pairs: int = PAIRS
) -> dict[str, Any]:
    """Time two functions in turn after one warm-up each.

    Returns:
        Median, least and largest ratio theirs/ours, and the least seconds of both.
    """
    ours()
    theirs()
    return summarise([(seconds(ours), seconds(theirs)) for _ in range(pairs)])


def seconds(function: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def summarise(times: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the summary of pairs (ours, theirs) in seconds."""
    ratios = [theirs / ours for ours, theirs in times]
    return {
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "ours_seconds": round(min(ours for ours, _ in times), 5),
        "theirs_seconds": round(min(theirs for _, theirs in times), 5),
        "pairs": len(times),
    }


def write(question: str, claim: str, results: Any) -> None:
    """Write one answer as JSON beside the machine it was found on."""
    folder = RESULTS / machine_name()
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "question": question,
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "claim": claim,
        "results": results,
    }
    path = folder / f"{Path(sys.argv[0]).stem.removeprefix('bench_')}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(RESULTS.parent.parent)}")


def environment() -> dict[str, Any]:
    """Return processor, threads and versions."""
    import torch

    names = ("torch", "numpy", "scipy", "safetensors")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def processor() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def machine_name() -> str:
    """Return a folder name for this kind of machine."""
    name = re.sub(r"\(.*?\)|[^a-z0-9]+", "-", processor().lower()).strip("-")
    return re.sub("-+", "-", f"{name}-{os.cpu_count()}-cores")


def run_child(code: str) -> Any:
    """Run code in a fresh process of this environment; it prints one line of JSON."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])
