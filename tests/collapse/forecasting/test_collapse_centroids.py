"""Centroids against means taken by hand, whatever the batches and their order."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spectrank.collapse.forecasting import centroids
from spectrank.errors import ArgumentTypeError, DomainError, ShapeError

NET = nn.Linear(6, 3)


def data(num: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 6, generator=generator)
    labels = torch.randint(0, 3, (num,), generator=generator) * 2  # 0, 2 and 4
    return x, labels


def test_centroids_are_the_means_of_each_class():
    x, labels = data()
    found = centroids(NET, [(x[:7], labels[:7]), (x[7:], labels[7:])])
    assert found.targets.tolist() == [0, 2, 4]
    assert found.counts.tolist() == [int((labels == k).sum()) for k in (0, 2, 4)]
    assert found.num_samples == 40
    wide = x.double()
    for k, mean in zip((0, 2, 4), found.inputs, strict=True):
        assert torch.allclose(mean, wide[labels == k].mean(0), rtol=0, atol=1e-15)
    within = sum(
        float((wide[labels == k] - wide[labels == k].mean(0)).square().sum())
        for k in (0, 2, 4)
    )
    total = float((wide - wide.mean(0)).square().sum())
    assert found.rtcv.value == pytest.approx(within / total, rel=1e-13)


def test_batches_and_their_order_do_not_matter():
    x, labels = data()
    one = centroids(NET, [(x, labels)])
    # Another order on each of the two passes.
    shuffled = DataLoader(
        TensorDataset(x, labels),
        batch_size=7,
        shuffle=True,
        generator=torch.Generator().manual_seed(1),
    )
    many = centroids(NET, shuffled)
    assert torch.equal(one.targets, many.targets)
    assert torch.equal(one.counts, many.counts)
    assert torch.allclose(one.inputs, many.inputs, rtol=0, atol=1e-14)


def test_rows_of_targets_are_cells_as_labels_are():
    x, labels = data()
    rows = F.one_hot(labels // 2, 3).float()
    found = centroids(NET, [(x[:11], rows[:11]), (x[11:], rows[11:])])
    named = centroids(NET, [(x, labels)])
    # Ascending rows: the last class has the smallest.
    assert found.targets.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert torch.allclose(found.inputs.flip(0), named.inputs, rtol=0, atol=1e-14)
    assert found.counts.flip(0).tolist() == named.counts.tolist()


def test_ignored_samples_do_not_count():
    x, labels = data()
    kept = labels != 2
    labels = torch.where(kept, labels, -100)
    found = centroids(NET, [(x, labels)], ignore_index=-100)
    assert found.targets.tolist() == [0, 4]
    assert found.num_samples == int(kept.sum())


def test_images_keep_their_shape_and_dicts_are_read():
    x, labels = data()
    images = x.reshape(40, 1, 2, 3)
    found = centroids(nn.Flatten(), [{"x": images, "labels": labels}])
    assert found.inputs.shape == (3, 1, 2, 3)
    mean = images[labels == 4].double().mean(0)
    assert torch.allclose(found.inputs[2], mean, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([(torch.ones(4, 6), torch.rand(4, 2))], DomainError, "share their targets"),
        (
            [(torch.ones(4, 6, dtype=torch.long), torch.ones(4))],
            DomainError,
            "floating",
        ),
        ([(torch.ones(4, 6), torch.ones(3).long())], ShapeError, "one class label"),
        ([(torch.ones(4, 6), torch.ones(4, 5).long())], ShapeError, "sequences"),
        ([(torch.ones(4, 6), None)], ArgumentTypeError, "one target tensor"),
        ([(torch.full((4, 6), torch.nan), torch.ones(4).long())], DomainError, "rows"),
        ([(torch.ones(4, 6), torch.full((4,), torch.inf))], DomainError, "infinity"),
        ([], DomainError, "at least one sample"),
        (
            iter([(torch.ones(4, 6), torch.ones(4))]),
            ArgumentTypeError,
            "more than once",
        ),
    ],
)
def test_data_without_centroids_are_refused(loader, error, message):
    with pytest.raises(error, match=message):
        centroids(NET, loader)


class Growing:
    """A loader that gives one more batch on every pass."""

    def __init__(self, label: int) -> None:
        self.passes, self.label = 0, label

    def __iter__(self):
        self.passes += 1
        yield torch.ones(2, 6), torch.zeros(2, dtype=torch.long)
        if self.passes > 1:
            yield torch.ones(2, 6), torch.full((2,), self.label)


@pytest.mark.parametrize(("label", "message"), [(0, "same samples"), (1, "were new")])
def test_data_that_change_between_passes_are_refused(label, message):
    with pytest.raises(DomainError, match=message):
        centroids(NET, Growing(label))
