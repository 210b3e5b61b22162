#!/bin/sh
# Scan of a synthetic checkpoint of a 7 B-parameter decoder (bfloat16, 13.5 GB) on a GPU
# at hand. Prints seconds, rates, peak memory and the worst error of a few matrices
# against float64 on the host. TMPDIR holds the checkpoint while it runs.
# DEVICE=cpu LAYERS=1 WIDTH=64 runs the same code small, without a GPU.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
export DEVICE="${DEVICE:-cuda}" LAYERS="${LAYERS:-32}" WIDTH="${WIDTH:-4096}"
if [ "$DEVICE" = cuda ] &&
    ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "skipped: torch sees no GPU here"
    exit 0
fi
PYTHONPATH=benchmarks "$PYTHON" - <<'CODE'
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from harness import environment
from safetensors.torch import save_file

import spectrank as sr

DEVICE, LAYERS, WIDTH = (os.environ[k] for k in ("DEVICE", "LAYERS", "WIDTH"))
LAYERS, WIDTH = int(LAYERS), int(WIDTH)
HIDDEN, VOCABULARY = WIDTH * 43 // 16, WIDTH * 125 // 16
ATTENTION = {f"self_attn.{x}_proj": (WIDTH, WIDTH) for x in "qkvo"}
MLP = {
    "mlp.gate_proj": (HIDDEN, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH),
    "mlp.down_proj": (WIDTH, HIDDEN),
}
RUNS = {
    "norms": {"metrics": "stable_rank,spectral_norm,frobenius_norm"},
    "ranks and norms": {},
    "all metrics": {"metrics": "all"},
}
CHECKED = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
]


def matrix(generator, m, n):
    # Power-law columns, so that there is something to find.
    W = torch.randn(m, n, generator=generator, device=DEVICE)
    decay = torch.arange(1, n + 1, device=DEVICE).float() ** -0.3
    return (W * decay * 0.02).bfloat16().cpu()


def write(folder):
    generator = torch.Generator(DEVICE).manual_seed(0)
    outer = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "lm_head.weight": (VOCABULARY, WIDTH),
    }
    shards = [outer] + [
        {f"model.layers.{i}.{k}.weight": s for k, s in {**ATTENTION, **MLP}.items()}
        for i in range(LAYERS)
    ]
    weight_map = {}
    for number, shapes in enumerate(shards):
        name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(
            {k: matrix(generator, *s) for k, s in shapes.items()}, folder / name
        )
        weight_map |= dict.fromkeys(shapes, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def synchronised():
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def scanned(folder, options):
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = synchronised()
    table = sr.scan(folder, device=DEVICE, spectra=False, **options)
    seconds = synchronised() - start
    count = table.provenance["num_parameters_measured"]
    return table, {
        "seconds": round(seconds, 2),
        "million_parameters_per_second": round(count / seconds / 1e6, 1),
        "peak_bytes": torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None,
        "not_measured": len(table.where(kind="skip")),
    }


def worst_error(folder, table):
    host = sr.scan(folder, select=CHECKED, metrics="stable_rank", rtol=1e-8)
    pairs = [
        (table.value(n, "stable_rank"), host.value(n, "stable_rank")) for n in CHECKED
    ]
    return max(abs(a - b) / b for a, b in pairs)


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    write(folder)
    sr.scan(folder, device=DEVICE, select=CHECKED[1])
    report = {}
    for label, options in RUNS.items():
        table, report[label] = scanned(folder, options)
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
                "parameters": table.provenance["num_parameters"],
                "matrices": table.where(kind="measurement").frame["subject"].n_unique(),
                "runs": report,
                "worst_relative_error_of_3": worst_error(folder, table),
                "environment": environment(),
            },
            indent=2,
        )
    )
CODE
