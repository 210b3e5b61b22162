"""``infinite_width``: from a module or a law of random nets to its kernels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, get_args

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, SpectrankWarning
from spectrank.linalg.ensembles.requests import check_choice
from spectrank.model.graph import Graph, graph
from spectrank.ntk.infinite.affine import Parametrisation
from spectrank.ntk.infinite.kernel import Kernel
from spectrank.ntk.infinite.refusals import check_graph, needs_pairs, refusal
from spectrank.ntk.infinite.scales import Scale, Variance, scales
from spectrank.ntk.moments import moments
from spectrank.ntk.parameters import choose_parameters
from spectrank.random_nets import RandomMLP
from spectrank.random_nets.activations import MODULES, SLOPES

# Relative standard deviation of one half: the limit says little of a draw then.
_RANDOM = 0.25


def infinite_width(
    model: nn.Module | RandomMLP,
    example_input: Any = None,
    *,
    parametrisation: Parametrisation = "standard",
    weight_variance: Variance = None,
    bias_variance: Variance = None,
    params: str | Sequence[str] | None = None,
) -> Kernel:
    r"""NNGP and tangent kernel of the infinite-width limit of a module.

    Weights are independent and centred with variance sigma_w^2 / n, n the inputs of the
    layer (of a convolution those of a window), biases have variance sigma_b^2. Unless
    stated, sigma_w^2 = ||W||_F^2 / m and sigma_b^2 = mean b^2 of the module as it is,
    so that the limit keeps the Frobenius norm per output of every layer; He's
    initialisation is ``weight_variance=2.0``, LeCun's 1.0, torch's own 1/3. A limit
    of stable ranks too: with the Frobenius norms held, none of their effect is left,
    provided that the participation ratios grow with the width.

    ``standard``: every parameter is trained as it stands, so the kernel grows with the
    widths, which are the module's own, and is what ``empirical`` tends to (its trace
    over c outputs is c times this), to leading order. ``ntk``: weights are
    sigma_w w / sqrt(n) and biases sigma_b b with w and b trained; no width enters.

    Linear layers, convolutions (zero or circular padding, stride, dilation), relu,
    leaky_relu, abs, erf and gelu in closed form, any smooth map by its Hermite series,
    sums of independent branches, flatten, average pooling, means over positions, and
    layer norms at weight one and bias zero. Anything else is refused by name.
    Source (stated): Jacot et al. (2018), arXiv:1806.07572, Theorem 1.
    Source (derived): tests/ntk/infinite/test_infinite_golden.py.

    Args:
        model: A module with (batch, classes) outputs, or a law of random nets, whose
            sigma_w^2 is E ||W||_F^2 / m.
        example_input: As of `spectrank.model.graph.graph`; a Sequential needs none.
        parametrisation: ``standard`` or ``ntk``.
        weight_variance: sigma_w^2, one number or glob pattern on weights to number;
            None, or no pattern: that of the module.
        bias_variance: sigma_b^2, likewise.
        params: Glob pattern(s) on parameters that are trained; None for those that
            require a gradient.

    Returns:
        ``k(x, y=None) -> (nngp, ntk)``, both (n1, n2) in float64.

    Raises:
        ArgumentTypeError: The model is neither a module nor a `RandomMLP`.
        DomainError: A step has no limit here, or a variance is no variance.
        UnknownNameError: A pattern or the parametrisation is none.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spectrank.ntk.infinite import infinite_width
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1))
        >>> k = infinite_width(
        ...     net, parametrisation="ntk", weight_variance=2.0, bias_variance=0.0
        ... )
        >>> nngp, ntk = k(torch.eye(2))
        >>> [[round(float(v), 4) for v in row] for row in ntk]
        [[2.0, 0.3183], [0.3183, 2.0]]
    """  # noqa: DOC502 - some are raised by the functions called
    check_choice("parametrisation", parametrisation, get_args(Parametrisation))
    if isinstance(model, RandomMLP):
        _unstated(example_input, weight_variance, bias_variance, params)
        return _of_law(model, parametrisation)
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            "an infinite-width kernel is of a torch.nn.Module or a RandomMLP, got "
            f"{type(model).__name__}; a state dict does not say what feeds what"
        )
    found = graph(model, example_input)
    check_graph(found)
    trained = choose_parameters(model, params)
    shape = found.nodes[0].shape
    kernel = Kernel(
        nodes=found.nodes,
        scales=scales(
            model,
            found.layers,
            trained,
            weight_variance=weight_variance,
            bias_variance=bias_variance,
        ),
        affine=_affine(model, found, trained),
        pairs=needs_pairs(found.nodes),
        parametrisation=parametrisation,
        input_shape=None if shape is None else shape[1:],
    )
    if shape is not None:
        # Refusals that depend on shapes come here, not in the first call.
        probe = torch.linspace(-1.0, 1.0, math.prod(shape[1:]), dtype=torch.float64)
        kernel(probe.reshape(1, *shape[1:]))
    return kernel


def _affine(
    model: nn.Module, found: Graph, trained: Sequence[str]
) -> dict[str, Mapping[str, bool]]:
    """Which parameters of the layer norms are trained, all being one and zero."""
    norms: dict[str, Mapping[str, bool]] = {}
    for node in found.nodes:
        if node.kind != "norm":
            continue
        for role, neutral in (("weight", 1.0), ("bias", 0.0)):
            name = node.parameters.get(role)
            values: Tensor | None = attrgetter(name)(model) if name else None
            if values is not None and bool((values != neutral).any()):
                raise DomainError(
                    refusal(
                        node,
                        f"its {role} is not {neutral:g} throughout",
                        "reset its parameters",
                    )
                )
        norms[node.id] = {r: n in trained for r, n in node.parameters.items()}
    return norms


def _unstated(*given: object) -> None:
    if any(x is not None for x in given):
        raise DomainError(
            "a RandomMLP states its variances and trains every weight, got "
            f"{next(x for x in given if x is not None)!r}; leave it out"
        )


def _of_law(net: RandomMLP, parametrisation: Parametrisation) -> Kernel:
    modules: list[nn.Module] = []
    for law in net.layers:
        if modules and net.activation != "linear":
            modules.append(MODULES[net.activation]())
        modules.append(nn.Linear(law.n, law.m, bias=False, device="meta"))
    found = graph(nn.Sequential(*modules))
    owned = {
        node.id: Scale(
            name=name,
            weight_variance=law.a1 / law.m,
            bias_variance=0.0,
            weight_trained=True,
            bias_trained=False,
            route="law",
            m=law.m,
            n=law.n,
            participation_ratio=law.participation_ratio,
        )
        for node, name, law in zip(
            found.layers, net.parameter_names, net.layers, strict=True
        )
    }
    variance = None
    if net.activation in SLOPES:
        variance = float(moments(net).value("network", "kernel_relative_variance"))
    if variance is not None and variance > _RANDOM:
        warnings.warn(
            f"the kernel of {net!r} scatters around this limit with a relative "
            f"variance of {variance:.2g}; where the participation ratio is bounded it "
            "stays random however wide the net: see table() and ntk.moments",
            SpectrankWarning,
            stacklevel=3,
        )
    return Kernel(
        nodes=found.nodes,
        scales=owned,
        affine={},
        pairs=frozenset(),
        parametrisation=parametrisation,
        input_shape=(net.widths[0],),
        relative_variance=variance,
    )
