"""Angles of weights, against rotations by known angles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spectrank.errors import UnknownNameError
from spectrank.invariance.watching import direction_change


@pytest.mark.parametrize("angle", [1e-12, 1e-6, 0.3, 2.0, math.pi])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_the_angle_of_a_rotation_is_found_at_any_size(angle, scale) -> None:
    before = {"a": torch.tensor([3.0, 0.0]).double(), "b": torch.zeros(2).double()}
    turned = [scale * math.cos(angle), scale * math.sin(angle)]
    now = {"a": torch.tensor(turned, dtype=torch.float64), "b": torch.zeros(2)}
    table = direction_change(now, before, step=5)
    frame = table.where(metric="direction_angle").frame
    found = dict(zip(frame["subject"], frame["value"], strict=True))
    assert found["a"] == pytest.approx(angle, rel=1e-9)
    assert found["model"] == pytest.approx(angle, rel=1e-9)
    assert found["b"] is None
    assert frame["status"].to_list() == ["ok", "degenerate", "ok"]
    assert set(frame["step"]) == {5}


def test_the_model_turns_by_the_angle_of_all_weights_together() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    now = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
    then = torch.cat([before[n].flatten() for n in ("weight", "bias")]).double()
    cosine = float(now @ then / (now.norm() * then.norm()))
    table = direction_change(model, before)
    found = table.where(subject="model").frame["value"][0]
    assert found == pytest.approx(math.acos(cosine), rel=1e-12)
    flips = table.where(metric="weight_sign_flips").frame["value"].sum()
    assert flips == int((now * then < 0).sum())
    assert 0 < flips < 15


def test_zeros_do_not_flip_and_an_absent_parameter_is_named() -> None:
    now = {"w": torch.tensor([0.0, -1.0, 1.0, -2.0])}
    before = {"w": torch.tensor([-1.0, 1.0, 0.0, -3.0])}
    flips = direction_change(now, before).where(metric="weight_sign_flips")
    assert flips.frame["value"].to_list() == [1.0]
    nan = direction_change({"w": torch.tensor([math.nan])}, {"w": torch.ones(1)})
    assert "nonfinite" in nan.frame["status"].to_list()
    with pytest.raises(UnknownNameError, match="'w' is not in before"):
        direction_change(now, {})
