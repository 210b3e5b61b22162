"""A killed fleet goes on bit for bit; a damaged or foreign file is an error."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from fleet_loop import class_data, perceptron

from spectrank.errors import CheckpointError
from spectrank.train import SGD, Adam, stack, train_fleet

SUPPORT = Path(__file__).parents[2] / "support"

# An epoch has four batches, so that the fourth write falls between two epochs. The same
# fleet in this process and in the one that dies.
SETUP = """
import torch
from fleet_loop import class_data, perceptron
from torch import nn
from spectrank.train import SGD, Adam, stack, train_fleet

def fleet(path, kind, on_step=None, **changed):
    nets = [perceptron([7, 9, 2], activation=nn.Tanh, seed=i) for i in range(7)]
    x, _ = class_data()
    y = (x[:, 0] > 0).long()
    rule = {
        "sgd": SGD(learning_rate=[0.05 * (i + 1) for i in range(7)], momentum=0.9),
        "adam": Adam(learning_rate=0.05, weight_decay=0.01, decoupled=True),
    }[kind.split()[0]]
    options = dict(
        optimizer=rule, batch_size=10, seeds=range(7),
        max_steps=[24, 3, 24, 15, 24, 9, 19],
        target_loss=0.3, group_size=3, schedule=lambda step: 1 / (1 + 0.01 * step),
        checkpoint=path, checkpoint_every=5, on_step=on_step,
        route="vmap" if "vmap" in kind else "auto",
    )
    return train_fleet(nets[0], stack(nets), x, y, **{**options, **changed})
"""
DYING = """
import os, sys
from pathlib import Path
sys.path.insert(0, {support!r})
{setup}
replace, count = Path.replace, 0

def dies(self, target):
    # At the {at}-th write: before the new file is in place, or just after.
    global count
    count += 1
    if count == {at} and not {after}:
        os._exit(7)
    result = replace(self, target)
    if count == {at}:
        os._exit(7)
    return result

Path.replace = dies
fleet({path!r}, {kind!r})
"""
namespace = {}
exec(SETUP, namespace)
fleet = namespace["fleet"]


def assert_same_bits(a, b):
    assert a.status == b.status
    for name in ("num_steps", "final_loss", "losses"):
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True), name
    assert all(torch.equal(p, b.parameters[name]) for name, p in a.parameters.items())


@pytest.mark.parametrize(
    ("kind", "at", "after"),
    [("sgd", 3, False), ("adam", 4, True), ("sgd vmap", 2, True)],
)
def test_a_fleet_killed_at_a_write_goes_on_bit_for_bit(tmp_path, kind, at, after):
    path = tmp_path / "fleet.safetensors"
    code = DYING.format(
        support=str(SUPPORT),
        setup=SETUP,
        at=at,
        after=after,
        path=str(path),
        kind=kind,
    )
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == 7
    # What is there is whole: the last finished write, and it is not the end.
    with safetensors.safe_open(path, framework="pt") as file:
        assert int(file.metadata()["step"]) == 5 * (at if after else at - 1)
    steps = []
    resumed = fleet(path, kind, on_step=lambda step, _: steps.append(step))
    assert steps[0] == 5 * (at if after else at - 1) + 1
    whole = fleet(tmp_path / "whole.safetensors", kind)
    assert_same_bits(resumed, whole)
    # Neither do the writes change anything.
    assert_same_bits(fleet(None, kind), whole)
    assert {"target", "max_steps"} <= set(whole.status)


def test_a_finished_fleet_is_read_back(tmp_path):
    path = tmp_path / "fleet.safetensors"
    first = fleet(path, "sgd")
    steps = []
    again = fleet(path, "sgd", on_step=lambda step, _: steps.append(step))
    assert not steps
    assert_same_bits(first, again)
    assert [p.name for p in tmp_path.iterdir()] == ["fleet.safetensors"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"batch_size": 12}, "batches"),
        ({"seeds": range(1, 8)}, "batches"),
        ({"max_steps": 3}, "stopping"),
        ({"target_loss": 0.2}, "stopping"),
        ({"clip_norm": 1.0}, "clipping"),
        ({"schedule": None}, "schedule"),
        ({"optimizer": SGD(learning_rate=0.1)}, "optimizer"),
        ({"optimizer": Adam(learning_rate=0.1)}, "optimizer"),
        ({"loss": "mse"}, "loss"),
        ({"route": "loop"}, "architecture"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, changed, word):
    path = tmp_path / "fleet.safetensors"
    fleet(path, "sgd", max_steps=2)
    before = path.read_bytes()
    options = {"max_steps": 2, **changed}
    if changed.get("loss") == "mse":
        # The same labels as numbers would be other data; the message names both.
        nets = [perceptron([7, 9, 2], seed=i) for i in range(7)]
        x, y = class_data(classes=2)
        with pytest.raises(CheckpointError, match=r"other .*loss"):
            train_fleet(
                nets[0],
                stack(nets),
                x,
                torch.nn.functional.one_hot(y).double(),
                optimizer=SGD(learning_rate=0.1),
                max_steps=2,
                loss="mse",
                checkpoint=path,
            )
    else:
        with pytest.raises(CheckpointError, match=f"other .*{word}.* give the same"):
            fleet(path, "sgd", **options)
    assert path.read_bytes() == before


def simple(path, *, widths=(7, 9, 2), seed=0, shift=0.0, count=3):
    nets = [perceptron(list(widths), seed=seed + i) for i in range(count)]
    x, y = class_data(classes=2)
    return train_fleet(
        nets[0],
        stack(nets),
        x + shift,
        y,
        optimizer=SGD(learning_rate=0.1),
        max_steps=2,
        checkpoint=path,
    )


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"widths": (7, 8, 2)}, "architecture"),
        ({"seed": 1}, "starting parameters"),
        ({"shift": 1e-9}, "data"),
        ({"count": 2}, "starting parameters"),
    ],
)
def test_a_checkpoint_of_another_fleet_is_refused(tmp_path, changed, word):
    path = tmp_path / "fleet.safetensors"
    simple(path)
    with pytest.raises(CheckpointError, match=f"other .*{word}"):
        simple(path, **changed)


@pytest.mark.parametrize("place", [0, 5, 40, 0.3, 0.6, 0.9, -1])
def test_a_flipped_bit_is_an_error_wherever_it_is(tmp_path, place):
    path = tmp_path / "fleet.safetensors"
    simple(path)
    raw = bytearray(path.read_bytes())
    at = int(place * len(raw)) if isinstance(place, float) else place
    raw[at] ^= 16
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"delete it|give another|other"):
        simple(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_an_error(tmp_path, share):
    path = tmp_path / "fleet.safetensors"
    simple(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(CheckpointError, match="whole safetensors file"):
        simple(path)


class Bomb:
    def __reduce__(self):
        return (os._exit, (99,))


def test_a_pickle_is_not_run_and_another_tensor_file_not_taken(tmp_path):
    path = tmp_path / "fleet.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="whole safetensors file"):
        simple(path)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="has the format"):
        simple(path)


def test_a_header_that_was_edited_is_an_error(tmp_path):
    path = tmp_path / "fleet.safetensors"
    simple(path)
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"]["step"] = "1"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    with pytest.raises(CheckpointError, match="checksum"):
        simple(path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="existing, writable folder"):
        simple(tmp_path / "nowhere" / "fleet.safetensors")
