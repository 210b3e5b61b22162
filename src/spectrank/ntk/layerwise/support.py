"""Which parameters the layerwise contraction serves, and why it does not serve others.

Types of layers tell which rule might hold. Whether it does hold is seen by running the
model on a few samples: the gradient that a rule gives must be that of autograd, which
fails where a weight is also used without its layer, and must not reach other samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError
from spectrank.model.capture.objective import differentiate
from spectrank.model.capture.recorder import Call
from spectrank.ntk.layerwise.factors import gradient_factor, input_factor
from spectrank.ntk.layerwise.passes import run
from spectrank.ntk.layerwise.rules import CONV, EMBEDDING, Group, judge, make_groups

# A prime: positions that come first are rarely a multiple of it. The scalar is of the
# samples 1, 3 and 5, as first and last positions are what models read out.
_PROBE = 7
_WEIGHTED = (1, 3, 5)


@final
@dataclass(frozen=True)
class Support(Mapping[str, str | None]):
    """Parameter name to the rule that serves it, None where there is none.

    Attributes:
        rules: By name of ``model.named_parameters()``, in its order.
        reasons: Why there is none, by name.
        axes: By layer, the axis of the samples in what it gives: 0, or 1 where
            positions come first.
    """

    rules: Mapping[str, str | None]
    reasons: Mapping[str, str]
    axes: Mapping[str, int] = field(repr=False)

    def __getitem__(self, name: str) -> str | None:
        return self.rules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)


def supported(model: nn.Module, x: Tensor) -> Support:
    """Which parameters have a rule; runs the model once on 7 samples.

    Frozen parameters are judged like others. A rule is compared with autograd on a
    combination of logits of some of the samples; a use of a weight that has no
    gradient there (behind units that are dead on all of them) is not seen.
    Source (derived): test_support refuses every use that no rule sees.

    Args:
        model: Any module; it is left as it was.
        x: Inputs (n, ...), n >= 1.

    Returns:
        The rules, and the reasons where there is none.

    Raises:
        ShapeError: The outputs are not (batch, classes).
        ArgumentTypeError: The model returns no tensor.
        DomainError: The model uses reentrant checkpointing.
    """  # noqa: DOC502 - raised by the functions called
    rules, reasons = judge(model)
    groups = make_groups(model, [name for name, rule in rules.items() if rule])
    if not groups:
        return Support(rules, reasons, {})
    if x.shape[0] < 1:
        raise DomainError(
            "a kernel needs at least one sample, got 0; pass inputs (n, ...)"
        )
    probe = x[torch.arange(_PROBE, device=x.device) % x.shape[0]]
    by_layer, found = _probe(model, groups, probe)
    axes = {name: _axis(calls) for name, calls in by_layer.items()}
    for group in groups:
        for name, reason in _refusals(group, by_layer, axes, found).items():
            rules[name], reasons[name] = None, reason
    return Support(
        rules, reasons, {n: axis for n, axis in axes.items() if axis is not None}
    )


Probed = list[tuple[Call, Tensor | None]]


def _probe(
    model: nn.Module, groups: Sequence[Group], x: Tensor
) -> tuple[dict[str, Probed], dict[str, Tensor | None]]:
    """Calls and their derivatives, and the derivatives of parameters by autograd."""
    names = {name for group in groups for name in group.params}
    # Copies that require gradients stand in for parameters that may be frozen.
    copies = {
        name: p.detach().requires_grad_()
        for name, p in model.named_parameters()
        if name in names
    }
    layers = list(dict.fromkeys(n for group in groups for n in group.layers))
    with torch.inference_mode(mode=False), torch.enable_grad():
        outputs, calls = run(model, layers, x, parameters=copies)
        some = outputs[list(_WEIGHTED)]
        steps = torch.arange(1, some.numel() + 1, device=x.device)
        scalar = (some * torch.cos(steps).to(some.dtype).view_as(some)).sum()
        every = [call for name in layers for call in calls[name]]
        taps = [call for call in every if call.differentiable]
        (values,) = differentiate(
            [scalar], [*(call.tap for call in taps), *copies.values()]
        )
    by_call = {id(call): v for call, v in zip(taps, values, strict=False)}
    by_layer = {n: [(c, by_call.get(id(c))) for c in calls[n]] for n in layers}
    return by_layer, dict(zip(copies, values[len(taps) :], strict=True))


def _axis(calls: Probed) -> int | None:
    """Where the samples are in what a layer gives; None if nowhere."""
    scores = {axis: _score(calls, axis) for axis in (0, 1)}
    best = max(scores, key=lambda axis: scores[axis])
    return best if scores[best] >= 0 else None


def _score(calls: Probed, axis: int) -> int:
    """How many samples have the gradients that they should; -1 where others do."""
    others = [i for i in range(_PROBE) if i not in _WEIGHTED]
    seen = 0
    for call, gradient in calls:
        shape = call.arrange(call.tap).shape
        fits = len(shape) > axis + 1 and (
            shape[0] % _PROBE == 0 if axis == 0 else shape[1] == _PROBE
        )
        if call.packed is not None or call.inputs is None or not fits:
            return -1
        if gradient is None:
            continue
        arranged = call.arrange(gradient).transpose(0, axis)
        reached = arranged.reshape(_PROBE, -1).ne(0).any(1)
        if bool(reached[others].any()):
            return -1
        seen += int(reached.sum())
    return seen


def _refusals(
    group: Group,
    by_layer: Mapping[str, Probed],
    axes: Mapping[str, int | None],
    found: Mapping[str, Tensor | None],
) -> dict[str, str]:
    """Parameters of a group whose rule does not hold, and why."""
    pairs = [pair for name in group.layers for pair in by_layer[name]]
    reason = _reason_of_calls(group, pairs, axes)
    if reason is not None:
        return dict.fromkeys(group.params, reason)
    known = {name: axis for name, axis in axes.items() if axis is not None}
    refused = {}
    scale = max((float(g.norm()) for g in found.values() if g is not None), default=0.0)
    for name, ruled in _ruled(group, pairs, known).items():
        true = found[name]
        true = torch.zeros_like(ruled) if true is None else true.detach()
        error = torch.linalg.vector_norm(ruled - true)
        size = torch.linalg.vector_norm(true) + torch.linalg.vector_norm(ruled)
        # The root of the rounding unit: a use that is missed changes the first digit.
        # Where a later normalisation makes a gradient zero, both are rounding of the
        # others' (a bias before InstanceNorm).
        eps = torch.finfo(true.dtype).eps
        if not bool(error <= max(eps**0.5 * float(size), 10.0 * eps * scale)):
            refused[name] = (
                "its gradient is not that of the calls of its layer; it is used "
                "without it as well"
            )
    return refused


def _reason_of_calls(
    group: Group, pairs: Probed, axes: Mapping[str, int | None]
) -> str | None:
    """Why the calls of a group serve no rule; None where they do."""
    if not pairs:
        return "its layer is not called in the forward pass"
    if any(not call.differentiable for call, _ in pairs):
        return "its layer runs without gradients"
    if any(axes[name] is None for name in group.layers):
        return "what its layer gives is not one part per sample"
    if group.rule == CONV and any(axes[name] == 1 for name in group.layers):
        return "a convolution must have the samples first"
    return None


def _ruled(group: Group, pairs: Probed, axes: Mapping[str, int]) -> dict[str, Tensor]:
    """Gradients of the parameters of a group by its rule."""
    calls, gradients = [c for c, _ in pairs], [g for _, g in pairs]
    module: Any = calls[0].layer.module
    g = gradient_factor(group, calls, gradients, _PROBE, axes)
    h = input_factor(group, calls, _PROBE, axes)
    shapes = {
        name: tuple(getattr(module, local).shape)
        for local, name in (("weight", group.weight), ("bias", group.bias))
        if name is not None
    }
    if h is None:
        parts = g.sum((0, 1, 2)).tensor_split(len(shapes))
    elif group.rule == EMBEDDING:
        rows = g.new_zeros(module.num_embeddings, g.shape[-1])
        parts = (rows.index_add_(0, h.flatten(), g.flatten(0, 2)),)
    else:
        outer = torch.einsum("nrtq,nrtp->rqp", g, h).flatten(0, 1)
        parts = outer.tensor_split([outer.shape[1] - len(shapes) + 1], dim=1)
    return {
        name: part.reshape(shape)
        for part, (name, shape) in zip(parts, shapes.items(), strict=False)
    }
