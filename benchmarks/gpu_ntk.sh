#!/bin/sh
# Kernel of 10,000 samples (trace, perceptron 784-512-512-10) on a GPU at hand.
# Prints seconds, peak memory and the error of 100 rows against float64 on the CPU.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "skipped: torch sees no GPU here"
    exit 0
fi
PYTHONPATH=benchmarks "$PYTHON" - <<'CODE'
import copy
import json
import time

import torch
from harness import environment
from ntk_child import torch_model

import spectrank as sr

N = 10_000
model = torch_model("mlp").cuda()
x = torch.randn(N, 784, generator=torch.Generator().manual_seed(0)).cuda()
sr.ntk.empirical(model, x[:256], outputs="trace")
times = []
for _ in range(5):
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    start = time.perf_counter()
    K = sr.ntk.empirical(model, x, outputs="trace")
    torch.cuda.synchronize()
    times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() - held
rows = torch.arange(0, N, N // 100, device="cuda")
few = x[rows].cpu().double()
truth = sr.ntk.empirical(copy.deepcopy(model).cpu().double(), few, outputs="trace")
error = (K[rows][:, rows].cpu().double() - truth).abs().max() / truth.abs().max()
print(
    json.dumps(
        {
            "gpu": torch.cuda.get_device_name(),
            "samples": N,
            "seconds": min(times),
            "peak_bytes": peak,
            "output_bytes": K.numel() * K.element_size(),
            "symmetric": bool(torch.equal(K, K.T)),
            "relative_error_of_100_rows": float(error),
            "environment": environment(),
        },
        indent=2,
    )
)
CODE
