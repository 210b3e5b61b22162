"""Linear tails of real modules: what is in them, and where and why they end."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrank.invariance.certificates import find_tail
from spectrank.model.graph import graph


class Calls(nn.Module):
    """A model whose forward pass is a function of its modules and an input."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.call = forward

    def forward(self, x):
        return self.call(self, x)


def _tail(model, *shape):
    return find_tail(graph(model.double(), torch.zeros(2, *shape).double()))


def _names(tail):
    return [stage.name for stage in tail.stages]


def test_matrices_up_to_an_activation():
    net = nn.Sequential(
        nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 1)
    )
    tail = _tail(net, 3)
    assert _names(tail) == ["2", "3", "4"]
    assert tail.at == "1"
    assert "relu" in tail.stopped
    assert tail.below.name == "0"
    assert tail.shifts
    # Without an input the layers of a Sequential say the same.
    assert _names(find_tail(graph(net))) == ["2", "3", "4"]


def test_the_trunk_may_be_anything_that_is_not_understood():
    def forward(self, x):
        return self.b(self.a(torch.fft.fft(x).real))

    tail = _tail(Calls(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 1)), 3)
    assert _names(tail) == ["a", "b"]
    assert tail.below is None


def test_bare_parameters_and_moves_make_the_same_tail():
    def forward(self, x):
        h = (x @ self.w + self.c) * 0.5
        return (h.unsqueeze(1) @ self.v.T).squeeze(1).squeeze(-1) / 2.0

    model = Calls(forward)
    for name, shape in (("w", (3, 4)), ("c", (4,)), ("v", (1, 4))):
        setattr(model, name, nn.Parameter(torch.zeros(shape)))
    tail = _tail(model, 3)
    assert _names(tail) == ["w", "v"]
    assert tail.stages[0].parameters == ("w", "c")
    assert tail.stages[0].main.transposed


def _flat_net(order):
    def forward(self, x):
        return self.fc(self.conv(x).permute(*order).reshape(len(x), -1))

    return Calls(forward, conv=nn.Conv2d(2, 3, 2), fc=nn.Linear(3 * 2 * 4, 5))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)])
def test_channels_are_found_behind_any_order_of_flattening(order):
    tail = _tail(_flat_net(order), 2, 3, 5)
    assert _names(tail) == ["conv", "fc"]
    # Entry by entry: column of channel c at a position, by the same moves.
    entry = torch.arange(24).view(1, 3, 2, 4).permute(*order).reshape(-1)
    gather = torch.tensor(tail.stages[1].main.gather)
    assert torch.equal(entry[gather] // 8, torch.arange(3)[:, None].expand(3, 8))
    assert torch.equal(entry[gather] % 8, (entry[gather] % 8)[:1].expand(3, 8))
    assert gather.flatten().sort().values.tolist() == list(range(24))


def test_pooling_of_positions_is_passed_and_leaves_one_column_a_channel():
    def forward(self, x):
        return self.fc(F.avg_pool2d(self.b(self.a(x)), 2).mean((2, 3)))

    model = Calls(
        forward, a=nn.Conv2d(2, 3, 2), b=nn.Conv2d(3, 4, 1), fc=nn.Linear(4, 1)
    )
    tail = _tail(model, 2, 5, 5)
    assert _names(tail) == ["a", "b", "fc"]
    assert tail.stages[2].main.gather is None
    assert tail.at == "x"


def test_a_pooling_of_features_or_of_moved_entries_ends_the_tail():
    def over_features(self, x):
        return self.b(self.a(x).view(len(x), 3, 2).mean(2))

    tail = _tail(Calls(over_features, a=nn.Linear(4, 6), b=nn.Linear(3, 1)), 4)
    assert _names(tail) == ["b"]

    def tokens(self, x):
        return self.b(self.a(x).mean(1))

    tail = _tail(Calls(tokens, a=nn.Linear(4, 6), b=nn.Linear(6, 1)), 5, 4)
    assert _names(tail) == ["a", "b"]


def _block(self, x):
    return self.u(self.y(x)) + self.z(x)


def test_linear_blocks_of_three_matrices():
    class Block(nn.Module):
        def __init__(self, n, h, m, swapped):
            super().__init__()
            self.y, self.u = nn.Linear(n, h), nn.Linear(h, m)
            self.z, self.swapped = nn.Linear(n, m, bias=False), swapped

        def forward(self, x):
            short, long = self.z(x), self.u(self.y(x))
            return short + long if self.swapped else long + short

    net = nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), Block(4, 2, 5, True), Block(5, 3, 4, False)
    )
    net.append(nn.Linear(4, 1))
    tail = _tail(net, 3)
    assert [stage.kind for stage in tail.stages] == ["block", "block", "dense"]
    block = tail.stages[1]
    assert (block.first.weight, block.second.weight) == ("3.y.weight", "3.u.weight")
    assert block.main.weight == "3.z.weight"
    assert block.main.biases == ()
    assert tail.at.startswith(("1", "tanh"))


@pytest.mark.parametrize(
    ("forward", "word"),
    [
        (lambda self, x: self.u(self.y(self.a(x))) + self.a(x), "sum"),
        (lambda self, x: self.u(torch.relu(self.y(self.a(x)))), "relu"),
        (lambda self, x: self.u(self.a(x)) + self.v(self.a(x)), "sum"),
        (lambda self, x: self.a(x) + self.a(x), "sum"),
        (lambda self, x: x - self.a(x), "coefficients"),
        (lambda self, x: self.u(self.y(x)) - 2.0 * self.a(x), "sum"),
        (lambda self, x: torch.add(self.a(x), self.u(self.y(x)), alpha=3), "coeff"),
    ],
)
def test_sums_that_are_no_blocks_end_the_tail(forward, word):
    layers = {name: nn.Linear(4, 4) for name in "auyv"}
    model = Calls(lambda self, x: self.h(forward(self, x)), h=nn.Linear(4, 1), **layers)
    tail = _tail(model, 4)
    assert word in tail.stopped
    assert "a" not in _names(tail)


def test_a_value_that_is_read_twice_ends_the_tail():
    def forward(self, x):
        h = self.a(x)
        return self.b(h) * h.sum(1, keepdim=True).sigmoid()

    tail = _tail(Calls(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 1)), 3)
    assert tail.stages == ()

    def skipping(self, x):
        h = self.a(x)
        return torch.cat([self.c(self.b(h)), self.c(h)], 1)

    layers = {name: nn.Linear(4, 4) for name in "abc"}
    assert _tail(Calls(skipping, **layers), 4).stages == ()


@pytest.mark.parametrize(
    ("between", "word"),
    [
        (nn.ReLU(), "relu"),
        (nn.GELU(), "gelu"),
        (nn.LayerNorm(4), "layer_norm"),
        (nn.BatchNorm1d(4), "batch_norm"),
        (nn.Dropout(0.5), "dropout"),
        (nn.Softmax(1), "softmax"),
    ],
)
def test_anything_not_linear_in_all_features_alike_ends_the_tail(between, word):
    tail = _tail(nn.Sequential(nn.Linear(3, 4), between, nn.Linear(4, 1)), 3)
    assert _names(tail) == ["2"]
    assert word in tail.stopped


def test_max_pooling_ends_the_tail_and_average_pooling_does_not():
    for pool, names in ((nn.MaxPool2d(2), ["3"]), (nn.AvgPool2d(2), ["0", "3"])):
        net = nn.Sequential(nn.Conv2d(1, 2, 2), pool, nn.Flatten(), nn.Linear(8, 1))
        assert _names(_tail(net, 1, 5, 5)) == names


def test_frozen_shared_packed_grouped_and_computed_weights_end_the_tail():
    def net(**changes):
        return nn.Sequential(
            nn.Linear(4, 4), nn.Linear(4, 4, **changes), nn.Linear(4, 1)
        )

    frozen = net()
    frozen[1].bias.requires_grad_(False)
    assert _names(_tail(frozen, 4)) == ["2"]
    assert "frozen" in _tail(frozen, 4).stopped
    shared = net()
    shared[1].weight = shared[0].weight
    assert "more than once" in _tail(shared, 4).stopped
    computed = net()
    nn.utils.parametrizations.weight_norm(computed[1])
    assert "computed" in _tail(computed, 4).stopped
    grouped = nn.Sequential(
        nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 1)
    )
    assert "grouped" in _tail(grouped, 4, 2, 2).stopped


def test_column_sums_are_conserved_for_logits_of_one_position():
    assert _tail(nn.Sequential(nn.Linear(3, 4), nn.LogSoftmax(1)), 3).shifts
    assert not _tail(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), 3).shifts
    several = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Softmax(1))
    assert not _tail(several, 1, 3, 3).shifts
    pooled = nn.Sequential(nn.Conv2d(1, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert _tail(pooled, 1, 3, 3).shifts


def test_several_outputs_have_no_tail():
    tail = _tail(Calls(lambda self, x: (self.a(x), x), a=nn.Linear(3, 1)), 3)
    assert tail.stages == ()
    assert "one output" in tail.stopped
