"""One pass over layers, against autograd and two passes over dense rows."""

import pytest
import torch
from collapse_dense import batches, mlp, pairs, wcv, within
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.collapse.statistics import gather
from spectrank.errors import DomainError

LOSSES = {
    "cross_entropy": ("cross_entropy", F.cross_entropy),
    "weighted": (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5]).double()),
        None,
    ),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.2), None),
    "nll of logits": (nn.MultiMarginLoss(), None),
}


def classified(num=41, dim=6, num_classes=3, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(num_classes, (num,), generator=g)
    centres = torch.randn(num_classes, dim, generator=g, dtype=torch.float64)
    noise = torch.randn(num, dim, generator=g, dtype=torch.float64)
    return centres[y] + spread * noise, y


def _summed(outputs, labels):
    return F.cross_entropy(outputs, labels, reduction="sum")


def gradients_of(model, loss):
    parameters = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    return dict(
        zip(
            parameters,
            torch.autograd.grad(loss, list(parameters.values())),
            strict=True,
        )
    )


def assert_gradients(statistics, wanted, rtol=FLOAT64):
    """The gradient of every layer is that of autograd."""
    assert statistics.layers
    for layer in statistics.layers:
        found, true = layer.gradient(), wanted[layer.weight_name].flatten(1)
        assert float((found - true).norm()) < rtol * float(true.norm())


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_loss_as_trained(name):
    loss, function = LOSSES[name]
    model, (x, y) = mlp(6, 5, 4, 3), classified()
    found = gather(model, batches(x, y, 7), loss=loss)
    value = (function or loss)(model(x), y)
    assert_gradients(found, gradients_of(model, value))
    assert found.loss == pytest.approx(value.item(), rel=FLOAT64)


def test_mean_squared_error_divides_by_the_outputs_too():
    model, (x, y) = mlp(6, 5, 3), classified()
    targets = F.one_hot(y, 3).double()
    for reduction, factor in (("mean", 1.0), ("sum", 41 * 3 / 6)):
        loss = nn.MSELoss(reduction=reduction)
        found = gather(model, batches(x, targets, 7), loss=loss)
        # A summed loss is trained as the mean over its batches, of which there are 6.
        value = F.mse_loss(model(x), targets) * factor
        assert_gradients(found, gradients_of(model, value))
        assert found.reading.kind == "classes"


def test_a_callable_loss_needs_and_takes_its_divisor():
    model, (x, y) = mlp(6, 5, 3), classified()

    def summed(outputs, batch):
        return 2.0 * F.cross_entropy(outputs, batch[1], reduction="sum")

    wanted = gradients_of(model, 2.0 * F.cross_entropy(model(x), y))
    for divisor in (41.0, lambda batch: batch.num_samples):
        found = gather(model, batches(x, y, 7), loss=summed, divisor=divisor)
        assert_gradients(found, wanted)
    with pytest.raises(DomainError, match="pass divisor="):
        gather(model, batches(x, y, 7), loss=summed)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sums_are_those_of_two_passes_over_dense_rows(seed):
    model, (x, y) = mlp(6, 8, 7, 3, seed=seed), classified(seed=seed)
    found = gather(model, batches(x, y, 10), loss="cross_entropy", scatter_out="full")
    dense = pairs(model, x, lambda o: _summed(o, y))
    for layer, (z, delta) in zip(found.layers, dense.values(), strict=True):
        torch.testing.assert_close(layer.cross.within, within(delta, z, y))
        assert layer.features.wcv.value == pytest.approx(wcv(z, y), rel=FLOAT64)
        wanted = wcv(delta, y)
        assert layer.cross.outputs.wcv.value == pytest.approx(wanted, rel=FLOAT64)
        torch.testing.assert_close(layer.features.second_moment(), z.T @ z / len(z))
        wanted = delta.T @ delta / len(z)
        torch.testing.assert_close(layer.cross.outputs.second_moment(), wanted)
        assert (layer.divisor, layer.num_positions, layer.cells) == (41, 1, "classes")


def test_one_pass_equals_two_at_a_collapse_of_1e_12():
    # Inputs of the first layer collapsed to 1e-12 of their size, beside an offset.
    x, y = classified(seed=1, spread=0.0)
    g = torch.Generator().manual_seed(2)
    x = 1.0 + x + 1e-12 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(6, 3)).double()
    found = gather(model, batches(x, y, 3), loss="cross_entropy").layers[0]
    # Rows less one row of their class are exact: Sterbenz.
    first = torch.stack([x[y == c][0] for c in range(3)])
    assert found.features.wcv.value == pytest.approx(wcv(x - first[y], y), rel=1e-10)
    # In the same batches: a product of other shapes rounds otherwise, by 1e-4 of this.
    z, delta = (
        torch.cat(parts)
        for parts in zip(
            *(
                pairs(model, bx, lambda o, by=by: _summed(o, by))[0]
                for bx, by in batches(x, y, 3)
            ),
            strict=True,
        )
    )
    pivot = torch.stack([delta[y == c][0] for c in range(3)])
    wanted = within(delta - pivot[y], z - first[y], y)
    error = (found.cross.within - wanted).norm() / wanted.norm()
    assert float(error) < 1e-10


@pytest.mark.parametrize("size", [1, 3, 16, 41])
def test_the_batch_size_changes_rounding_only(size):
    model, (x, y) = mlp(6, 8, 3), classified()
    whole = gather(model, [(x, y)], loss="cross_entropy")
    found = gather(model, batches(x, y, size), loss="cross_entropy")
    for mine, theirs in zip(found.layers, whole.layers, strict=True):
        a, b = mine.cross, theirs.cross
        scale = float(b.within.norm())
        assert float((a.within - b.within).norm()) < FLOAT64 * scale
        torch.testing.assert_close(
            mine.features.scatter, theirs.features.scatter, rtol=FLOAT64, atol=FLOAT64
        )
        assert a.outputs.wcv.value == pytest.approx(b.outputs.wcv.value, rel=FLOAT64)
        assert torch.equal(mine.kept.labels, theirs.kept.labels)
        torch.testing.assert_close(
            mine.kept.rows, theirs.kept.rows, rtol=FLOAT64, atol=0
        )


def test_unbalanced_missing_and_single_sample_classes():
    model, (x, y) = mlp(6, 8, 5), classified()
    y = torch.where(y == 2, 0, y)
    y[3] = 4
    found = gather(model, batches(x, y, 7), loss="cross_entropy")
    counts = torch.bincount(y, minlength=5)
    assert counts[2] == counts[3] == 0
    for layer in found.layers:
        assert layer.features.counts.tolist() == counts.tolist()
        assert layer.features.num_present == 3
        assert layer.features.traces[4] == 0.0
    assert_gradients(found, gradients_of(model, F.cross_entropy(model(x), y)))


def test_ten_thousand_classes():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 4, generator=g, dtype=torch.float64)
    y = torch.randint(10_000, (600,), generator=g)
    model = nn.Sequential(nn.Linear(4, 10_000)).double()
    found = gather(model, batches(x, y, 150), loss="cross_entropy", keep_bytes=0)
    assert found.reading.num_classes == 10_000
    wanted = gradients_of(model, F.cross_entropy(model(x), y))
    assert_gradients(found, wanted)
    layer = found.layers[0]
    assert layer.features.wcv.value == pytest.approx(wcv(x, y), rel=FLOAT64)
    # Class means of 10,000 derivatives by 10,000 classes are not held.
    assert (layer.cells, layer.cross.outputs.num_present) == ("none", 1)
    assert found.outputs.logits is None


def test_the_model_and_the_random_state_are_untouched():
    model, (x, y) = mlp(6, 8, 3), classified()
    model.insert(1, nn.BatchNorm1d(8).double())
    model.insert(3, nn.Dropout(0.5))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    random = torch.get_rng_state()
    gather(model, batches(x, y, 9), loss="cross_entropy")
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_features_alone_need_no_loss_and_no_gradient():
    model, (x, y) = mlp(6, 8, 3), classified()
    model.requires_grad_(False)
    found = gather(model, batches(x, y, 9), loss=None, scatter="trace")
    graded = gather(model, batches(x, y, 9), loss="cross_entropy")
    for mine, theirs in zip(found.layers, graded.layers, strict=True):
        assert (mine.cross, mine.minibatch, mine.gradient()) == (None, None, None)
        assert mine.features.kind == "trace"
        assert mine.features.wcv.value == pytest.approx(theirs.features.wcv.value)


def test_rows_are_kept_beside_what_the_model_chose():
    model, (x, y) = mlp(6, 8, 3), classified()
    found = gather(model, batches(x, y, 9), loss="cross_entropy", keep_gradients=True)
    dense = pairs(model, x, lambda o: _summed(o, y))
    for layer, (z, delta) in zip(found.layers, dense.values(), strict=True):
        kept = layer.kept
        assert kept.exact
        assert torch.equal(kept.labels, y)
        torch.testing.assert_close(kept.rows, z)
        torch.testing.assert_close(kept.gradients, delta)
        assert torch.equal(kept.predictions, model(x).argmax(1))
    assert found.outputs.num_agreeing == int((model(x).argmax(1) == y).sum())


def test_what_does_not_fit_the_memory_is_sampled_alike_in_all_layers():
    model, (x, y) = mlp(6, 8, 3), classified()
    found = gather(model, batches(x, y, 9), loss=None, keep_bytes=20 * (6 + 8) * 8)
    first, second = (layer.kept for layer in found.layers)
    assert (len(first.rows), first.num_seen, first.exact) == (20, 41, False)
    torch.testing.assert_close(model[1](model[0](first.rows)), second.rows)
    with pytest.raises(DomainError, match="keep_bytes must be at least 0"):
        gather(model, batches(x, y, 9), loss=None, keep_bytes=-1)


@pytest.mark.parametrize("width", [5, 40])
def test_the_minibatch_core_has_the_gradients_singular_values(width):
    model, (x, y) = mlp(6, width, width, 3), classified()
    found = gather(model, batches(x, y, 12), loss="cross_entropy")
    first = F.cross_entropy(model(x[:12]), y[:12], reduction="sum")
    wanted = gradients_of(model, first)
    for layer in found.layers:
        sigma = torch.linalg.svdvals(layer.minibatch.core)
        true = torch.linalg.svdvals(wanted[layer.weight_name])
        size = min(len(sigma), len(true))
        torch.testing.assert_close(sigma[:size], true[:size], rtol=1e-8, atol=1e-12)
        assert layer.minibatch.num_rows == 12
        assert float(true[size:].sum()) < 1e-12


def test_no_batch_is_an_error():
    with pytest.raises(DomainError, match="at least one batch"):
        gather(mlp(6, 3), [], loss="cross_entropy")
