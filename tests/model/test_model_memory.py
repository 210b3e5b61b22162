"""Resident memory while a checkpoint is read does not grow with the file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectrank.model.window import Window

SIDE = 1024
NUM_SHARDS = 4
NUM_PER_SHARD = 12
MATRIX_BYTES = SIDE * SIDE * 4
FILE_BYTES = NUM_SHARDS * NUM_PER_SHARD * MATRIX_BYTES

# Resets the peak (Linux: 5 to clear_refs), reads every matrix once, prints the peak
# above the memory before.
READER = """
import sys, torch
import spectrank.model as model

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(key))

float(torch.ones(64, 64).sum())
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = status("VmRSS")
kept = []
for row in model.iter_matrices(sys.argv[1]):
    float(row.tensor().sum())
    kept.append(row)
print(status("VmHWM") - before, len(kept))
"""


def write(folder: Path, suffix: str) -> None:
    weight_map = {}
    for shard in range(NUM_SHARDS):
        numbers = range(shard * NUM_PER_SHARD, (shard + 1) * NUM_PER_SHARD)
        tensors = {f"layer.{i}.weight": torch.full((SIDE, SIDE), 0.5) for i in numbers}
        file = f"shard-{shard}{suffix}"
        if suffix == ".safetensors":
            save_file(tensors, folder / file)
        else:
            torch.save(tensors, folder / file)
        weight_map.update(dict.fromkeys(tensors, file))
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"
)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_peak_memory_is_a_few_matrices_whatever_the_size(
    tmp_path: Path, suffix: str
) -> None:
    write(tmp_path, suffix)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    peak, count = map(int, done.stdout.split())
    assert count == NUM_SHARDS * NUM_PER_SHARD
    # 8 MiB is the least window; the rest is bookkeeping. The files have 192 MiB.
    assert peak < 3 * 2 * MATRIX_BYTES, f"{peak / 2**20:.0f} MiB of {FILE_BYTES >> 20}"


class CountingFile:
    def __init__(self, path: Path, *, mapped: bool) -> None:
        self.path = path
        self.mapped = mapped
        self.num_opened = 0

    def open(self) -> "CountingFile":
        self.num_opened += 1
        return self

    def read(self, name: str) -> torch.Tensor:
        return torch.zeros(1)


def opened(sizes: list[int], *, mapped: bool = True) -> int:
    window, file = Window(), CountingFile(Path("x"), mapped=mapped)
    window.fit(max(sizes))
    for size in sizes:
        window.read(file, "a", size)
    return file.num_opened


@pytest.mark.parametrize(
    ("sizes", "times"),
    [
        ([1 << 10] * 100, 1),
        ([4 << 20] * 4, 2),
        ([8 << 20] * 4, 4),
        ([100 << 20] * 3, 3),
        ([1 << 20, 100 << 20, 1 << 20], 3),
    ],
)
def test_a_file_is_reopened_before_the_window_overflows(
    sizes: list[int], times: int
) -> None:
    assert opened(sizes) == times


def test_a_file_that_cannot_be_mapped_is_read_once() -> None:
    assert opened([100 << 20] * 3, mapped=False) == 1


def test_only_one_file_is_open_at_a_time() -> None:
    window = Window()
    first, second = (CountingFile(Path(name), mapped=True) for name in "ab")
    for file in (first, second, second, first):
        window.read(file, "a", 1)
    assert (first.num_opened, second.num_opened) == (2, 1)
