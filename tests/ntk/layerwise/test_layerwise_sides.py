"""Short passes, gradients of samples formed behind them, and logits at a time."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from spectrank.model.capture.rows import patch_columns, patches
from spectrank.ntk.layerwise import layerwise_kernel, supported
from spectrank.ntk.layerwise.pairs import Job, Schedule
from spectrank.ntk.layerwise.rules import make_groups

# float64 sums of at most a few thousand products.
AGREEMENT = 1e-11


def kernel_by_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    names = {name: p.detach() for name, p in model.named_parameters()}
    found = jacrev(lambda p: functional_call(model, p, (x,)))(names)
    rows = torch.cat([j.flatten(2) for j in found.values()], dim=2)
    return torch.einsum("aip,bjp->abij", rows, rows)


def assert_kernels(model: nn.Module, x: Tensor, **limits: int) -> None:
    truth = kernel_by_jacobian(model, x)
    names = frozenset(supported(model, x))
    for outputs, pattern in (("full", "abij->abij"), ("trace", "abii->ab")):
        for others in (None, x[1:]):
            found = layerwise_kernel(
                model, x, others, outputs=outputs, params=names, **limits
            )
            expected = torch.einsum(pattern, truth)
            expected = expected if others is None else expected[:, 1:]
            error = (found - expected).abs().max()
            assert float(error) <= AGREEMENT * float(expected.abs().max())


def schedule(model: nn.Module, x: Tensor, outputs: str, memory: int) -> Schedule:
    support = supported(model, x)
    job = Job(model, make_groups(model, list(support)), support, outputs)
    return Schedule.of(
        job, job.first(x[:1]), num_samples=len(x), block=None, memory=memory
    )


def classifier(layer: nn.Module, x: Tensor) -> nn.Module:
    """A layer over many positions, pooled to three classes."""
    torch.manual_seed(0)
    width = layer(x).shape[1]
    pool = {3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d, 5: nn.AdaptiveAvgPool3d}
    return nn.Sequential(
        layer, nn.Tanh(), pool[x.ndim](1), nn.Flatten(), nn.Linear(width, 3)
    ).double()


LAYERS = {
    "plain": (lambda: nn.Conv2d(2, 3, 3), (2, 12, 11)),
    "strided and dilated": (
        lambda: nn.Conv2d(2, 4, (3, 2), stride=(1, 2), dilation=(2, 1), padding=1),
        (2, 14, 15),
    ),
    "in groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same"), (4, 9, 10)),
    "circular": (
        lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular"),
        (2, 9, 9),
    ),
    "of one axis": (lambda: nn.Conv1d(3, 4, 5, dilation=2), (3, 60)),
    "of three axes": (lambda: nn.Conv3d(1, 2, 2, bias=False), (1, 5, 6, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_formed_behind_a_pass_give_the_kernel(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1)).double()
    model = classifier(layer.double(), x)
    for outputs in ("full", "trace"):
        chosen = schedule(model, x, outputs, 1 << 28)
        assert 0 in chosen.recipe.formed
    assert_kernels(model, x)


@pytest.mark.parametrize("name", LAYERS)
def test_columns_of_patches_are_patches_transposed(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(2, *shape)
    rows, columns = patches(layer, x), patch_columns(layer, x)
    assert columns.is_contiguous()
    assert torch.equal(columns, rows.flatten(1, -2).mT)
    assert torch.equal(patch_columns(layer, x[0]), columns[0])


class Words(nn.Module):
    """Few words on many positions, so that rows of the table are formed too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3, padding_idx=1)
        self.scale = nn.LayerNorm(3)
        self.mix = nn.Linear(3, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.scale(self.embed(x)))).mean(1))


def words() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    return Words().double(), torch.randint(4, (6, 40))


def test_tables_and_layers_on_sequences_are_formed() -> None:
    model, x = words()
    formed = schedule(model, x, "trace", 1 << 28).recipe.formed
    names = make_groups(model, list(supported(model, x)))
    assert {names[i].layers[0] for i in formed} == {"embed", "mix"}
    assert_kernels(model, x)


@pytest.mark.parametrize("memory", [1 << 11, 1 << 13, 1 << 15])
def test_a_ceiling_splits_samples_and_logits_and_changes_nothing(memory: int) -> None:
    model, x = words()
    assert_kernels(model, x, memory=memory)
    assert_kernels(model, x, memory=memory, block=2)


def test_a_trace_takes_fewer_logits_before_it_takes_fewer_samples() -> None:
    model, x = words()
    counts = {}
    for memory in (1 << 10, 10_000, 1 << 20):
        chosen = schedule(model, x, "trace", memory)
        assert [i for chunk in chosen.chunks for i in chunk] == [0, 1, 2]
        counts[memory] = len(chosen.chunks)
        if len(chosen.chunks) < 3:
            assert chosen.sample_bytes * len(x) <= memory / 2
    assert list(counts.values()) == [3, 2, 1]
    assert schedule(model, x, "full", 1 << 10).chunks == ((0, 1, 2),)


class _Counted(torch.autograd.Function):
    """Its backward reads a number, which torch cannot do for logits side by side."""

    @staticmethod
    def forward(ctx, x):
        return 2.0 * x

    @staticmethod
    def backward(ctx, g):
        return 2.0 * g if float(g.abs().sum()) > 0.0 else torch.zeros_like(g)


class Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(_Counted.apply(self.inner(x)))


def test_a_backward_that_refuses_all_logits_at_once_takes_one_after_the_other() -> None:
    torch.manual_seed(4)
    model, x = Stubborn().double(), torch.randn(5, 3).double()
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    plain.load_state_dict(
        dict(zip(plain.state_dict(), model.state_dict().values(), strict=True))
    )
    with torch.no_grad():
        plain[1].weight.mul_(2.0)
    names = frozenset({"inner.weight", "inner.bias"})
    truth = layerwise_kernel(
        plain, x, outputs="full", params=frozenset({"0.weight", "0.bias"})
    )
    found = layerwise_kernel(model, x, outputs="full", params=names)
    torch.testing.assert_close(found, truth)


class Partial(nn.Module):
    """The second logit sees one branch only, the third none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return torch.stack([a[:, 0] * b[:, 0], torch.tanh(a[:, 1]), x[:, 0]], dim=1)


def test_logits_that_see_some_layers_only() -> None:
    torch.manual_seed(5)
    model = Partial().double()
    assert_kernels(model, torch.randn(4, 3).double())
