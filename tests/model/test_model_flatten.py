"""Nested checkpoints: which names the tensors get and what is said to be no weight."""

from typing import Any

import numpy as np
import pytest
import torch

from spectrank.errors import CheckpointError
from spectrank.model import Skip, WeightMatrix, describe, iter_weights
from spectrank.model.flatten import CONTAINERS, flatten_checkpoint

W = torch.arange(6.0).reshape(2, 3)


def names(loaded: Any) -> list[str]:
    return [item.name for item in flatten_checkpoint(loaded)]


@pytest.mark.parametrize("key", CONTAINERS)
def test_a_single_container_is_unwrapped(key: str) -> None:
    assert names({key: {"a.weight": W}, "epoch": 3}) == ["a.weight"]


def test_what_lies_beside_the_container_is_named_and_no_weight() -> None:
    checkpoint = {
        "epoch": 3,
        "state_dict": {"a.weight": W},
        "optimizer": {"state": {0: {"exp_avg": W.clone()}}, "param_groups": [{}]},
        "ema": [W.clone()],
    }
    found = {row.name: row for row in iter_weights(checkpoint)}
    assert list(found) == ["a.weight", "optimizer.state.0.exp_avg", "ema.0"]
    assert isinstance(found["a.weight"], WeightMatrix)
    for name in ("optimizer.state.0.exp_avg", "ema.0"):
        row = found[name]
        assert isinstance(row, Skip)
        assert row.reason == (
            "lies beside the weights (under 'state_dict'), not among them"
        )
    assert describe(checkpoint).num_parameters == 6
    assert describe(checkpoint).num_tensors == 3


def test_two_containers_keep_dotted_names() -> None:
    assert names({"model": {"a": W}, "net": {"a": W}}) == ["model.a", "net.a"]


def test_a_container_without_tensors_is_none() -> None:
    assert names({"model": {"name": "x"}, "generator": {"a": W}}) == ["generator.a"]


def test_a_tensor_named_like_a_container_is_a_tensor() -> None:
    assert names({"model": W, "weights": {"a": W}}) == ["model", "weights.a"]


def test_an_optimizer_beside_unknown_containers_is_no_weight() -> None:
    checkpoint = {"generator": {"a": W}, "optimizer_g": {"m": W.clone()}}
    reasons = {item.name: item.reason for item in flatten_checkpoint(checkpoint)}
    assert reasons["generator.a"] is None
    assert "state of the training" in str(reasons["optimizer_g.m"])


def test_prefixes_of_trainers_are_kept() -> None:
    assert names({"state_dict": {"module.net.a": W}}) == ["module.net.a"]


def test_a_bare_tensor_and_a_list_have_names() -> None:
    assert names(W) == ["tensor"]
    assert names([W, {"a": W}, "text", 3, None]) == ["0", "1.a"]
    assert names("text") == []


def test_one_name_for_two_tensors_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"'a\.b' belongs to two"):
        flatten_checkpoint({"a.b": W, "a": {"b": W}})


def test_a_mapping_that_contains_itself_is_an_error_not_a_hang() -> None:
    loop: dict[str, Any] = {"a": W}
    loop["s"] = loop
    with pytest.raises(CheckpointError, match="nest at most 64 deep"):
        flatten_checkpoint(loop)


def test_exponential_references_are_an_error_not_a_hang() -> None:
    level: Any = {"w": W}
    for _ in range(40):
        level = {"a": level, "b": level}
    with pytest.raises(CheckpointError, match="hold at most 200000 items"):
        flatten_checkpoint(level)


def test_endless_names_are_an_error() -> None:
    with pytest.raises(CheckpointError, match="names of at most 4096 characters"):
        flatten_checkpoint({"x" * 5000: W})


def test_a_long_history_of_numbers_is_harmless() -> None:
    assert names({"losses": [0.1] * 300_000, "net": {"a": W}}) == ["a"]


def test_arrays_of_numpy_are_tensors_without_a_copy_where_that_can_be():
    plain = np.arange(6.0).reshape(2, 3)
    frozen = plain.copy()
    frozen.flags.writeable = False
    arrays = {
        "plain": plain,
        "swapped": plain.astype(">f4"),
        "turned": plain.T,
        "frozen": frozen,
        "half": plain.astype(np.float16),
        "wide": plain.astype(np.longdouble),
    }
    found = {item.name: item.tensor for item in flatten_checkpoint(arrays)}
    assert found.keys() == arrays.keys()
    for name, x in arrays.items():
        assert np.array_equal(found[name].numpy(), x.astype(found[name].numpy().dtype))
    assert found["plain"].data_ptr() == plain.ctypes.data
    assert found["half"].dtype == torch.float16
    assert flatten_checkpoint({"words": np.array(["a"]), "n": np.float64(1.0)}) == []
    assert [item.name for item in flatten_checkpoint(plain)] == ["tensor"]
    mixed = {"w": plain, "model": {"a": torch.ones(2, 2)}}
    assert [item.name for item in flatten_checkpoint(mixed)] == ["w", "model.a"]
