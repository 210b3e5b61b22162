"""Hypotheses of the rank bound: each caveat by a model that has it and one without."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from spectrank.collapse.certificates import applicability
from spectrank.collapse.statistics import decay_of, effective_decays
from spectrank.errors import UnknownNameError
from spectrank.model import graph

COUPLED = effective_decays(0.1, nn.Linear(1, 1))


def names(found, weight=None):
    return {c.name for c in found.caveats if weight in {None, c.weight}}


def net(norm=None, *, bias=True):
    layers = [nn.Linear(4, 6, bias=bias), *([] if norm is None else [norm]), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(6, 3))


def known(model, layer="0", decay=COUPLED, **options):
    wiring = graph(model, torch.zeros(2, 4))
    return applicability(model, layer, decay, graph=wiring, **options)


def slopes(model, seed=0):
    """<W, grad_W> + <b, grad_b> and <W, grad_W> of the first layer, over |W||grad|."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    x = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    y = torch.arange(30) % 3
    nn.functional.cross_entropy(model(x), y).backward()
    own = list(model[0].parameters())
    parts = [float((p.detach() * p.grad).sum()) for p in own]
    scale = float(own[0].detach().norm() * own[0].grad.norm())
    return sum(parts) / scale, parts[0] / scale


def test_a_plain_net_has_nothing_against_it():
    found = known(net())
    assert found.applies
    assert found.weight_decay == 0.1
    assert names(found) == {"data"}
    assert found.reason == "nothing known stands against the hypotheses"


@pytest.mark.parametrize(
    ("make", "weight_alone"),
    [
        (lambda: net(nn.BatchNorm1d(6, eps=1e-12)), True),
        (lambda: net(nn.LayerNorm(6, eps=1e-12), bias=False), True),
        (lambda: net(nn.LayerNorm(6, eps=1e-12)), False),
        (lambda: net(nn.RMSNorm(6, eps=1e-12), bias=False), True),
        (lambda: net(nn.GroupNorm(2, 6, eps=1e-12)), False),
    ],
)
def test_a_norm_behind_a_layer_blocks_because_autograd_sees_no_scale(
    make, weight_alone
):
    torch.manual_seed(1)
    model = make()
    together, alone = slopes(model)
    assert abs(together) < 1e-8
    assert (abs(alone) < 1e-8) == weight_alone
    found = known(make())
    assert not found.applies
    assert names(found, "blocks") == {"normalisation"}
    assert ("bias together" in found.reason) != weight_alone
    # The layer behind the norm is not concerned.
    assert "normalisation" not in names(known(make(), "3"))


def test_batch_norm_in_evaluation_mode_breaks_the_invariance_and_both_are_said():
    torch.manual_seed(2)
    model = net(nn.BatchNorm1d(6)).eval()
    assert abs(slopes(model)[0]) > 1e-3
    found = known(net(nn.BatchNorm1d(6)).eval())
    assert not found.applies
    assert "evaluation mode" in found.reason
    assert names(found, "weakens") == {"batch_norm_mode"}
    frozen = known(net(nn.BatchNorm1d(6)).eval(), batch_norm_frozen=True)
    assert frozen.applies
    assert names(frozen, "weakens") == set()


def test_a_norm_that_reads_a_sum_does_not_take_the_scale():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x):
            return self.norm(x + self.inner(x))

    found = known(Residual(), "inner")
    assert found.applies
    assert "normalisation" in names(found, "note")


def test_without_a_graph_a_norm_is_only_a_warning():
    model = net(nn.BatchNorm1d(6))
    found = applicability(model, "0", COUPLED)
    assert found.applies
    assert "normalisation" in names(found, "note")
    assert "normalisation" not in names(applicability(net(), "0", COUPLED))


@pytest.mark.parametrize(
    ("make", "applies", "coefficient", "words"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.2), True, 0.2, "nothing"),
        (lambda p: torch.optim.Adam(p, weight_decay=0.2), True, 0.2, "nothing"),
        (lambda p: torch.optim.AdamW(p, weight_decay=0.2), False, 0.2, "of AdamW"),
        (lambda p: torch.optim.SGD(p, lr=0.1), False, 0.0, "no weight decay acts"),
        (lambda p: torch.optim.SGD(list(p)[1:], lr=0.1), False, 0.0, "holds no param"),
    ],
)
def test_the_optimizer_decides_whether_the_decay_is_one_of_the_loss(
    make, applies, coefficient, words
):
    model = net()
    decays = effective_decays(make(model.parameters()), model)
    found = known(model, decay=decay_of(decays, "0.weight"))
    assert found.applies == applies
    assert found.weight_decay == coefficient
    assert words in found.reason


def test_a_penalty_counts_twice():
    decay = effective_decays(0.05, net(), decay="penalty")
    assert known(net(), decay=decay).weight_decay == 0.1


def test_frozen_computed_and_shared_weights_are_told_apart():
    frozen = net()
    frozen[0].weight.requires_grad_(False)
    assert names(known(frozen), "blocks") == {"frozen"}
    computed = net()
    parametrizations.weight_norm(computed[0])
    assert names(applicability(computed, "0", COUPLED), "blocks") == {"parametrisation"}
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    assert "sharing" in names(known(tied), "note")
    assert "0, 2" in next(c.reason for c in known(tied).caveats if c.name == "sharing")
    assert "sharing" not in names(known(net()))


@pytest.mark.parametrize(
    ("training", "words"), [(True, "one draw"), (False, "without")]
)
def test_dropout_weakens_in_both_modes(training, words):
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 3))
    found = known(model.train(training))
    assert found.applies
    assert names(found, "weakens") == {"dropout"}
    assert words in found.reason
    off = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.0), nn.Linear(6, 3))
    assert "dropout" not in names(known(off))


@pytest.mark.parametrize(
    ("drops", "module"),
    [
        (True, nn.MultiheadAttention(4, 2, dropout=0.1)),
        (False, nn.MultiheadAttention(4, 2)),
        (True, nn.LSTM(4, 4, num_layers=2, dropout=0.1)),
        (False, nn.GRU(4, 4, num_layers=2)),
    ],
)
def test_dropout_inside_attention_and_recurrent_layers_is_seen(drops, module):
    model = nn.ModuleList([nn.Linear(4, 6), module])
    weakened = names(applicability(model, "0", COUPLED), "weakens")
    assert weakened == ({"dropout"} if drops else set())


def test_positions_are_noted_for_convolutions_and_tokens():
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    wiring = graph(conv, torch.zeros(1, 1, 4, 4))
    found = applicability(conv, "0", COUPLED, graph=wiring, num_positions=4)
    assert "gives 4 rows" in next(
        c.reason for c in found.caveats if c.name == "positions"
    )
    assert "positions" not in names(applicability(conv, "2", COUPLED, graph=wiring))
    assert "positions" in names(known(net(), num_positions=7))


def test_an_unknown_layer_is_refused_and_the_model_is_left_as_it_was():
    model = net(nn.BatchNorm1d(6)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    known(model)
    assert not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(UnknownNameError, match="name of a module, got 'head'"):
        applicability(model, "head", COUPLED)
