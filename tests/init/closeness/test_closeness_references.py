"""Reference initialisations against the functions of torch that make them."""

import math

import pytest
import torch
from scipy.stats import chi2
from tolerances import FLOAT64, STANDARD_ERRORS
from torch import nn

from spectrank.init.closeness.references import references


def linear(fill):
    def make():
        return fill(torch.empty(300, 200)), {}

    return make


def conv_by(fill):
    def make():
        W = fill(torch.empty(80, 40, 3, 5))
        return W.flatten(1), {"kernel": 15}

    return make


def lstm():
    weight = nn.LSTM(150, 100).weight_ih_l0.detach()
    return weight, {"layer_type": "LSTM"}


MADE = {
    "he-normal": [linear(nn.init.kaiming_normal_), conv_by(nn.init.kaiming_normal_)],
    "he-uniform": [linear(nn.init.kaiming_uniform_)],
    "lecun-normal": [
        linear(lambda W: nn.init.kaiming_normal_(W, nonlinearity="linear"))
    ],
    "glorot-normal": [linear(nn.init.xavier_normal_), conv_by(nn.init.xavier_normal_)],
    "glorot-uniform": [conv_by(nn.init.xavier_uniform_)],
    "torch-default": [
        lambda: (nn.Linear(200, 300).weight.detach(), {}),
        lambda: (nn.Conv2d(20, 60, 5).weight.detach().flatten(1), {"kernel": 25}),
    ],
    "rnn-default": [lstm],
    "orthogonal": [linear(nn.init.orthogonal_)],
    "normal-1": [lambda: (nn.Embedding(300, 200).weight.detach(), {})],
    "normal-0.02": [linear(lambda W: nn.init.normal_(W, std=0.02))],
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_variance_is_that_of_what_torch_fills(name, seed):
    for make in MADE[name]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            W, options = make()
        m, n = W.shape
        known = {r.name: r for r in references(m, n, **options)}
        reference = known[name]
        square = float(W.double().square().mean())
        kurtosis = {"normal": 2.0, "uniform": 0.8, "orthogonal": 0.0}[reference.law]
        error = reference.variance * math.sqrt(kurtosis / (m * n))
        slack = STANDARD_ERRORS * error + 1e-6 * reference.variance
        assert abs(square - reference.variance) <= slack
        norm, deviation = reference.frobenius_norm(m, n)
        found = float(W.double().norm())
        assert abs(found - norm) <= STANDARD_ERRORS * deviation + 1e-6 * norm
        assert reference.scale_p_value(found, m, n) > 1e-4
        for factor in (0.9, 1.1):
            assert reference.scale_p_value(found * factor, m, n) < 1e-9


def test_the_p_value_of_a_normal_scale_is_that_of_the_chi_squared_law():
    reference = {r.name: r for r in references(3, 4)}["he-normal"]
    for square in (2.0, 8.0, 12.0, 30.0):
        frobenius = math.sqrt(square * reference.variance)
        tail = min(chi2.cdf(square, 12), chi2.sf(square, 12))
        p = reference.scale_p_value(frobenius, 3, 4)
        assert p == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


@pytest.mark.parametrize("name", ["he-normal", "torch-default"])
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_fresh_scale_is_rejected_as_often_as_the_level_says(name, seed):
    m, n, num, level = 6, 8, 20_000, 0.05
    reference = {r.name: r for r in references(m, n)}[name]
    generator = torch.Generator().manual_seed(seed)
    if reference.law == "normal":
        W = torch.randn(num, m, n, generator=generator, dtype=torch.float64)
    else:
        W = torch.rand(num, m, n, generator=generator, dtype=torch.float64)
        W = (2 * W - 1) * math.sqrt(3.0)
    norms = (W * math.sqrt(reference.variance)).flatten(1).norm(dim=1)
    _, deviation = reference.frobenius_norm(m, n)
    rejected = sum(
        reference.scale_p_value(norm, m, n) <= level for norm in norms.tolist()
    )
    # Uniform: the central limit theorem at 48 entries, a tenth of the level.
    slack = STANDARD_ERRORS * math.sqrt(level * (1 - level) * num) + 0.1 * level * num
    assert abs(rejected - level * num) <= slack
    assert float(norms.std()) == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize("scale", [1e-180, 1e180])
def test_the_scale_of_an_extreme_matrix_is_no_overflow(scale):
    for reference in references(4, 4):
        assert 0.0 <= reference.scale_p_value(scale, 4, 4) < 1e-4


def test_an_orthogonal_norm_is_not_random():
    reference = {r.name: r for r in references(5, 9)}["orthogonal"]
    norm, deviation = reference.frobenius_norm(5, 9)
    assert norm == pytest.approx(math.sqrt(5), rel=FLOAT64)
    assert deviation == 0.0
    assert reference.scale_p_value(norm, 5, 9) == 1.0
    assert reference.scale_p_value(1.01 * norm, 5, 9) == 0.0


def test_only_recurrent_layers_have_the_recurrent_default():
    names = [r.name for r in references(8, 8)]
    assert "rnn-default" not in names
    gru = {r.name: r for r in references(30, 7, layer_type="GRU")}
    assert gru["rnn-default"].variance == pytest.approx(1 / 30)
