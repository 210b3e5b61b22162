"""How large is the page of 400 matrices, and how long until it can be read?

400 matrices of 512 x 512 as a scan of all usual metrics with full spectra makes them:
the spectra are drawn once at random (decaying with a power that differs), the rows are
built directly, so that only the report is timed. Bytes of the file, seconds to write
it, and seconds in headless Chromium from navigation to the first complete drawing of
all charts and tables, offline, least of five; and the processor time of the page's
thread, which other work on the machine does not lengthen. ``first``: as a reader who
was mailed the page opens it, each load at an address of its own. ``again``: the same
address, where the browser has the compiled chart library still. Also the page of a
run: 100 matrices at 20 steps.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from harness import write

from spectrank.report import write_html
from spectrank.table import Table

ROLES = ("query", "key", "value", "out", "up", "down", "gate", "proj")
METRICS = (
    *("stable_rank", "participation_ratio", "effective_rank", "numerical_rank"),
    *("energy_rank", "nuclear_rank", "spectral_norm", "frobenius_norm", "nuclear_norm"),
    *("mp_sigma", "mp_edge", "num_spikes", "mp_softrank", "mp_distance"),
    *("alpha", "xmin", "num_tail", "ks_distance", "log_alpha_norm", "alpha_weighted"),
)


def rows(num_matrices, size, step=None):
    numbers = random.Random(0 if step is None else step)
    for at in range(num_matrices):
        name = f"model.layers.{at // 8}.{ROLES[at % 8]}.weight"
        power = numbers.uniform(0.1, 0.9)
        shared = {"subject": name, "view": "linear", "step": step, "status": "ok"}
        shared |= {"m": size, "n": size, "dtype": "float32", "route": "gram"}
        values = [numbers.uniform(0.99, 1.01) * k**-power for k in range(1, size + 1)]
        values.sort(reverse=True)
        for metric in METRICS:
            value = numbers.uniform(1.0, size)
            ends = {"lower": value * (1 - 1e-12), "upper": value * (1 + 1e-12)}
            yield (
                shared
                | ends
                | {
                    "kind": "measurement",
                    "metric": metric,
                    "value": value,
                    "error_kind": "rounding",
                }
            )
        yield shared | {
            "kind": "spectrum",
            "metric": "singular_values",
            "values": values,
        }


def table(num_matrices, size, steps):
    import polars as pl

    columns = {"m": pl.Int64, "n": pl.Int64, "dtype": pl.String}
    every = [row for step in steps for row in rows(num_matrices, size, step)]
    return Table.from_rows(every, columns=columns)


def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def opened(driver, path):
    """Seconds until all is drawn and painted once; processor time of its thread."""
    driver.get("about:blank")
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    start = time.perf_counter()
    driver.get(path.as_uri())
    driver.execute_async_script(
        "const done = arguments[0];"
        "const look = () => (document.documentElement.dataset.ready"
        " ? requestAnimationFrame(() => setTimeout(done, 0)) : setTimeout(look, 5));"
        "look();"
    )
    seconds = time.perf_counter() - start
    found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    driver.execute_cdp_cmd("Performance.disable", {})
    busy = {entry["name"]: entry["value"] for entry in found}["TaskDuration"]
    return seconds, busy


def summary(loads):
    """Least and median seconds of the clock, least of the processor."""
    seconds, busy = zip(*loads, strict=True)
    return {
        "open_seconds_least": round(min(seconds), 2),
        "open_seconds_median": round(statistics.median(seconds), 2),
        "processor_seconds_least": round(min(busy), 2),
    }


def measure(driver, case, num_matrices, size, steps, loads):
    made = table(num_matrices, size, steps)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = write_html(made, Path(folder) / "page.html")
        written = time.perf_counter() - start
        first, again = [], []
        for load in range(loads):
            # A script is compiled once for each address.
            fresh = path.with_name(f"{case}{load}.html")
            fresh.hardlink_to(path)
            first.append(opened(driver, fresh))
            again.append(opened(driver, fresh))
        return {
            "case": case,
            "matrices": num_matrices,
            "size": size,
            "steps": len(steps),
            "rows": made.frame.height,
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "write_seconds": round(written, 2),
            "first": summary(first),
            "again": summary(again),
            "loads": loads,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=5)
    loads = parser.parse_args().loads
    driver = browser()
    try:
        results = [
            measure(driver, "scan", 400, 512, [None], loads),
            measure(driver, "run", 100, 256, list(range(0, 2000, 100)), loads),
        ]
    finally:
        driver.quit()
    for row in results:
        print(row)
    first = results[0]
    write(
        "How large is the page of 400 matrices, and how long until it can be read?",
        f"the page of 400 matrices with full spectra is {first['megabytes']} MB and "
        f"opens in {first['first']['open_seconds_least']} s",
        results,
    )


if __name__ == "__main__":
    main()
