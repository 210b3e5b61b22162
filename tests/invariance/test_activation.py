"""Patterns of units over data, against networks whose patterns are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.errors import DomainError, UnknownNameError
from spectrank.invariance.activation import activation_patterns
from spectrank.invariance.pairs import coactivation_classes


def _step_net(thresholds: list[float]) -> nn.Sequential:
    """Units that are active where x is above their threshold."""
    model = nn.Sequential(nn.Linear(1, len(thresholds)), nn.ReLU(), nn.Linear(5, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(-torch.tensor(thresholds))
    return model.double()


# 0 is no activity: the third unit is silent on x = 2.
POINTS = torch.tensor([[1.0], [2.0], [3.0]]).double()
THRESHOLDS = [0.0, 9.0, 2.0, 2.5, 0.5]


def _numbers(table, subject: str) -> dict[str, float]:
    frame = table.where(subject=subject).frame
    return dict(zip(frame["metric"], frame["value"], strict=True))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("layer", ["0", "1"])
def test_units_are_active_dead_or_mixed_and_fall_into_classes(batch, layer) -> None:
    model = _step_net(THRESHOLDS)
    found = activation_patterns(model, POINTS.split(batch), layers=layer)
    expected = (torch.tensor(THRESHOLDS) < POINTS).numpy()
    np.testing.assert_array_equal(found.slopes(layer), expected)
    pattern = found.layers[layer]
    assert pattern.stably_active.tolist() == [0, 4]
    assert pattern.dead.tolist() == [1]
    # Active on x = 3 alone: thresholds 2 and 2.5.
    assert [c.tolist() for c in pattern.classes] == [[0, 4], [1], [2, 3]]
    assert _numbers(found.table(), layer) == {
        "num_active": 2,
        "num_dead": 1,
        "num_mixed": 2,
        "num_classes": 3,
        "largest_class": 2,
        "num_coactive_pairs": 2,
    }


def test_classes_from_bits_are_those_from_booleans() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 1)).double()
    data = [torch.randn(9, 2).double()]
    found = activation_patterns(model, data, layers="0")
    expected = coactivation_classes((model[0](data[0]) > 0).detach().numpy())
    got = found.layers["0"].classes
    assert [c.tolist() for c in got] == [c.tolist() for c in expected]
    assert 1 < len(got) < 40


def test_flips_are_counted_by_unit_row_and_sign() -> None:
    model = _step_net(THRESHOLDS)
    before = activation_patterns(model, [POINTS], layers="0", step=3)
    assert before.flips("0") is None
    assert before.sign_flips("0.weight") is None
    with torch.no_grad():
        model[0].bias[1] = 0.0  # Threshold 9 becomes 0: three switches.
        model[0].bias[3] = -1.5  # 2.5 becomes 1.5: one.
        model[2].weight[0, :2] *= -1.0
        model[2].weight[0, 2] = 0.0
        model[2].weight[0, 3] *= 2.0
    after = activation_patterns(model, [POINTS], previous=before, layers="0", step=4)
    assert after.flips("0").tolist() == [0, 3, 0, 1, 0]
    assert after.sign_flips("2.weight") == 2
    # Biases -9 and -2.5 became 0 and -1.5: neither is opposite.
    assert after.sign_flips("0.bias") == 0
    table = after.table()
    assert _numbers(table, "0")["activation_flips"] == 4
    assert _numbers(table, "0")["num_flipped_units"] == 2
    assert _numbers(table, "2.weight") == {"weight_sign_flips": 2}
    assert set(table.frame["step"]) == {4}
    # A chain of results does not keep all of them.
    assert after.previous.previous is None
    assert after.previous.layers is before.layers


@pytest.mark.parametrize("inplace", [True, False])
def test_positions_of_a_convolution_are_rows(inplace) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(inplace=inplace)
    ).double()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.3, -9.0, 9.0]))
    images = torch.randn(2, 1, 4, 5).double()
    found = activation_patterns(model, [images], layers=["0", "2"])
    with torch.no_grad():
        conv = model[0](images)
        normed = (conv / (1 + 1e-5) ** 0.5) + model[1].bias.view(1, 3, 1, 1)
    for name, z in (("0", conv), ("2", normed)):
        rows = z.permute(0, 2, 3, 1).reshape(-1, 3) > 0
        assert len(rows) == 24
        np.testing.assert_array_equal(found.slopes(name), rows.numpy())
    assert found.layers["2"].dead.tolist() == [1]
    assert found.layers["2"].stably_active.tolist() == [2]


def test_the_model_is_left_alone_and_other_data_are_refused() -> None:
    model = _step_net(THRESHOLDS).train()
    state = torch.get_rng_state()
    found = activation_patterns(model, [POINTS])
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found.layers) == ["0"]
    with pytest.raises(DomainError, match="'0' has 2 rows now and 3 rows before"):
        activation_patterns(model, [POINTS[:2]], previous=found)
    with pytest.raises(DomainError, match="and none before"):
        activation_patterns(model, [POINTS], previous=found, layers="1")
    with pytest.raises(UnknownNameError, match="the layers are 0"):
        found.slopes("4")


class _Block(nn.Module):
    """One relu module at two places, a prelu, a gelu, a norm between, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.again = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(3, 5)
        self.slope = nn.PReLU(5)
        self.plain = nn.Linear(3, 4)
        self.head = nn.Linear(9, 2)
        self.smooth = nn.Linear(5, 2)

    def forward(self, x):
        h = self.relu(self.norm(self.stem(x)))
        h = self.relu(h + self.again(h)).mean((2, 3))
        z = self.slope(self.hidden(h))
        both = torch.cat([z, nn.functional.relu(self.plain(h))], 1)
        return self.head(both), nn.functional.gelu(self.smooth(z))


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel])
def test_patterns_are_taken_where_a_relu_reads_and_nowhere_else(wrap) -> None:
    torch.manual_seed(0)
    model = _Block().double()
    with torch.no_grad():
        model.norm.bias.copy_(torch.tensor([0.3, -9.0, 9.0]))
        model.stem.bias.copy_(torch.tensor([-50.0, 50.0, 0.0]))
        model.norm.running_mean.copy_(model.stem.bias)
    images = torch.randn(3, 1, 4, 4).double()
    given = wrap(model)
    prefix = "module." if given is not model else ""
    # The loader can be read once.
    found = activation_patterns(given, iter([images[:2], images[2:]]))
    model.eval()
    with torch.no_grad():
        first = model.norm(model.stem(images))
        second = first.relu() + model.again(first.relu())
        h = second.relu().mean((2, 3))
        expected = {
            "hidden": model.hidden(h),
            "plain": model.plain(h),
            "relu:0": first.permute(0, 2, 3, 1).reshape(-1, 3),
            "relu:1": second.permute(0, 2, 3, 1).reshape(-1, 3),
        }
    assert sorted(found.layers) == [prefix + name for name in sorted(expected)]
    for name, z in expected.items():
        np.testing.assert_array_equal(found.slopes(prefix + name), (z > 0).numpy())
    # By its own sign the first channel of the stem is dead and the second is not.
    assert found.layers[prefix + "relu:0"].dead.tolist() == [1]
    skipped = {"stem": "batch_norm", "again": "sum", "head": "output", "smooth": "gelu"}
    assert set(found.skipped) == {prefix + name for name in skipped}
    rows = found.table().where(kind="skip").frame.to_dicts()
    reasons = {row["subject"]: row["reason"] for row in rows}
    for name, op in skipped.items():
        assert f"no relu reads its output, but {op}" in reasons[prefix + name]
    # On request anything is taken for a pre-activation.
    asked = activation_patterns(given, [images], layers=prefix + "stem")
    assert asked.layers[prefix + "stem"].dead.tolist() == [0]
    assert not asked.skipped


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.relu, self.two = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        return self.two(self.relu(self.one(-x if x.sum() > 0 else x)))


def test_of_a_model_that_cannot_be_traced_its_relus_are_taken() -> None:
    torch.manual_seed(0)
    model = _Branching().double()
    x = -torch.rand(5, 3).double()
    found = activation_patterns(model, [x])
    assert list(found.layers) == ["relu"]
    np.testing.assert_array_equal(found.slopes("relu"), (model.one(x) > 0).numpy())
    assert set(found.skipped) == {"one", "two"}
    assert "cannot be traced" in found.skipped["one"]


def test_a_model_without_a_relu_has_no_patterns() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(DomainError, match="without a layer or module of that kind"):
        activation_patterns(model, [torch.ones(2, 3)])
