"""Outputs that are no function of one sample and the parameters are refused."""

import warnings

import pytest
import torch
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError, SpectrankError
from spectrank.ntk.dynamics import linearize
from spectrank.ntk.empirical import empirical
from spectrank.ntk.operator import operator
from spectrank.ntk.plan import plan

X = torch.ones(3, 4)
TOKENS = torch.tensor([[0, 1], [1, 2], [2, 2]])


class Through(nn.Module):
    """A linear layer and a function of what it gives."""

    def __init__(self, function, width=2):
        super().__init__()
        self.inner, self.function = nn.Linear(4, width), function

    def forward(self, x):
        return self.function(self.inner(x))


def embedding(**options):
    return nn.Sequential(nn.Embedding(3, 2, **options), nn.Flatten())


DEPENDENT = {
    "a mean over the batch": (
        lambda: Through(lambda h: h - h.mean(0)),
        X + torch.arange(3.0)[:, None],
    ),
    "the size of the batch": (lambda: Through(lambda h: h / len(h)), X[:1]),
    "chance": (lambda: Through(lambda h: nn.functional.dropout(h, 0.5), 64), X),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_outputs_of_other_samples_or_of_chance_are_refused(name):
    made, x = DEPENDENT[name]
    model = made()
    state = torch.get_rng_state()
    for front in (empirical, plan, operator):
        with pytest.raises(DomainError, match="those of the first differ by"):
            front(model, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_outputs_of_one_sample_are_not_refused_for_rounding_or_nan():
    g = torch.Generator().manual_seed(0)
    layers = [m for _ in range(30) for m in (nn.Linear(32, 32), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(32, 2))
    with torch.no_grad():
        for p in model.parameters():
            # Chaotic: rounding grows with depth.
            p.copy_(torch.randn(p.shape, generator=g) * 2.0 / 32**0.5)
    x = torch.randn(4, 32, generator=g)
    assert empirical(model, x, outputs="trace").isfinite().all()
    assert empirical(model, x * torch.nan, outputs="trace").isnan().all()


def test_outputs_without_a_gradient_are_refused():
    model = Through(lambda h: h.detach())
    with pytest.raises(DomainError, match="those of Through have no gradient"):
        empirical(model, X)


LAYERS = {
    "counts of the batch": (
        lambda: embedding(scale_grad_by_freq=True),
        r"0 \(Embedding\) divides its gradient by counts.*scale_grad_by_freq to False",
    ),
    "a weight that changes": (
        lambda: nn.EmbeddingBag(3, 2, max_norm=1.0),
        r"the model \(EmbeddingBag\) changes its weight.*set its max_norm to None",
    ),
    "sparse gradients": (
        lambda: embedding(sparse=True),
        r"0 \(Embedding\) has sparse gradients; set its sparse to False",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_whose_gradient_is_not_that_of_a_sample_are_refused(name):
    made, match = LAYERS[name]
    for front in (empirical, plan, operator):
        with pytest.raises(DomainError, match=match):
            front(made(), TOKENS)
    with pytest.raises(DomainError, match=match):
        linearize(made())


def test_a_compiled_model_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.jit.script(nn.Linear(4, 2))
    with pytest.raises(DomainError, match=r"TorchScript.*that it was made from"):
        empirical(model, X)


def test_params_that_are_no_text_are_refused():
    with pytest.raises(ArgumentTypeError, match="glob patterns on names, got 3"):
        empirical(nn.Linear(4, 2), X, params=3)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    path = tmp_path / "kernel.npy"
    path.mkdir()
    model = nn.Linear(4, 2)
    with pytest.raises(SpectrankError, match=r"must be a \.npy file"):
        empirical(model, X, out=path)
    # One that comes while the kernel is computed: nothing is left beside it.
    path.rmdir()
    with pytest.raises(OSError, match="directory"):
        empirical(model, X, out=path, progress=lambda *_: path.mkdir())
    assert list(tmp_path.iterdir()) == [path]
