"""Penalties on stable ranks: which weights they reach, with which targets."""

import pytest
import torch
from penalty_layers import expected, gradient, layer_of, matrix
from tolerances import FLOAT64
from torch import nn
from torch.nn.utils import parametrize

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.init.control import (
    StableRankPenalty,
    stable_rank_norm,
    stable_rank_penalty,
)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = layer_of(matrix(5, 5)), nn.Linear(5, 5).double()
        self.second.weight = self.first.weight


def test_tied_weights_count_once():
    value = float(stable_rank_penalty(Tied()).detach())
    assert value == pytest.approx(float(expected(matrix(5, 5))), rel=FLOAT64)


def test_layers_add_up_and_kernels_are_unfolded():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4)
    ).double()
    truth = sum(float(expected(model[k].weight.detach())) for k in (0, 3))
    got = float(stable_rank_penalty(model).detach())
    assert got == pytest.approx(truth, rel=FLOAT64)
    only = float(stable_rank_penalty(model, select="0.*").detach())
    assert only == pytest.approx(float(expected(model[0].weight.detach())), rel=FLOAT64)


def test_targets_may_be_given_by_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)).double()
    targets = {"0.*": 1.5, "[01].weight": 2.5}
    got = float(stable_rank_penalty(model, kind="square", target=targets).detach())
    truth = [
        float(expected(model[k].weight.detach(), "square", r))
        for k, r in ((0, 1.5), (1, 2.5))
    ]
    assert got == pytest.approx(sum(truth), rel=FLOAT64)


@pytest.mark.parametrize("make", [stable_rank_penalty, StableRankPenalty])
def test_it_reaches_through_a_parametrisation_and_moves_no_buffer(make):
    model = nn.utils.parametrizations.spectral_norm(layer_of(matrix()))
    with torch.no_grad():
        model.parametrizations.weight.original.add_(matrix(name="flat", seed=2))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    value = make(model)
    value = value() if make is StableRankPenalty else value
    original = model.parametrizations.weight.original
    # Spectral normalisation changes the scale alone.
    W = original.detach().clone().requires_grad_()
    truth = expected(W)
    assert float(value.detach()) == pytest.approx(float(truth.detach()), rel=FLOAT64)
    slope = gradient(value, original)
    assert torch.allclose(slope, gradient(truth, W), rtol=0.0, atol=FLOAT64)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(m.training for m in model.modules())


def test_factors_of_weight_norm_get_their_gradients():
    model = nn.utils.parametrizations.weight_norm(layer_of(matrix()))
    g, v = (getattr(model.parametrizations.weight, f"original{k}") for k in (0, 1))
    slopes = torch.autograd.grad(stable_rank_penalty(model), (g, v))
    p, q = (x.detach().clone().requires_grad_() for x in (g, v))
    truth = expected(p * q / q.norm(dim=1, keepdim=True))
    for ours, theirs in zip(slopes, torch.autograd.grad(truth, (p, q)), strict=True):
        assert torch.allclose(ours, theirs, rtol=0.0, atol=FLOAT64)


def test_inside_cached_the_weight_of_the_forward_pass_is_used():
    model = nn.utils.parametrizations.spectral_norm(layer_of(matrix()))
    with parametrize.cached():
        model(torch.ones(2, 5).double())
        used = model.weight
        value = stable_rank_penalty(model)
        # The gradient with respect to that very tensor exists.
        assert float(gradient(value, used).norm()) > 0


def test_a_weight_made_by_a_forward_hook_is_refused():
    model = nn.Sequential(layer_of(matrix()), layer_of(matrix(5, 6)))
    nn.utils.prune.random_unstructured(model[0], "weight", 0.5)
    with pytest.raises(DomainError, match=r"0\.weight is computed by a forward hook"):
        stable_rank_penalty(model)
    left = float(stable_rank_penalty(model, select="1.*").detach())
    assert left == pytest.approx(float(expected(matrix(5, 6))), rel=FLOAT64)


def test_each_group_of_a_convolution_counts():
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, groups=2).double()
    W = conv.weight.detach().clone().requires_grad_()
    truth = expected(W[:4]) + expected(W[4:])
    got = stable_rank_penalty(conv)
    assert float(got.detach()) == pytest.approx(float(truth.detach()), rel=FLOAT64)
    slopes = gradient(got, conv.weight), gradient(truth, W)
    assert torch.allclose(*slopes, rtol=0.0, atol=FLOAT64)
    carried = StableRankPenalty(conv)
    # The second call carries the vectors of each group.
    assert [float(carried().detach()) for _ in range(2)] == pytest.approx(
        [float(truth.detach())] * 2, rel=FLOAT64
    )


def test_a_layer_tied_to_a_normalised_one_counts_with_the_weight_it_uses():
    model = Tied()
    stable_rank_norm(model.first, 2.0)
    got = float(stable_rank_penalty(model, kind="plain").detach())
    stored = float(expected(matrix(5, 5), "plain"))
    assert got == pytest.approx(2.0 + stored, rel=FLOAT64)
    # Parametrised alike they are one again.
    shared = model.first.parametrizations.weight[-1]
    parametrize.register_parametrization(model.second, "weight", shared)
    got = float(stable_rank_penalty(model, kind="plain").detach())
    assert got == pytest.approx(2.0, rel=FLOAT64)


def test_one_hinge_serves_layers_that_never_exceed_it_and_vectors_are_left_out():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 8), nn.Linear(8, 2), nn.Conv1d(2, 2, 3, groups=2), nn.Linear(8, 1)
    ).double()
    got = float(stable_rank_penalty(model, kind="hinge", target=3.0).detach())
    truth = expected(model[0].weight.detach(), "hinge", 3.0)
    assert got == pytest.approx(float(truth), rel=FLOAT64)
    with pytest.raises(DomainError, match=r"^0\.weight: .*\[1, 8\]"):
        stable_rank_penalty(model, kind="hinge", target=9.0)
    # The square pulls upward: what cannot follow is refused, but for vectors.
    with pytest.raises(DomainError, match=r"^1\.weight: .*\[1, 2\]"):
        stable_rank_penalty(model, kind="square", target=3.0)
    target = {"1.*": 1.5, "*": 3.0}
    got = float(stable_rank_penalty(model, kind="square", target=target).detach())
    truth = sum(
        float(expected(model[k].weight.detach(), "square", r))
        for k, r in ((0, 3.0), (1, 1.5))
    )
    assert got == pytest.approx(truth, rel=FLOAT64)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "ridge"}, UnknownNameError, "log, hinge"),
        ({"kind": "hinge"}, DomainError, "pass target="),
        ({"kind": "log", "target": 2.0}, DomainError, "leave it out"),
        ({"kind": "plain", "fraction": 0.5}, DomainError, "leave it out"),
        ({"kind": "square", "target": 5.5}, DomainError, r"\[1, 5\]"),
        ({"kind": "hinge", "target": 0.5}, DomainError, r"\[1, 5\]"),
        ({"kind": "hinge", "target": 20.0}, DomainError, r"^weight: .*\[1, 5\].*20"),
        ({"kind": "hinge", "target": {"*": 6}}, DomainError, r"^weight: .*\[1, 5\]"),
        ({"kind": "log", "select": []}, DomainError, "at least one pattern, got"),
        ({"kind": "hinge", "target": 2, "fraction": 0.5}, DomainError, "stated once"),
        ({"kind": "hinge", "target": {"x": 2.0}}, DomainError, "match at least one"),
        ({"kind": "hinge", "target": {}}, DomainError, "got no keys"),
        (
            {"kind": "square", "target": {"*": 2.0, "0.wieght": 2.0}},
            DomainError,
            r"match at least one matrix, got '0\.wieght'",
        ),
        (
            {"kind": "square", "target": {"x": 2.0}, "fraction": 0.5},
            DomainError,
            "stated once.*give one",
        ),
        ({"select": "encoder.*"}, DomainError, "matches none"),
    ],
)
@pytest.mark.parametrize("make", [stable_rank_penalty, StableRankPenalty])
def test_bad_requests_are_refused(options, error, words, make):
    with pytest.raises(error, match=words):
        make(layer_of(matrix()), **options)


def test_what_has_no_matrix_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"torch\.nn\.Module"):
        stable_rank_penalty({"w": torch.ones(2, 2)})
    with pytest.raises(DomainError, match=r"one matrix.*rank\.model\.iter_w"):
        stable_rank_penalty(nn.LayerNorm(3))
    with pytest.raises(DomainError, match="at least 1"):
        StableRankPenalty(layer_of(matrix()), iterations=0)
