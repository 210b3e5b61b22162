"""Convolutions, tokens, shared and repeated layers: gradients by autograd."""

import pytest
import torch
from collapse_dense import batches, mlp, wcv, within
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.collapse.statistics import gather
from spectrank.errors import DomainError
from spectrank.model.capture.unpack import ModelCall

G = torch.Generator().manual_seed(0)
IMAGES = torch.randn(12, 2, 6, 6, generator=G, dtype=torch.float64)
LABELS = torch.arange(12) % 3


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def gradient(loss, parameter):
    (found,) = torch.autograd.grad(loss, [parameter], retain_graph=True)
    return found


def assert_gradient(layer, wanted):
    wanted = wanted.flatten(1)
    assert float((layer.gradient() - wanted).norm()) < FLOAT64 * float(wanted.norm())


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2, "padding": "valid"},
        {"dilation": 2, "padding": "same", "padding_mode": "circular"},
    ],
)
def test_rows_of_a_convolution_are_its_patches(options):
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)
        )
    )
    model(IMAGES)
    found = gather(model, batches(IMAGES, LABELS, 5), loss="cross_entropy")
    loss = F.cross_entropy(model(IMAGES), LABELS)
    assert_gradient(found.layers[0], gradient(loss, model[0].weight))
    layer = found.layers[0]
    outputs = model[0](IMAGES)
    positions = outputs[0, 0].numel()
    assert (layer.view, layer.num_positions) == ("conv-unfolded", positions)
    # Sums over positions are divided by what the loss divides by, not by positions.
    assert (layer.divisor, layer.cross.num_samples) == (12, 12 * positions)
    assert torch.equal(layer.kept.rows, IMAGES.flatten(1))
    assert layer.kept.exact


def test_cells_of_a_class_and_a_position_bound_a_convolution():
    # 3 classes by 2 positions are fewer than 8 channels.
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv1d(4, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
        )
    )
    x = torch.randn(12, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    found = gather(model, batches(x, LABELS, 5), loss="cross_entropy").layers[0]
    out = model[0](x).detach().requires_grad_()
    summed = F.cross_entropy(model[1:](out), LABELS, reduction="sum")
    delta = gradient(summed, out).movedim(1, -1).reshape(24, 8)
    z = x.unfold(2, 3, 1).movedim(1, 2).reshape(24, 12)
    cells = (2 * LABELS[:, None] + torch.arange(2)).flatten()
    fine = found.position_cross
    assert fine.inputs.num_present == 6
    torch.testing.assert_close(fine.within, within(delta, z, cells))
    torch.testing.assert_close(
        found.cross.within, within(delta, z, LABELS.repeat_interleave(2))
    )
    assert found.features.wcv.value == pytest.approx(
        wcv(z, LABELS.repeat_interleave(2)), rel=FLOAT64
    )
    plain = gather(
        model, batches(x, LABELS, 5), loss="cross_entropy", positions=False
    ).layers[0]
    assert plain.position_cross is None
    torch.testing.assert_close(plain.cross.within, found.cross.within)
    # Inputs of another length: other positions, and no rows to be compared.
    wide = nn.Sequential(*model[:2], nn.AdaptiveAvgPool1d(2), *model[2:])
    loader = [(x, LABELS), (torch.cat([x, x], 2), LABELS)]
    with pytest.raises(DomainError, match=r"same positions in every batch.*positions="):
        gather(wide, loader, loss="cross_entropy")
    found = gather(wide, loader, loss="cross_entropy", positions=False)
    assert found.layers[0].kept is None
    assert found.layers[1].kept.exact


class _Twice(nn.Module):
    """One layer used twice, and another one that shares its weight."""

    def __init__(self):
        super().__init__()
        self.inner, self.twin = nn.Linear(5, 5), nn.Linear(5, 5)
        self.twin.weight = self.inner.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.tanh(self.inner(torch.tanh(self.inner(x))))
        return self.head(torch.tanh(self.twin(x)))


def test_a_weight_is_summed_over_all_its_uses():
    model = seeded(_Twice)
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(2)).double()
    found = gather(model, batches(x, LABELS, 5), loss="cross_entropy")
    inner, head = found.layers
    assert (inner.uses, head.uses) == (("inner", "twin"), ("head",))
    loss = F.cross_entropy(model(x), LABELS)
    assert_gradient(inner, gradient(loss, model.inner.weight))
    assert (inner.cross.num_samples, inner.num_positions) == (36, 3)
    # Choosing one of them still takes in the uses of the other.
    one = gather(model, batches(x, LABELS, 5), loss="cross_entropy", layers="twin")
    assert_gradient(one.layers[0], gradient(loss, model.inner.weight))


class _Tokens(nn.Module):
    """Tokens mixed by their mean, so that a token without a label has a gradient."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(7, 4), nn.Linear(4, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, tokens):
        h = torch.tanh(self.mix(self.embed(tokens)))
        return self.head(h + h.mean(1, keepdim=True))


def tokens(num=6, length=4):
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(7, (num, length), generator=g)
    labels = torch.randint(5, (num, length), generator=g)
    labels[torch.rand(num, length, generator=g) < 0.4] = -100
    return ids, labels


def test_tokens_without_a_label_are_in_the_gradient_and_in_no_class():
    model, (ids, labels) = seeded(_Tokens), tokens()
    loss = nn.CrossEntropyLoss()
    found = gather(model, batches(ids, labels, 2), loss=loss)
    value = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten())
    h = model.embed(ids).detach()
    own = labels.flatten() != -100
    for layer in found.layers:
        assert_gradient(layer, gradient(value, model.get_submodule(layer.name).weight))
        counts = torch.bincount(labels.flatten()[own], minlength=5)
        assert layer.features.counts.tolist() == counts.tolist()
        # The tokens without a label are a cell after the classes.
        rest = int((~own).sum())
        assert layer.cross.inputs.counts.tolist() == [*counts.tolist(), rest]
    mix = found.layers[0]
    rows = h.flatten(0, 1)[own]
    assert mix.features.wcv.value == pytest.approx(
        wcv(rows, labels.flatten()[own]), rel=FLOAT64
    )
    torch.testing.assert_close(mix.kept.rows, rows)
    chosen = model(ids).argmax(-1).flatten()[own]
    assert torch.equal(mix.kept.predictions, chosen)
    assert found.outputs.num_agreeing == int((chosen == labels.flatten()[own]).sum())
    # An embedding applies no matrix to its input.
    assert [skip.name for skip in found.skips] == ["embed.weight"]


def test_padding_has_no_class_even_under_a_label_of_the_sample():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.mix(x)).mean(1))

    model = seeded(Pooled)
    g = torch.Generator().manual_seed(4)
    x = torch.randn(12, 4, 3, generator=g).double()
    mask = torch.rand(12, 4, generator=g) < 0.7

    def unpack(batch):
        return ModelCall(args=(batch[0],), targets=batch[1], mask=batch[2])

    loader = [(x[i : i + 5], LABELS[i : i + 5], mask[i : i + 5]) for i in (0, 5, 10)]
    found = gather(model, loader, loss="cross_entropy", unpack=unpack)
    mix, head = found.layers
    loss = F.cross_entropy(model(x), LABELS)
    assert_gradient(mix, gradient(loss, model.mix.weight))
    assert_gradient(head, gradient(loss, model.head.weight))
    labels = LABELS[:, None].expand(12, 4)[mask]
    assert mix.features.counts.tolist() == torch.bincount(labels).tolist()
    assert mix.features.wcv.value == pytest.approx(wcv(x[mask], labels), rel=FLOAT64)
    torch.testing.assert_close(mix.kept.rows, x[mask])
    assert head.features.counts.tolist() == [4, 4, 4]


def test_transposed_weights_of_transformers_are_read_as_outputs_by_inputs():
    class Conv1D(nn.Module):
        def __init__(self, nf, nx):
            super().__init__()
            self.nf = nf
            self.weight = nn.Parameter(torch.randn(nx, nf))
            self.bias = nn.Parameter(torch.zeros(nf))

        def forward(self, x):
            return x @ self.weight + self.bias

    model = seeded(lambda: nn.Sequential(Conv1D(4, 6), nn.Tanh(), nn.Linear(4, 3)))
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(5)).double()
    layer = gather(model, batches(x, LABELS, 5), loss="cross_entropy").layers[0]
    assert (layer.view, tuple(layer.weight.shape)) == ("linear-transposed", (4, 6))
    wanted = gradient(F.cross_entropy(model(x), LABELS), model[0].weight)
    assert_gradient(layer, wanted.T)


def test_regression_has_one_cell_and_its_targets():
    model = mlp(6, 5, 2)
    g = torch.Generator().manual_seed(6)
    x = torch.randn(12, 6, generator=g).double()
    y = torch.randn(12, 2, generator=g).double()
    found = gather(model, batches(x, y, 5), loss="mse")
    loss = F.mse_loss(model(x), y)
    for layer, index in zip(found.layers, (0, 2), strict=True):
        assert_gradient(layer, gradient(loss, model[index].weight))
        assert (layer.cells, layer.num_classes) == ("none", None)
        assert layer.cross.inputs.counts.tolist() == [12]
        torch.testing.assert_close(layer.kept.targets, y)
    covariance = found.outputs.targets.covariance
    torch.testing.assert_close(covariance, torch.cov(y.T, correction=0))


def test_what_is_no_one_matrix_is_skipped_with_its_reason():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2.0 * super().forward(x)

    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), Scaled(32, 4), nn.Linear(4, 3)
        )
    )
    found = gather(model, batches(IMAGES, LABELS, 5), loss="cross_entropy")
    assert [layer.name for layer in found.layers] == ["3"]
    reasons = {skip.name: skip.reason for skip in found.skips}
    assert "2 groups" in reasons["0.weight"]
    assert "replaces the forward pass of Linear" in reasons["2.weight"]
    with pytest.raises(DomainError, match="a layer with one weight matrix"):
        gather(model, [], loss=None, layers="0")
