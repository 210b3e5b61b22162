"""The ceiling counts what jobs really take: the peak of a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spectrank.model import iter_weights
from spectrank.scanning.measure import Settings
from spectrank.scanning.running.jobs import plan_jobs
from spectrank.scanning.running.memory import (
    admitted,
    fits,
    in_bytes,
    working_bytes,
)

M, N = 1700, 1100
CASES = [
    {"metrics": "stable_rank"},
    {"metrics": "stable_rank", "certify": "deterministic"},
    {"metrics": "participation_ratio"},
    {"metrics": "nuclear_norm"},
    {"metrics": "nuclear_norm", "null": "permuted"},
    {"metrics": "condition_number"},
]
# Output and input channels and the side of the grid: formed, formed, by Lanczos.
OPERATORS = [
    ((8, 3, 24), {"metrics": "nuclear_norm"}),
    ((8, 8, 8), {"metrics": "stable_rank"}),
    ((32, 32, 24), {"metrics": "stable_rank", "rtol": 1e-2}),
]

# Peak of the resident memory while a matrix is measured, beside what was there.
CHILD = """
import json, os, pathlib, sys, torch
from torch import nn
torch.set_num_threads(1)
from spectrank.model import iter_weights
from spectrank.scanning.measure import Settings, measure_matrix

def status(name):
    (line,) = [x for x in open("/proc/self/status") if x.startswith(name)]
    return int(line.split()[1]) * 1024

m, n, cases, operators = json.loads(sys.argv[1])
generator = torch.Generator().manual_seed(0)
small = {"w": torch.randn(300, 200, generator=generator)}
large = {"w": torch.randn(m, n, generator=generator)}

def conv(sizes):
    out, channels, side = sizes
    layer = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    return layer, f"conv-operator:{side}x{side}"

def peak(case, sizes=None):
    settings = Settings.of(spectra=False, **case)
    first, view = (small, None) if sizes is None else conv((2, 2, 4))
    for weight in iter_weights(first, views=view):
        measure_matrix(weight, settings)
    second, view = (large, None) if sizes is None else conv(sizes)
    (weight,) = iter_weights(second, views=view)
    # Sets the peak back to what is there now.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    measure_matrix(weight, settings)
    return status("VmHWM") - before

peaks = []
for case, sizes in [(case, None) for case in cases] + [x[::-1] for x in operators]:
    # In a process of its own: freed memory of the last one would be used again.
    here, there = os.pipe()
    if not os.fork():
        os.write(there, str(peak(case, sizes)).encode())
        os._exit(0)
    os.close(there)
    peaks.append(int(os.read(here, 64)))
print(json.dumps(peaks))
"""


def job(settings, *shapes, dtype=torch.float32):
    source = {f"w{i}": torch.empty(s, dtype=dtype) for i, s in enumerate(shapes)}
    return plan_jobs(list(iter_weights(source)), settings)


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux tells its peak"
)
def test_the_estimate_is_above_the_peak_and_not_far():
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([M, N, CASES, OPERATORS])],
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = json.loads(done.stdout)
    assert len(peaks) == len(CASES) + len(OPERATORS)
    for case, found in zip(CASES, peaks, strict=False):
        settings = Settings.of(spectra=False, **case)
        (one,) = job(settings, (M, N))
        estimate = working_bytes(one, settings)
        # The matrix itself was there before; libraries allocate a few MB once.
        peak = found + 4 * M * N
        assert peak <= estimate + 4e6, case
        # Norms alone may end in a full decomposition, and mostly do not.
        assert estimate <= 3 * peak or case == CASES[0], case
    for (sizes, case), found in zip(OPERATORS, peaks[len(CASES) :], strict=True):
        settings = Settings.of(spectra=False, **case)
        layer = torch.nn.Conv2d(sizes[1], sizes[0], 3, padding=1, bias=False)
        view = f"conv-operator:{sizes[2]}x{sizes[2]}"
        (one,) = plan_jobs(list(iter_weights(layer, views=view)), settings)
        # Of operators that are not formed: every step that Lanczos may take.
        assert found <= working_bytes(one, settings) + 4e6, sizes
        assert working_bytes(one, settings) <= 10 * found + 3e7, sizes


def test_a_matrix_that_is_never_formed_is_counted_by_its_parts():
    settings = Settings.of(None)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular", bias=False)
    (operator,) = plan_jobs(
        list(iter_weights(layer, views="conv-operator:64x64")), settings
    )
    assert operator.weights[0].shape == (64 * 64**2, 64 * 64**2)
    # Blocks of the Fourier transform, 16 bytes an entry, and 200 Lanczos vectors.
    least = 16 * 64**2 * 64**2
    assert least <= working_bytes(operator, settings) <= 10 * least + 200 * 8 * 64**3


def test_jobs_run_side_by_side_up_to_the_ceiling():
    settings = Settings.of("nuclear_norm")
    a, b, c = job(settings, (300, 200), (200, 190), (150, 140))
    sizes = [working_bytes(x, settings) for x in (a, b, c)]
    assert sizes == sorted(sizes, reverse=True)
    assert fits(b, [a], settings, sizes[0] + sizes[1])
    assert not fits(b, [a], settings, sizes[0] + sizes[1] - 1)
    assert not fits(c, [a, b], settings, sizes[0] + sizes[1])
    assert fits(a, [], settings, 1)
    assert fits(c, [a, b], settings, None)


def test_only_what_is_above_the_ceiling_alone_is_refused():
    settings = Settings.of("nuclear_norm")
    jobs = job(settings, (300, 200), (200, 190))
    ceiling = working_bytes(jobs[0], settings)
    assert admitted(jobs, settings, ceiling) == (jobs, [])
    assert admitted(jobs, settings, None) == (jobs, [])
    good, refused = admitted(jobs, settings, ceiling - 1)
    assert good == jobs[1:]
    ((lost, outcome),) = refused
    assert lost == jobs[0]
    assert "raise memory" in outcome.rows[0][0]["reason"]


def test_a_batch_is_cut_to_what_the_ceiling_allows():
    settings = Settings.of("nuclear_norm")
    source = {f"w{i}": torch.empty(64, 64) for i in range(200)}
    weights = list(iter_weights(source))
    ceiling = 8_000_000
    whole = plan_jobs(weights, settings)
    cut = plan_jobs(weights, settings, memory=ceiling)
    assert len(whole) == 1 < len(cut)
    assert admitted(whole, settings, ceiling)[0] == []
    assert admitted(cut, settings, ceiling) == (cut, [])
    assert [p for j in cut for p in j.positions] == list(range(200))


@pytest.mark.parametrize(
    ("metrics", "certify", "way_out"),
    [
        ("stable_rank", "probabilistic", "raise memory"),
        ("stable_rank", "deterministic", "raise memory, or ask for norms alone"),
        ("nuclear_norm", "probabilistic", "raise memory, or ask for norms alone"),
    ],
)
def test_a_refusal_offers_only_what_was_not_asked_for_already(
    metrics, certify, way_out
):
    settings = Settings.of(metrics, certify=certify)
    _, ((_, outcome),) = admitted(job(settings, (300, 200)), settings, 1500)
    reason = outcome.rows[0][0]["reason"]
    assert "the ceiling is 1.5 kB; " in reason
    assert reason.endswith(f"; {way_out}")


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999 B"), (1000, "1.0 kB"), (2_340_000, "2.3 MB"), (5e9, "5,000.0 MB")],
)
def test_bytes_are_told_in_a_unit_that_shows_them(number, text):
    assert in_bytes(number) == text
