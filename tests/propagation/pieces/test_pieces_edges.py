"""What is refused, and what is left as it was."""

from __future__ import annotations

import math
from collections.abc import Callable

import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.propagation import arc, count_pieces
from spectrank.random_nets import RandomMLP

LINE = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def refused(model: nn.Module, match: str, line: Tensor = LINE) -> None:
    with pytest.raises(DomainError, match=match):
        count_pieces(model, line)


def test_a_node_that_is_not_piecewise_linear_is_named() -> None:
    refused(
        nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)),
        r"node 1 \(n\d+\) is elementwise 'tanh'",
    )
    refused(nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)), "norm 'layer_norm'")
    refused(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), "softmax|attention")

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.relu()

    refused(Gate(), "product 'product'")

    class Bounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.clamp(x, min=x.new_zeros(6))

    refused(Bounded(), "elementwise 'clamp'")

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2.0 - 1.0).relu() / 3.0

    assert count_pieces(Twice(), LINE).value("network", "affinity_defect") < 1e-14


@pytest.mark.parametrize(
    "other", [lambda x: x.flip(0), lambda x: x.mean(0), lambda x: x.roll(1, 0)]
)
def test_a_model_that_couples_the_points_is_found_out(
    other: Callable[[Tensor], Tensor],
) -> None:
    class Coupled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + other(x)).relu()

    table = count_pieces(Coupled(), LINE)
    row = next(r for r in table if r["metric"] == "affinity_defect")
    assert row["status"] == "not_converged"
    assert "couples" in row["reason"]


def test_arguments_out_of_range_are_refused() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    with pytest.raises(ArgumentTypeError, match="Module or a RandomMLP, got dict"):
        count_pieces({}, LINE)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="at least two, got shape"):
        count_pieces(net, LINE[:1])
    with pytest.raises(ArgumentTypeError, match="floating-point"):
        count_pieces(net, LINE.long())
    with pytest.raises(DomainError, match="must differ, number 1 repeats"):
        count_pieces(net, torch.stack([LINE[0], LINE[0]]))
    with pytest.raises(DomainError, match="must be finite"):
        count_pieces(net, torch.stack([LINE[0], LINE[1] * math.inf]))
    with pytest.raises(DomainError, match="may have 3 points"):
        count_pieces(net, LINE * 10.0, max_points=3)
    law = RandomMLP([6, 3, 2], spectrum="gaussian")
    with pytest.raises(DomainError, match="pass how many"):
        count_pieces(law, LINE)
    with pytest.raises(ArgumentTypeError, match=r"torch\.Generator, got int"):
        count_pieces(law, LINE, num_networks=3, generator=4)  # type: ignore[arg-type]
    array = LINE.numpy()
    for call in (lambda: count_pieces(net, array), lambda: arc(array[0], array[1])):
        with pytest.raises(ArgumentTypeError, match=r"got ndarray.*torch\.from_numpy"):
            call()
    with pytest.raises(ArgumentTypeError, match=r"tensor of torch\.int64.*double"):
        arc(LINE[0].long(), LINE[1])
    with pytest.raises(DomainError, match=r"shape \(5,\).*shape of a sample") as error:
        count_pieces(net, LINE[:, :5])
    # `graph` takes wiring=, this does not.
    assert "wiring" not in str(error.value)
    with pytest.raises(DomainError, match="belong to a RandomMLP"):
        count_pieces(net, LINE, num_networks=3)
    x = LINE[0]
    with pytest.raises(DomainError, match="parallel"):
        arc(x, -3.0 * x)
    with pytest.raises(DomainError, match=r"\(0, 2 pi\]"):
        arc(x, LINE[1], angle=7.0)
    with pytest.raises(ShapeError, match="two vectors"):
        arc(LINE, LINE)


def test_a_curve_through_the_origin_has_counts_and_no_angle_to_divide_by() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    ray = torch.stack([LINE[0], 2.0 * LINE[0]])
    table = count_pieces(net, ray)
    assert table.where(metric="new_kinks", variant="count").frame.height == 2
    variants = set(table.where(metric="new_kinks").frame["variant"])
    assert variants == {"count"}


def test_the_model_and_the_random_state_are_left_bit_for_bit() -> None:
    net = nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Dropout(0.5)
    ).train()
    net(LINE).sum().backward()
    calls = []
    net[0].register_forward_hook(lambda *args: calls.append(0))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    versions = [b._version for b in net.buffers()]
    gradients = [p.grad for p in net.parameters()]
    kept = [g.clone() for g in gradients if g is not None]
    hooks = [len(m._forward_hooks) for m in net.modules()]
    state = torch.get_rng_state()
    first = count_pieces(net, LINE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in net.modules())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert [b._version for b in net.buffers()] == versions
    assert all(p.grad is g for p, g in zip(net.parameters(), gradients, strict=True))
    assert all(
        torch.equal(p.grad, g) for p, g in zip(net.parameters(), kept, strict=True)
    )
    assert [len(m._forward_hooks) for m in net.modules()] == hooks
    assert next(net.parameters()).dtype == torch.float32
    assert first.frame.equals(count_pieces(net, LINE).frame)


def test_blocks_of_points_do_not_change_the_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(2)
    net = RandomMLP([6, 12, 12, 12, 2], spectrum="gaussian").sample(generator)
    line = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    whole = count_pieces(net, line)
    # Sixteen points to a block: signs at their borders need the points beside them.
    monkeypatch.setattr("spectrank.propagation.pieces.trace._BLOCK_ENTRIES", 1)
    parts = count_pieces(net, line)
    assert whole.where(variant="pattern").frame["value"].item() > 40
    for a, b in zip(whole, parts, strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-12, abs=1e-13)


def test_a_law_without_a_generator_repeats_with_seed_zero() -> None:
    law = RandomMLP([6, 5, 2], spectrum="gaussian")
    drawn = count_pieces(
        law, LINE, num_networks=3, generator=torch.Generator().manual_seed(0)
    )
    assert count_pieces(law, LINE, num_networks=3).frame.equals(drawn.frame)


class Bounded(nn.Module):
    """A weight whose computation bends, and on CPU branches on values."""

    def __init__(self, *, branch: bool) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, W: Tensor) -> Tensor:
        size = W.abs().max().clamp(min=0.1)
        if self.branch and float(size.detach()) > 0.0:
            return W.clamp(-0.3, 0.3)
        return W / size


@pytest.mark.parametrize("branch", [False, True])
def test_a_parametrised_weight_is_the_constant_that_it_computes(branch: bool) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    plain.load_state_dict(net.state_dict())
    first, last = Bounded(branch=branch), Bounded(branch=branch)
    with torch.no_grad():
        plain[0].weight.copy_(first(net[0].weight))
        plain[2].weight.copy_(torch._weight_norm(net[2].weight, torch.ones(8, 1), 0))
        plain[2].bias.copy_(last(net[2].bias))
    parametrize.register_parametrization(net[0], "weight", first)
    nn.utils.parametrizations.weight_norm(net[2])
    with torch.no_grad():
        net[2].parametrizations.weight.original0.fill_(1.0)
    parametrize.register_parametrization(net[2], "bias", last)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    frame = count_pieces(net, LINE).frame
    assert frame.equals(count_pieces(plain, LINE).frame)
    found = frame.filter((pl.col("variant") == "count") & (pl.col("index") == 1))
    assert found["value"].min() >= 1.0
    # The original is parametrised as before, and so is its class.
    assert parametrize.is_parametrized(net[2], "bias")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(net(LINE), plain(LINE))


def test_a_parametrisation_without_a_value_is_named_with_the_way_out() -> None:
    class Broken(nn.Module):
        def forward(self, W: Tensor) -> Tensor:
            if not self.training:
                raise RuntimeError("no value")
            return W

    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    parametrize.register_parametrization(net[0], "weight", Broken(), unsafe=True)
    refused(net, r"for 0\.weight: no value; call .*remove_parametrizations")
