"""Means over networks drawn from a law, in batches, by the recursions themselves.

K  networks at once      N  inputs      n_l  widths
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.shapes import Float64
from spectrank.propagation.measurement.estimates import Traces
from spectrank.propagation.measurement.samples import log_norms, pair_angles
from spectrank.propagation.measurement.tally import Place, Tally
from spectrank.random_nets import RandomMLP
from spectrank.random_nets.activations import MODULES

# Numbers of a block of networks: weights, and activations of all inputs.
_BLOCK_ENTRIES = 2**22
_MOST_AT_ONCE = 4096


def measure_networks(
    law: RandomMLP,
    x: Tensor,
    num_networks: int,
    quantities: frozenset[str],
    generator: torch.Generator,
    tally: Tally,
) -> None:
    """Draw networks and send inputs, directions and cotangents through them.

    A cluster is a network: its inputs and directions are averaged before the networks
    are compared.

    Args:
        law: Of the networks.
        x: (N, n_0) or (n_0,) inputs, not zero; rows 0 and 1, 2 and 3, ... are pairs.
        num_networks: How many.
        quantities: As of ``measure``.
        generator: Source of weights and directions.
        tally: Filled.

    Raises:
        ShapeError: The inputs do not fit the law.
        DomainError: There is no input, or one is zero or not finite.
    """
    inputs = x.detach().to(torch.float64).reshape(-1, x.shape[-1])
    if x.ndim > 2 or inputs.shape[1] != law.widths[0]:
        raise ShapeError(
            f"inputs of this law have {law.widths[0]} entries, got shape "
            f"{tuple(x.shape)}; pass (N, {law.widths[0]})"
        )
    if not len(inputs):
        raise DomainError(
            "there must be an input to measure, got none in shape "
            f"{tuple(x.shape)}; pass (N, {law.widths[0]}), N at least 1"
        )
    size = inputs.abs().amax(1)
    if not bool(((size > 0) & size.isfinite()).all()):
        raise DomainError(
            "gains are relative to the input, which must be finite and not zero; leave "
            "such rows out"
        )
    names, layers = law.parameter_names, law.layers
    places = [
        Place(name, i + 1, (layer.m, layer.n))
        for i, (name, layer) in enumerate(zip(names, layers, strict=True))
    ]
    inputs = inputs.to(generator.device)
    if len(inputs) in {2, 3}:
        tally.input_cosine = float(pair_angles(inputs[0], inputs[1])[0])
    weight = sum(layer.m * layer.n for layer in layers) + len(inputs) * sum(law.widths)
    block = max(1, min(_MOST_AT_ONCE, _BLOCK_ENTRIES // weight))
    phi = _activation(law)
    for start in range(0, num_networks, block):
        num = min(block, num_networks - start)
        weights = law.sample_weights(generator, num=num)
        slopes = _signals(weights, inputs, phi, places, tally, quantities)
        if "jacobian" in quantities:
            _tangents(weights, slopes, len(inputs), generator, places, tally)
            _jacobians(weights, slopes, tally)
        if "gradients" in quantities:
            _cotangents(weights, slopes, len(inputs), generator, places, tally)


def _activation(law: RandomMLP) -> Callable[[Tensor], Tensor]:
    module: nn.Module = MODULES.get(law.activation, nn.Identity)()
    return module


def _signals(
    weights: list[Tensor],
    x: Float64[Tensor, "N d"],
    phi: Callable[[Tensor], Tensor],
    places: list[Place],
    tally: Tally,
    quantities: frozenset[str],
) -> list[Tensor]:
    """Fill signals and angles; returns the slopes of phi at z_1 .. z_(L-1)."""
    signal, angles = "signal" in quantities, "angles" in quantities
    h = x.expand(len(weights[0]), *x.shape)
    first = log_norms(h)
    slopes: list[Tensor] = []
    for place, W in zip(places, weights, strict=True):
        before = log_norms(h)
        z = h @ W.mT
        output = place is places[-1]
        # The output carries no activation: it stands for h_L in an angle.
        h, slope = (z, z) if output else _with_slope(phi, z)
        found = {"pre": z} if output else {"pre": z, "post": h}
        for site, values in found.items():
            if signal:
                _fill(tally, place, site, values, first, before)
                tally.size(place, site, x.shape[1] / W.shape[1])
        if angles:
            _fill_angles(tally, place, "pre", z)
            _fill_angles(tally, place, "post", h)
        if not output:
            slopes.append(slope)
    return slopes


def _with_slope(phi: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """phi(z) and phi'(z), entry by entry."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        at = z.detach().clone().requires_grad_()
        h = phi(at)
        (slope,) = torch.autograd.grad(h.sum(), at)
    return h.detach(), slope


def _fill(
    tally: Tally, place: Place, site: str, z: Tensor, first: Tensor, before: Tensor
) -> None:
    logs = log_norms(z)
    tally.gains(place, "signal", site).update(logs - first)
    # Of what arrives; a layer that nothing reaches has no gain of its own.
    reached = (before > -torch.inf).all(1)
    if bool(reached.any()):
        tally.gains(place, "layer", site).update((logs - before)[reached])


def _fill_angles(tally: Tally, place: Place, site: str, h: Tensor) -> None:
    if h.shape[1] < 2:
        return
    pairs = h[:, : h.shape[1] // 2 * 2]
    u, v = pairs[:, ::2], pairs[:, 1::2]
    tally.angles(place, site).update(*pair_angles(u, v))


def _tangents(
    weights: list[Tensor],
    slopes: list[Tensor],
    num: int,
    generator: torch.Generator,
    places: list[Place],
    tally: Tally,
) -> None:
    t = _directions(len(weights[0]), num, weights[0].shape[2], generator)
    for i, (place, W) in enumerate(zip(places, weights, strict=True)):
        t = t @ W.mT
        tally.gains(place, "jacobian", "pre").update(log_norms(t))
        if i < len(slopes):
            t = t * slopes[i]
            tally.gains(place, "jacobian", "post").update(log_norms(t))


def _cotangents(
    weights: list[Tensor],
    slopes: list[Tensor],
    num: int,
    generator: torch.Generator,
    places: list[Place],
    tally: Tally,
) -> None:
    g = _directions(len(weights[0]), num, weights[-1].shape[1], generator)
    for i in reversed(range(len(weights))):
        g = g @ weights[i]
        tally.gains(places[i], "gradient").update(log_norms(g))
        if i:
            g = g * slopes[i - 1]


def _jacobians(weights: list[Tensor], slopes: list[Tensor], tally: Tally) -> None:
    """The Jacobian of the output at the first input, formed as a product."""
    J = weights[0]
    for W, slope in zip(weights[1:], slopes, strict=True):
        J = W @ (slope[:, 0, :, None] * J)
    if tally.traces is None:
        tally.traces = Traces(J.shape[1])
    tally.traces.update(J)


def _directions(
    num_networks: int, num: int, dim: int, generator: torch.Generator
) -> Tensor:
    """(K, N, dim) uniform unit vectors."""
    drawn = torch.randn(
        num_networks,
        num,
        dim,
        generator=generator,
        device=generator.device,
        dtype=torch.float64,
    )
    return nn.functional.normalize(drawn, dim=-1)
