"""The layerwise kernel is that of the Jacobian, for every layer with a rule."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ntk_models import brute_force
from torch import Tensor, nn
from torch.nn import functional as F

from spectrank.ntk.layerwise import layer_kernels, layerwise_kernel, supported

OUTPUTS = ("full", "trace", "sum_logits")
# Sums of at most a few thousand products of numbers of order one.
TOLERANCE = 1e-11


class Mean(nn.Module):
    """Over all positions; channels first or last."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) if self.axis == 1 else x.flatten(1, -2).mean(1)


class Twice(nn.Module):
    """One layer used twice, and one weight in two layers with a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)
        self.right.weight = self.left.weight
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(torch.tanh(self.inner(x)))
        h = self.norm(torch.tanh(self.inner(h)))
        return self.left(h) * self.right(x)


class TimeFirst(nn.Module):
    """Positions before samples, read out at the first position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.mix = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.T)
        h = self.norm(torch.tanh(self.mix(h + h.mean(0))))
        return self.out(h)[0]


class Folded(nn.Module):
    """Positions in the axis of the samples: frames of a film, tokens in rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 2)
        self.norm = nn.BatchNorm1d(3)
        self.mix = nn.Linear(3, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, frames = x.shape[:2]
        h = torch.tanh(self.norm(self.conv(x.flatten(0, 1)))).mean(2)
        return self.out(torch.tanh(self.mix(h)).unflatten(0, (n, frames)).sum(1))


class Scaled(nn.Linear):
    """Keeps torch's forward; a hook scales what it gives."""


class Attention(nn.Module):
    """The output projection of an attention, whose weight no call of it uses."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
        self.first = batch_first
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else x.transpose(0, 1)
        h = self.attention(h, h, h, need_weights=False)[0]
        return self.out(torch.tanh(h).mean(1 if self.first else 0))


def reduced(kernel: Tensor, outputs: str) -> Tensor:
    """The full kernel as it is, its trace over logits, or its sum over both."""
    if outputs == "trace":
        return torch.einsum("abii->ab", kernel)
    return kernel.sum((2, 3)) if outputs == "sum_logits" else kernel


def normal(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape)


def words(vocabulary: int, length: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randint(vocabulary, (n, length))


def hooked() -> nn.Module:
    layer = Scaled(3, 4)
    layer.register_forward_hook(lambda m, a, o: 2 * o)
    layer.register_forward_pre_hook(lambda m, a: (a[0] + 1,))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2))


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    draw: Callable[[int], Tensor]


def norms(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers)


CASES = {
    "linear": Case(
        lambda: nn.Sequential(
            nn.Linear(5, 6),
            nn.ReLU(inplace=True),
            nn.Linear(6, 4, bias=False),
            nn.GELU(),
            nn.Linear(4, 3),
        ),
        normal(5),
    ),
    "sequence": Case(
        lambda: nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2), Mean(2)),
        normal(4, 3),
    ),
    "positions": Case(
        # Two positions of wide layers: Grams of positions are the cheaper way.
        lambda: nn.Sequential(nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 2), Mean(2)),
        normal(2, 40),
    ),
    "embedding": Case(
        lambda: nn.Sequential(
            nn.Embedding(60, 3, padding_idx=4),
            nn.Linear(3, 3),
            nn.Tanh(),
            Mean(2),
            nn.Linear(3, 2),
        ),
        words(9, 3),
    ),
    "embedding of few": Case(
        lambda: nn.Sequential(
            nn.Embedding(2, 3, padding_idx=1), nn.Tanh(), Mean(2), nn.Linear(3, 2)
        ),
        words(2, 9),
    ),
    "conv1d": Case(
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 3, stride=2, padding="valid"),
            nn.Tanh(),
            nn.Conv1d(4, 2, 2, padding="same"),
            Mean(1),
        ),
        normal(3, 9),
    ),
    "conv2d": Case(
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), groups=2),
            nn.Tanh(),
            nn.Conv2d(
                6, 6, 2, groups=6, dilation=2, padding=1, padding_mode="circular"
            ),
            nn.Tanh(),
            nn.Conv2d(6, 3, 1, padding=1, padding_mode="reflect", bias=False),
            Mean(1),
        ),
        normal(4, 5, 4),
    ),
    "conv3d": Case(
        lambda: nn.Sequential(
            nn.Conv3d(2, 2, 2, padding=1, padding_mode="replicate"), nn.Tanh(), Mean(1)
        ),
        normal(2, 2, 3, 2),
    ),
    "wide conv": Case(
        # Two positions and many channels: Grams of positions, by group.
        lambda: nn.Sequential(
            nn.Conv1d(24, 24, 2, groups=2), nn.Tanh(), Mean(1), nn.Linear(24, 2)
        ),
        normal(24, 3),
    ),
    "layer norm": Case(
        lambda: nn.Sequential(
            nn.LayerNorm((3, 4)),
            nn.Linear(4, 4),
            nn.Tanh(),
            nn.LayerNorm(4, bias=False),
            nn.RMSNorm(4),
            Mean(2),
        ),
        normal(3, 4),
    ),
    "group norm": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 2),
            nn.GroupNorm(2, 4),
            nn.Tanh(),
            nn.BatchNorm2d(4),
            Mean(1),
        ),
        normal(2, 3, 3),
    ),
    "batch norm": Case(
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)
        ),
        normal(3),
    ),
    "used twice": Case(Twice, normal(4)),
    "positions first": Case(TimeFirst, words(6, 5)),
    "folded": Case(Folded, normal(3, 2, 3)),
    "hooks": Case(hooked, normal(3)),
}


def built(case: Case) -> nn.Module:
    model = case.make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
        # Scales of one and shifts of zero would hide a mistake.
        if isinstance(
            module,
            (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm),
        ):
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter)
    return model


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.manual_seed(20)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# torch pads a copy for even kernels.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CASES)
def test_kernel_is_that_of_the_jacobian(name: str) -> None:
    model = built(CASES[name])
    x1, x2 = CASES[name].draw(5), CASES[name].draw(3)
    rules = supported(model, x1)
    assert None not in rules.values(), dict(rules.reasons)
    names = frozenset(rules)
    for other in (None, x2):
        truth = brute_force(model, x1, other)
        for outputs in OUTPUTS:
            expected = reduced(truth, outputs)
            for limits in ({}, {"block": 2}, {"memory": 1}):
                found = layerwise_kernel(
                    model, x1, other, outputs=outputs, params=names, **limits
                )
                error = (found - expected).abs().max() / expected.abs().max()
                assert error < TOLERANCE, (outputs, limits)


@pytest.mark.parametrize("batch_first", [True, False])
def test_output_projection_of_attention_has_a_rule(batch_first: bool) -> None:
    model = Attention(batch_first=batch_first).eval()
    x = torch.randn(4, 3, 4)
    rules = supported(model, x)
    assert {n for n, rule in rules.items() if rule is None} == {
        "attention.in_proj_weight",
        "attention.in_proj_bias",
    }
    names = {n for n, rule in rules.items() if rule}
    found = layerwise_kernel(model, x, outputs="full", params=frozenset(names))
    torch.testing.assert_close(found, brute_force(model, x, params=names))


@given(
    n=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "circular", "reflect", "replicate"]),
    bias=st.booleans(),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_convolution(
    n, channels, groups, kernel, stride, padding, dilation, mode, bias
) -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(
        channels[0] * groups,
        channels[1] * groups,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias,
        mode,
    )
    model = nn.Sequential(conv, nn.Tanh(), Mean(1))
    x1, x2 = (torch.randn(k, channels[0] * groups, 5, 6) for k in n)
    names = frozenset(supported(model, x1))
    found = layerwise_kernel(model, x1, x2, outputs="full", params=names)
    torch.testing.assert_close(found, brute_force(model, x1, x2))


@given(
    n=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    positions=st.integers(0, 3),
    bias=st.booleans(),
    outputs=st.sampled_from(OUTPUTS),
    block=st.integers(1, 6),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_perceptron(n, widths, positions, bias, outputs, block) -> None:
    torch.manual_seed(4)
    layers = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow, bias=bias), nn.Tanh()]
    if positions:
        layers.append(Mean(2))
    model = nn.Sequential(*layers)
    inner = (positions,) if positions else ()
    x1, x2 = (torch.randn(k, *inner, widths[0]) for k in n)
    names = frozenset(supported(model, x1))
    found = layerwise_kernel(model, x1, x2, outputs=outputs, params=names, block=block)
    torch.testing.assert_close(found, reduced(brute_force(model, x1, x2), outputs))


@pytest.mark.parametrize("name", ["linear", "conv2d", "embedding", "used twice"])
@pytest.mark.parametrize("limits", [{}, {"block": 2}])
def test_kernel_is_exactly_symmetric_and_positive(name: str, limits: dict) -> None:
    model = built(CASES[name])
    x = CASES[name].draw(5)
    names = frozenset(supported(model, x))
    full = layerwise_kernel(model, x, outputs="full", params=names, **limits)
    assert torch.equal(full, full.permute(1, 0, 3, 2))
    square = full.permute(0, 2, 1, 3).reshape(full[0, :, 0].numel(), -1)
    values = torch.linalg.eigvalsh(square)
    assert values[0] > -1e-13 * values[-1]
    for outputs in ("trace", "sum_logits"):
        kernel = layerwise_kernel(model, x, outputs=outputs, params=names, **limits)
        assert torch.equal(kernel, kernel.T)


def test_tiles_of_a_large_symmetric_kernel() -> None:
    # 1,100 samples cross the tiles of the mirror and of the products; a hidden layer
    # of 40 is contracted by positions.
    model = nn.Sequential(nn.Linear(2, 40), nn.Tanh(), nn.Linear(40, 2))
    x = torch.randn(1100, 2)
    names = frozenset(supported(model, x))
    found = layerwise_kernel(model, x, outputs="trace", params=names)
    h = torch.tanh(model[0](x)).detach()
    hidden = ((1 - h**2)[:, None] * model[2].weight.detach()).flatten(1)
    truth = 2 * (h @ h.T + 1) + (x @ x.T + 1) * (hidden @ hidden.T)
    torch.testing.assert_close(found, truth)
    assert torch.equal(found, found.T)
    full = layerwise_kernel(model, x, outputs="full", params=names)
    torch.testing.assert_close(torch.einsum("abii->ab", full), truth)
    assert torch.equal(full, full.permute(1, 0, 3, 2))


def test_permuted_samples_permute_the_kernel() -> None:
    model = built(CASES["conv2d"])
    x = CASES["conv2d"].draw(6)
    names = frozenset(supported(model, x))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    kernel = layerwise_kernel(model, x, outputs="full", params=names)
    found = layerwise_kernel(model, x[order], outputs="full", params=names, block=4)
    torch.testing.assert_close(found, kernel[order][:, order])


@pytest.mark.parametrize("name", ["conv2d", "group norm", "used twice", "linear"])
def test_layer_kernels_are_those_of_their_parameters(name: str) -> None:
    model = built(CASES[name])
    x1, x2 = CASES[name].draw(4), CASES[name].draw(3)
    names = frozenset(supported(model, x1))
    parts = layer_kernels(model, x1, x2, outputs="trace", params=names)
    assert {p for key in parts for p in key.split(" + ")} == names
    for key, kernel in parts.items():
        chosen = set(key.split(" + "))
        truth = reduced(brute_force(model, x1, x2, params=chosen), "trace")
        torch.testing.assert_close(kernel, truth)
    whole = layerwise_kernel(model, x1, x2, outputs="trace", params=names)
    torch.testing.assert_close(sum(parts.values()), whole)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", ["linear", "conv1d", "layer norm", "used twice"])
def test_disjoint_sets_of_parameters_add_up(name: str) -> None:
    model = built(CASES[name])
    x = CASES[name].draw(4)
    names = sorted(supported(model, x))
    for chosen in (names[::2], names[1::2]):
        found = layerwise_kernel(model, x, outputs="full", params=frozenset(chosen))
        torch.testing.assert_close(found, brute_force(model, x, params=chosen))


def test_frozen_parameters_can_be_asked_for() -> None:
    model = built(CASES["linear"]).requires_grad_(False)
    x = CASES["linear"].draw(4)
    names = frozenset(supported(model, x))
    found = layerwise_kernel(model, x, outputs="full", params=names)
    torch.testing.assert_close(found, brute_force(model, x, params=names))
    assert not any(p.requires_grad for p in model.parameters())


def test_sets_of_sequences_of_different_lengths() -> None:
    model = built(CASES["sequence"])
    x1, x2 = torch.randn(3, 4, 3), torch.randn(4, 7, 3)
    names = frozenset(supported(model, x1))
    for outputs in OUTPUTS:
        found = layerwise_kernel(model, x1, x2, outputs=outputs, params=names)
        truth = reduced(brute_force(model, x1, x2), outputs)
        torch.testing.assert_close(found, truth)


def test_float32_stays_float32_and_close() -> None:
    model = built(CASES["conv2d"])
    x = CASES["conv2d"].draw(5)
    names = frozenset(supported(model, x))
    truth = brute_force(model, x)
    found = layerwise_kernel(model.float(), x.float(), outputs="full", params=names)
    assert found.dtype == torch.float32
    # 2^-24 times the square root of a few thousand roundings.
    assert (found - truth).abs().max() < 2e-6 * truth.abs().max()


def test_a_logit_without_a_gradient_has_zeros() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.layer(x), F.relu(x[:, :1])], dim=1)

    model = Half()
    x = torch.randn(3, 3)
    found = layerwise_kernel(
        model, x, outputs="full", params=frozenset(supported(model, x))
    )
    torch.testing.assert_close(found, brute_force(model, x))
    assert found[:, :, 1].eq(0).all()
