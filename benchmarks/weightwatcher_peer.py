"""WeightWatcher 0.7.7 in an environment of its own, beside us: children in turn.

Both sides run one child at a time over the very same module, built from the same file
by `peer_models`, and time themselves after imports and loading.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from harness import summarise

ROOT = Path(__file__).parents[1]
# No other package is in it: some would bring older versions of NumPy and SciPy.
THEIRS = ROOT / ".venv-weightwatcher-0.7.7"

START = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore")
# What a library prints must not be read as an answer.
out, sys.stdout = sys.stdout, sys.stderr
sys.path.insert(0, {here!r})
from peer_models import build
case, options = json.loads({case!r}), json.loads({options!r})
model = build(**case)
"""
LOOP = """
for line in sys.stdin:
    start, used = time.perf_counter(), time.process_time()
    result = run()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    answer = {"seconds": seconds, "processor_seconds": used, "version": VERSION}
    if line.strip() == "values":
        answer["values"] = values(result)
    print(json.dumps(answer), file=out)
    out.flush()
"""
OURS = """
import math
import spectrank as sr
VERSION = sr.__version__
def run():
    return sr.scan(model, **options)
def values(table):
    rows = table.where(kind="measurement").frame
    if options.get("compat"):
        rows = rows.filter(rows["variant"] == "weightwatcher")
    found = {}
    for row in rows.select("subject", "metric", "value").iter_rows(named=True):
        name = row["subject"].removesuffix(".weight")
        if row["value"] is not None and math.isfinite(row["value"]):
            found.setdefault(name, {})[row["metric"]] = row["value"]
    return found
"""
PEER = """
import math
import weightwatcher
from importlib.metadata import version
logging.getLogger("weightwatcher").setLevel(logging.CRITICAL)
VERSION = version("weightwatcher")
def run():
    return weightwatcher.WeightWatcher(model=model).analyze(**options)
def values(frame):
    return {
        row["longname"]: {
            key: float(x)
            for key, x in row.items()
            if isinstance(x, (int, float)) and math.isfinite(x) and key != "layer_id"
        }
        for row in frame.to_dict("records")
    }
"""


def peer_python() -> Path:
    """Return the peer's interpreter; make its environment where there is none."""
    python = THEIRS / "bin" / "python"
    if not python.exists():
        venv.create(THEIRS, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        pip += ["-c", str(ROOT / "constraints.txt")]
        # Alone and first: a plain torch brings several GB of CUDA packages.
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        subprocess.run([*pip, "weightwatcher==0.7.7"], check=True)
    return python


class Child:
    """A process that runs its function once for each line it is sent."""

    def __init__(
        self, python: Path | str, code: str, case: Any, options: dict[str, Any]
    ) -> None:
        """Start it; it loads while the caller goes on."""
        start = START.format(
            here=str(Path(__file__).parent),
            case=json.dumps(case),
            options=json.dumps(options),
        )
        self.process = subprocess.Popen(
            [str(python), "-c", start + code + LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, what: str = "seconds") -> dict[str, Any]:
        """Return what the child prints for one run."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End it, so that it holds no memory while others are timed."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def race(
    case: dict[str, Any],
    ours: dict[str, Any],
    theirs: dict[str, Any],
    *,
    pairs: int,
    our_case: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Time both on one model in turn, after one run each for warmth and values.

    Args:
        case: What `peer_models.build` builds.
        ours: Options of `scan`.
        theirs: Options of `analyze`.
        pairs: Timed pairs.
        our_case: Where we are given the same numbers in other pieces.

    Returns:
        Summary of the pairs, what each measured and how far shared columns are apart.
    """
    us = Child(sys.executable, OURS, our_case or case, ours)
    them = Child(peer_python(), PEER, case, theirs)
    first = us.ask("values"), them.ask("values")
    times = [(us.ask(), them.ask()) for _ in range(pairs)]
    us.close()
    them.close()
    row = summarise([(a["seconds"], b["seconds"]) for a, b in times])
    # Waiting left out: it tells a busy machine from a slow side.
    used = summarise(
        [(a["processor_seconds"], b["processor_seconds"]) for a, b in times]
    )
    # Slices of a kernel are other matrices than the layers that theirs names.
    same = bool(ours.get("compat")) and our_case is None
    return {
        **row,
        "processor_time": used,
        "first_call_seconds": [round(x["seconds"], 3) for x in first],
        "our_matrices": len(first[0]["values"]),
        "their_layers": len(first[1]["values"]),
        **(_agreement(first[0]["values"], first[1]["values"]) if same else {}),
        "spectrank": first[0]["version"],
        "weightwatcher": first[1]["version"],
    }


def _agreement(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Largest difference of columns that both have, |a - b| / max(1, |b|)."""
    shared = [
        (abs(ours[layer][name] - b) / max(1.0, abs(b)), layer, name)
        for layer, columns in theirs.items()
        for name, b in columns.items()
        if name in ours.get(layer, {})
    ]
    if not shared:
        return {"values_compared": 0}
    difference, layer, name = max(shared)
    return {
        "values_compared": len(shared),
        "largest_difference": difference,
        "where": f"{layer} {name}",
    }
