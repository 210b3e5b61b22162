"""Standardised rows and rows of length one."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler, normalize
from tolerances import FLOAT64

from spectrank.errors import DomainError, ShapeError
from spectrank.experiments.data import fit_standardiser, unit_norm


def rows(n=40, d=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) * 3 + 5


def test_standardising_agrees_with_scikit_learn_on_train_and_test():
    # More rows than one piece holds.
    train, test = rows(n=5000), rows(seed=1)
    standardise, peer = fit_standardiser(train), StandardScaler().fit(train.numpy())
    for x in (train, test):
        difference = standardise(x) - torch.from_numpy(peer.transform(x.numpy()))
        assert difference.abs().max() < FLOAT64


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-200, 1e200])
def test_a_constant_feature_becomes_exactly_zero(value):
    x = rows()
    x[:, 2] = value
    found = fit_standardiser(x)(x)
    assert torch.equal(found[:, 2], torch.zeros(40, dtype=torch.float64))
    assert (found[:, [0, 1]].std(0, correction=0) - 1).abs().max() < FLOAT64


def test_a_standardiser_keeps_the_dtype_and_refuses_other_widths():
    standardise = fit_standardiser(rows())
    assert standardise(rows().float()).dtype == torch.float32
    with pytest.raises(ShapeError, match=r"must be \(N, 7\)"):
        standardise(rows(d=6))
    with pytest.raises(ShapeError, match="N >= 2"):
        fit_standardiser(rows(n=1))


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e200])
def test_rows_of_any_size_come_to_length_one(scale):
    x = rows() * scale
    truth = torch.from_numpy(normalize(rows().numpy()))
    assert (unit_norm(x) - truth).abs().max() < FLOAT64


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_a_row_without_direction_is_an_error(value):
    x = rows()
    x[3] = value
    with pytest.raises(DomainError, match="first: row 3"):
        unit_norm(x)
