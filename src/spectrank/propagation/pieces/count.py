"""``count_pieces``: kinks, pattern changes and lengths along a curve, by events."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.haar import check_count, check_generator
from spectrank.propagation.pieces.curves import Curve
from spectrank.propagation.pieces.forward import Network
from spectrank.propagation.pieces.plan import Plan, make_plan
from spectrank.propagation.pieces.rows import piece_rows
from spectrank.propagation.pieces.trace import CurveCount, count_curve
from spectrank.propagation.pieces.weights import with_plain_weights
from spectrank.random_nets import RandomMLP
from spectrank.table import Table

# Networks whose weights are drawn at once.
_DRAWN = 64


def count_pieces(
    model: nn.Module | RandomMLP,
    curve: Tensor,
    *,
    num_networks: int | None = None,
    generator: torch.Generator | None = None,
    max_points: int = 1_000_000,
    device: torch.device | str | None = None,
) -> Table:
    r"""Kinks of a piecewise-linear network along a polyline, exactly: events, no grid.

    On an interval between two breakpoints the pre-activations of the next step are
    affine, so each crossing of a threshold follows from the values at the two ends;
    it becomes a breakpoint, and the step after is looked at. No pair of crossings can
    hide between grid points. Works layer by layer in float64, on any model that
    `spectrank.graph` reads and that consists of linear layers, convolutions, BatchNorm
    (evaluation mode), sums, reshapes, linear pools, ReLU, leaky and parametric ReLU,
    abs, hardtanh, clamp, hardsigmoid, softshrink and max pools. A parametrised weight
    is a constant of the pass: its value in evaluation mode.

    Rows, one for each bend (``index`` 1, 2, ... in the order in which they run;
    ``subject`` the weight whose outputs it reads, or the step's own name where several
    meet):

    - ``new_kinks``: neurons that change sign strictly, from one side of a threshold to
      the other. A neuron that arrives at its threshold and stays there over a whole
      interval, as all do while h_{l-1} = 0, makes none.
    - ``pattern_changes``: changes of z > threshold: those, and neurons that rise from
      or fall to an interval at the threshold, at a kink of an earlier layer.
    - both with variant ``count`` (the number itself) and without (per unit of the
      curve's angular length over pi, the unit of `predict`).
    - ``length_gain``, ``pre`` and ``post``: exact length of the image of the polyline
      before and after the step, over the length of the polyline; ``pre`` also of the
      output, at the last index.
    - for the network the sums of the counts, and ``linear_pieces``: ``output``, affine
      pieces of the output (every segment begins one), bends that rounding hides left
      out, with ``upper`` counting them too; ``pattern``, affine intervals of all steps;
      ``affinity_defect``, an independent check that the output at the middle of every
      interval is the mean of its ends, relative to the largest output.

    Degenerate cases. A value within 16 units of rounding of its threshold, relative to
    its neighbours along the curve, is taken to be at it; a crossing closer than 8 units
    of rounding to a breakpoint, or to another crossing, falls on it; the pre-activation
    of a neuron at its own crossing is set to the threshold, so that a layer that dies
    there is exactly dead. ``reason`` says how many values were taken so. In a max pool
    only changes of the winner inside an interval count.
    Source (derived): tests/propagation/pieces/test_pieces_exact.py (rational
    arithmetic), test_pieces_grids.py and test_pieces_laws.py (S1 section 4).

    Args:
        model: A module, left as it was, run in evaluation mode; or the law of one.
        curve: (V, *sample) vertices; see `arc` for a great circle.
        num_networks: Of a law, how many networks are drawn; rows are then means over
            networks with standard errors, ``values`` the numbers of each network.
        generator: Of a law, source of its weights; by default one seeded with 0, so
            that a call repeats.
        max_points: Refuse a curve with more breakpoints.
        device: Where it runs; None for the device of the model.

    Returns:
        The rows, ``route`` ``events``.

    Raises:
        ArgumentTypeError: ``model`` is neither a module nor a law, ``curve`` no
            floating-point tensor, or ``generator`` none.
        ShapeError: ``curve`` has fewer than two vertices.
        DomainError: A node is not piecewise linear (it is named), the curve is not
            finite, or there are too many points.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.tensor([[1.0], [2.0]]))
        ...     _ = net[0].bias.copy_(torch.tensor([0.0, -1.0]))
        >>> table = count_pieces(net, torch.tensor([[-1.0], [1.0]]))
        >>> table.value("0.weight", "new_kinks", variant="count")
        2.0
    """  # noqa: DOC502 - a part is raised by the functions called
    line = Curve(curve)
    _check_networks(isinstance(model, RandomMLP), num_networks, generator)
    if isinstance(model, RandomMLP):
        assert num_networks is not None
        own = torch.Generator().manual_seed(0) if generator is None else generator
        where = torch.device(device or own.device)
        line.vertices = line.vertices.to(where)
        plan, counts = _over_networks(
            model, line, num_networks, own, max_points=max_points
        )
        layers = zip(model.parameter_names, model.layers, strict=True)
        shapes = {name: (layer.m, layer.n) for name, layer in layers}
        return piece_rows(plan, counts, line, shapes, networks=True)
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            "pieces are counted of a torch.nn.Module or a RandomMLP, got "
            f"{type(model).__name__}; load a checkpoint into its module first"
        )
    held = next(iter((*model.parameters(), *model.buffers())), None)
    where = torch.device(device or ("cpu" if held is None else held.device))
    plain = with_plain_weights(model)
    plan = make_plan(plain, _example(line, held))
    line.vertices = line.vertices.to(where)
    network = Network(plain, plan, None, where)
    count = count_curve(network, line, max_points=max_points)
    named = plain.named_parameters(remove_duplicate=False)
    shapes = {name: (len(p), p[0].numel()) for name, p in named if p.ndim >= 2}
    return piece_rows(plan, [count], line, shapes, networks=False)


def _check_networks(
    law: bool, num_networks: int | None, generator: torch.Generator | None
) -> None:
    given = num_networks is not None or generator is not None
    if law and num_networks is None:
        raise DomainError(
            "a RandomMLP is a law, its pieces are counted over networks drawn from it, "
            "got num_networks=None; pass how many"
        )
    if given and not law:
        raise DomainError(
            "num_networks and generator belong to a RandomMLP, got "
            f"num_networks={num_networks!r} with one given network; leave both out"
        )
    if generator is not None:
        check_generator(generator)
    if num_networks is not None:
        check_count("num_networks", num_networks)
        if num_networks < 2:
            raise DomainError(
                "a standard error needs at least two networks, got num_networks="
                f"{num_networks}; draw more"
            )


def _example(line: Curve, held: Tensor | None) -> Tensor:
    if held is None or not held.is_floating_point():
        return line.vertices[:2]
    return line.vertices[:2].to(held)


def _over_networks(
    law: RandomMLP,
    line: Curve,
    num_networks: int,
    generator: torch.Generator,
    *,
    max_points: int,
) -> tuple[Plan, list[CurveCount]]:
    # The wiring is the same in all of them; this one's weights are not used.
    template = law.sample(torch.Generator().manual_seed(0))
    plan = make_plan(template, line.vertices[:2].cpu())
    counts: list[CurveCount] = []
    while len(counts) < num_networks:
        num = min(_DRAWN, num_networks - len(counts))
        drawn = law.sample_weights(generator, num=num)
        for weights in zip(*drawn, strict=True):
            tensors = dict(zip(law.parameter_names, weights, strict=True))
            network = Network(template, plan, tensors, line.vertices.device)
            counts.append(count_curve(network, line, max_points=max_points))
    return plan, counts
