"""How long do 10,000 matrices of 64 x 64 take, where the work around LAPACK counts?

Ours on one thread of torch, all of them: norms alone and all default metrics. Against
WeightWatcher a part of them, with its columns, in interleaved pairs.
"""

import argparse
from typing import Any

from harness import run_child, write
from weightwatcher_peer import race

NUM, PART, SIDE, PAIRS = 10_000, 1_000, 64, 5

CHILD = """
import json, time, torch
torch.set_num_threads(1)
import spectrank as sr
generator = torch.Generator().manual_seed(0)
state = {{
    f"layer{{i}}.weight": torch.randn({side}, {side}, generator=generator)
    for i in range({num})
}}
sr.scan({{"w.weight": torch.eye({side})}}, metrics={metrics!r})
start = time.perf_counter()
table = sr.scan(state, metrics={metrics!r}, spectra=False)
seconds = time.perf_counter() - start
rows = table.where(kind="measurement").frame
print(json.dumps({{
    "seconds": round(seconds, 3),
    "matrices": rows["subject"].n_unique(),
    "rows": len(rows),
}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=NUM)
    parser.add_argument("--part", type=int, default=PART)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for metrics in (["spectral_norm", "frobenius_norm"], None):
        code = CHILD.format(num=options.num, side=SIDE, metrics=metrics)
        runs = [run_child(code) for _ in range(3 if options.num == NUM else 1)]
        row = min(runs, key=lambda run: run["seconds"])
        row |= {"metrics": metrics or "all defaults", "threads": 1}
        row |= {"aim_seconds": 6.0} if metrics else {}
        print(row, flush=True)
        rows.append(row)
    against = race(
        {"kind": "small", "num": options.part, "side": SIDE},
        {"compat": "weightwatcher"},
        {},
        pairs=options.pairs,
    )
    print(against)
    rows.append({"case": f"{options.part} against WeightWatcher", **against})
    if (options.num, options.part, options.pairs) != (NUM, PART, PAIRS):
        return
    claim = (
        f"{NUM:,} matrices of {SIDE} x {SIDE} take {rows[0]['seconds']:.1f} s on one "
        f"core for their norms, {rows[1]['seconds']:.1f} s for all metrics; "
        f"{PART:,} of them {against['ratio_median']} times faster than WeightWatcher's "
        "columns"
    )
    write(__doc__.splitlines()[0], claim, rows)


if __name__ == "__main__":
    main()
