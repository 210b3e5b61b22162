"""Predictions of temper, whose moments are means over drawn spectra."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spectrank.linalg.ensembles.temper import gaussian_log_values
from spectrank.propagation import predict
from spectrank.random_nets import RandomMLP


def test_spectra_of_temper_are_drawn_once_for_all_layers_and_moments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []

    def counted(m: int, n: int, num: int, rng: Any) -> torch.Tensor:
        sizes.append((m, n, num))
        return gaussian_log_values(m, n, num, rng)

    monkeypatch.setattr(
        "spectrank.linalg.ensembles.temper.gaussian_log_values", counted
    )
    # Sizes of no other test, as the memo outlives it.
    table = predict(RandomMLP([601, 611, 601], stable_rank=[20, 30], spectrum="temper"))
    assert sizes == [(611, 601, 27)]
    for metric in ("signal_second_moment", "log_signal_mean"):
        (found,) = table.where(metric=metric, variant="pre", index=2)
        # Few draws, and yet well known: a second moment here is 1.1.
        assert 0.0 < found["standard_error"] < 2e-3
