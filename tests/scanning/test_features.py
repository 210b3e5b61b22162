"""Spectra of features: against a dense SVD of all rows at once."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import spectrank as sr
from spectrank.errors import DomainError, UnknownNameError
from spectrank.metrics import alpha_req, rankme


def _data(num, dim, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(num, dim, generator=g, dtype=torch.float64)
    return x * torch.logspace(0, -2, dim, dtype=torch.float64) + 3.0


def _value(table, subject, metric, view):
    (row,) = list(
        table.where(kind="measurement", subject=subject, metric=metric, view=view)
    )
    return row


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_a_pass_in_batches_is_a_dense_svd_of_all_features(batch):
    x = _data(200, 6)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)).double()
    with torch.no_grad():
        features = {"0": model[0](x), "2": model(x)}
    table = sr.scan_features(model, x.split(batch))
    for name, f in features.items():
        f = f.numpy()
        for view, matrix in (("raw", f), ("centred", f - f.mean(0))):
            s = np.linalg.svd(matrix / math.sqrt(len(f)), compute_uv=False)
            found = table.spectrum(name, view=f"outputs-{view}")
            assert found == pytest.approx(s, rel=1e-8, abs=1e-7 * s[0])
        s = np.linalg.svd(f, compute_uv=False)
        p = s / s.sum() + 1e-7
        row = _value(table, name, "rankme", "outputs-raw")
        truth = np.exp(-(p * np.log(p)).sum())
        assert row["value"] == pytest.approx(truth, rel=1e-6)
        assert row["lower"] <= truth <= row["upper"]
        c = np.cov(f.T, bias=True)
        row = _value(table, name, "participation_ratio", "outputs-centred")
        truth = np.trace(c) ** 2 / np.trace(c @ c)
        assert row["value"] == pytest.approx(truth, rel=1e-10)
        assert (row["m"], row["n"]) == f.shape
        row = _value(table, name, "stable_rank", "outputs-centred")
        truth = np.trace(c) / np.linalg.eigvalsh(c)[-1]
        assert row["value"] == pytest.approx(truth, rel=1e-10)


def test_fewer_rows_than_features_have_no_more_ranks_than_rows():
    table = sr.scan_features(nn.Linear(6, 40).double(), [_data(5, 6)], layers=nn.Linear)
    row = _value(table, "", "numerical_rank", "outputs-centred")
    assert row["value"] == 4
    assert len(table.spectrum("", view="outputs-centred")) == 5


@pytest.mark.parametrize(
    ("rows", "shape"), [("positions", (48, 3)), ("samples", (4, 36)), ("means", (4, 3))]
)
def test_what_a_row_of_a_convolution_is(rows, shape):
    x = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    model = nn.Sequential(nn.Conv2d(2, 3, (3, 3))).double()
    with torch.no_grad():
        f = model(x)
    matrix = {
        "positions": f.permute(0, 2, 3, 1).reshape(-1, 3),
        "samples": f.reshape(4, -1),
        "means": f.mean(dim=(2, 3)),
    }[rows]
    table = sr.scan_features(model, [x[:1], x[1:]], rows=rows)
    s = np.linalg.svd(matrix.numpy() / math.sqrt(len(matrix)), compute_uv=False)
    found = table.spectrum("0", view="outputs-raw")
    assert found == pytest.approx(s, rel=1e-8, abs=1e-7 * s[0])
    row = _value(table, "0", "rankme", "outputs-raw")
    assert (row["m"], row["n"]) == shape


def test_inputs_are_measured_too_and_padding_is_left_out():
    model = nn.Sequential(nn.Linear(6, 3)).double()
    x = _data(60, 6)
    table = sr.scan_features(model, [x], at="inputs", centred=True)
    s = np.linalg.svd((x - x.mean(0)).numpy() / math.sqrt(60), compute_uv=False)
    assert table.spectrum("0", view="inputs-centred") == pytest.approx(s, rel=1e-8)
    assert set(table.where(kind="measurement").frame["view"]) == {"inputs-centred"}


def test_equal_features_are_degenerate_and_a_layer_without_them_is_named():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.used(x)

    x = torch.ones(10, 3)
    with pytest.warns(sr.errors.SpectrankWarning, match="unused"):
        table = sr.scan_features(Lazy(), [x])
    row = _value(table, "used", "stable_rank", "outputs-centred")
    assert row["status"] == "degenerate"
    assert row["reason"] == "all rows are equal"
    # RankMe of rank one, up to its 1e-7.
    row = _value(table, "used", "rankme", "outputs-raw")
    assert row["value"] == pytest.approx(1.0, abs=1e-4)
    (skip,) = list(table.where(kind="skip"))
    assert skip["subject"] == "unused"


def test_features_that_are_not_finite_are_said_to_be():
    x = torch.ones(10, 3)
    x[4, 1] = math.nan
    table = sr.scan_features(nn.Sequential(nn.Linear(3, 4)), [x])
    assert set(table.where(kind="measurement").frame["status"]) == {"nonfinite"}


def test_scatters_that_do_not_fit_are_refused_before_they_are_made():
    model = nn.Sequential(nn.Linear(3, 300_000))
    with pytest.raises(DomainError, match="the largest is 0 with 300000 features"):
        sr.scan_features(model, [torch.ones(2, 3)])
    with pytest.raises(UnknownNameError, match="rows is one of positions, samples"):
        sr.scan_features(model, [], rows="tokens")


def test_samples_of_two_lengths_are_refused_with_the_layer_and_a_way_out():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    loader = [torch.randn(4, 3, 3), torch.randn(4, 2, 3)]
    with pytest.raises(DomainError, match=r"0 have 15 .* and 10 .*rows='positions'"):
        sr.scan_features(model, loader, rows="samples")
    table = sr.scan_features(model, loader, rows="positions", metrics="rankme")
    assert table.where(kind="measurement").frame["m"].to_list() == [20]


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    sr.scan_features(model, [torch.randn(8, 3, generator=torch.Generator())])
    assert torch.equal(torch.rand(1), wanted)
    assert model.training
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_req_is_the_exponent_of_an_exact_power_law(alpha):
    i = torch.arange(1, 151, dtype=torch.float64)
    W = torch.diag(i ** (-alpha / 2))
    value = alpha_req(W)
    assert value.value == pytest.approx(alpha, abs=1e-9)
    assert value.error_kind == "stderr"


def test_alpha_req_is_the_weighted_least_squares_of_numpy():
    g = torch.Generator().manual_seed(3)
    W = torch.randn(80, 60, generator=g, dtype=torch.float64)
    s = np.linalg.svd(W.numpy(), compute_uv=False)
    first, last = 4, 50
    i = np.arange(first, last + 1)
    # polyfit weighs residuals, so the square root of the weight 1/i.
    fit, cov = np.polyfit(
        np.log(i), 2 * np.log(s[first - 1 : last]), 1, w=i**-0.5, cov="unscaled"
    )
    value = alpha_req(W, first=first, last=last)
    assert value.value == pytest.approx(-fit[0], rel=1e-9)
    left = 2 * np.log(s[first - 1 : last]) - np.polyval(fit, np.log(i))
    variance = (left**2 / i).sum() / (len(i) - 2)
    assert value.upper - value.value == pytest.approx(
        math.sqrt(cov[0, 0] * variance), rel=1e-9
    )
    with pytest.raises(DomainError, match="at least three"):
        alpha_req(W, first=5, last=6)
    assert alpha_req(torch.eye(4), first=4, last=9).status == "degenerate"


def test_rankme_is_not_the_effective_rank_of_eigenvalues():
    # The false friend of some codes: eigenvalues in the place of singular values.
    W = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    p = np.array([2 / 3, 1 / 3])
    assert rankme(W).value == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    q = np.array([4 / 5, 1 / 5])
    wrong = np.exp(-(q * np.log(q)).sum())
    assert abs(rankme(W).value - wrong) > 0.1
