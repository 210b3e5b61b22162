r"""Which hypotheses of the rank bound a layer and its training meet.

A norm that reads nothing but a layer's outputs takes their scale away: the loss L_0 is
constant along (W, b) -> (a W, a b), hence

    <W, grad_W L_0> + <b, grad_b L_0> = 0,

and with e = grad L_0 + lambda W, <W, e> + <b, grad_b L_0> = lambda ||W||^2: no point
with W other than 0 is stationary in W and b together. BatchNorm on batch statistics
takes shifts away too, so there grad_b L_0 = 0 and ||e|| >= lambda ||W|| for any bias.
Source (derived): tests/collapse/certificates/test_collapse_applicability.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from spectrank.collapse.certificates.caveats import Applicability, Caveat
from spectrank.collapse.statistics.decay import EffectiveDecay
from spectrank.errors import UnknownNameError
from spectrank.model.graph import Graph
from spectrank.model.graph.nodes import Node
from spectrank.model.parametrized import computed_weights

_ADAPTIVE = frozenset(
    ["Adam", "NAdam", "RAdam", "Adamax", "SparseAdam", "RMSprop", "Adagrad", "Adadelta"]
)


def applicability(
    model: nn.Module,
    layer: str,
    decay: EffectiveDecay,
    *,
    graph: Graph | None = None,
    tensor_name: str = "weight",
    num_positions: int = 1,
    batch_norm_frozen: bool = False,
) -> Applicability:
    """Check the hypotheses of the rank bound for one layer; the model is only read.

    Source (derived): tests/collapse/certificates/test_collapse_applicability.py.

    Args:
        model: In the mode in which its statistics were taken.
        layer: Name of the module.
        decay: How its weight decays, from `decay_of`.
        graph: Of the model, from `spectrank.model.graph`; without one, whether a norm
            follows the layer is not known.
        tensor_name: Local name of the weight in the module.
        num_positions: Rows that one sample gives (positions of a convolution, tokens).
        batch_norm_frozen: The model was trained with the running statistics of its
            BatchNorms, not with those of the batch.

    Returns:
        The decay and all caveats.

    Raises:
        UnknownNameError: The model has no such module.
    """
    try:
        module = model.get_submodule(layer)
    except AttributeError as error:
        raise UnknownNameError(
            f"layer must be the name of a module, got {layer!r}; "
            "model.named_modules() lists them"
        ) from error
    caveats = [
        *_decay(decay),
        *_weight(model, module, tensor_name),
        *_normalisation(model, layer, graph, batch_norm_frozen),
        *_mode(model, batch_norm_frozen),
        *_positions(module, num_positions),
    ]
    known = decay.kind != "unknown" and decay.coefficient >= 0.0
    return Applicability(decay.coefficient if known else 0.0, tuple(caveats))


def _decay(decay: EffectiveDecay) -> Iterator[Caveat]:
    if decay.kind == "unknown":
        why = decay.reason or "its optimizer is unknown"
        yield Caveat("decay", "blocks", f"the weight decay is not known: {why}")
    elif decay.kind == "none" or decay.coefficient == 0.0:
        reason = "no weight decay acts on the weight, so no bound follows"
        yield Caveat("decay", "blocks", reason)
    elif decay.kind == "decoupled":
        name = decay.algorithm or "an optimizer with decoupled decay"
        yield Caveat(
            "decay",
            "blocks",
            f"the decay of {name} is decoupled: where it rests, weight_decay * W "
            "balances its preconditioned step, not the gradient, whose sum of outer "
            "products the bound is about",
        )
    elif decay.algorithm in _ADAPTIVE:
        yield Caveat(
            "decay",
            "note",
            f"{decay.algorithm} with coupled decay: its rest points are those of the "
            "decayed loss, about which it keeps moving; e tells how far it is",
        )


def _weight(model: nn.Module, module: nn.Module, tensor_name: str) -> Iterator[Caveat]:
    if any(weight.tensor_name == tensor_name for weight in computed_weights(module)):
        yield Caveat(
            "parametrisation",
            "blocks",
            "the weight is computed from other parameters, and the decay acts on those",
        )
        return
    weight = getattr(module, tensor_name, None)
    if isinstance(weight, nn.Parameter):
        if not weight.requires_grad:
            reason = "the weight is frozen: nothing brings it to a stationary point"
            yield Caveat("frozen", "blocks", reason)
        users = [name for name, m in model.named_modules() if _holds(m, weight)]
        if len(users) > 1:
            reason = (
                f"the weight is shared by {', '.join(users)}: the statistics have to "
                "take in the rows of every use"
            )
            yield Caveat("sharing", "note", reason)


def _holds(module: nn.Module, weight: nn.Parameter) -> bool:
    return any(own is weight for own in module._parameters.values())


def _normalisation(
    model: nn.Module, layer: str, graph: Graph | None, frozen: bool
) -> Iterator[Caveat]:
    if graph is None or graph.stated is not None:
        norms = [type(m).__name__ for m in model.modules() if _is_norm(m)]
        if norms:
            yield Caveat(
                "normalisation",
                "note",
                f"the model has {norms[0]} and no traced graph was given, so whether "
                "one follows the layer is not known; if so, no stationary point exists",
            )
        return
    for node in graph.find(layer):
        if node.kind != "layer":
            continue
        for found in graph.norms_after(node):
            norm = graph[found.norm]
            yield _norm_caveat(node, norm, found.alone, frozen)


def _norm_caveat(layer: Node, norm: Node, alone: bool, frozen: bool) -> Caveat:
    name = f"{norm.op} {norm.name}".strip()
    if not alone:
        reason = (
            f"{name} reads the outputs together with others: the scale of the weight "
            "is not free, but is tied to theirs"
        )
        return Caveat("normalisation", "note", reason)
    batch = norm.op == "batch_norm"
    if batch and frozen:
        reason = f"{name} is a fixed scale and shift, as the model was trained"
        return Caveat("normalisation", "note", reason)
    with_bias = "bias" in layer.parameters and not batch
    what = "the weight and bias together" if with_bias else "the weight"
    reason = (
        f"{name} takes the scale of {what} away: the gradient cannot balance the "
        "decay, so no stationary point with a weight other than zero exists"
    )
    if batch and norm.attributes.get("training") is False:
        reason += (
            "; the statistics are of evaluation mode, whose gradient is not the one "
            "trained with (batch_norm_frozen=True if it is)"
        )
    return Caveat("normalisation", "blocks", reason)


def _mode(model: nn.Module, frozen: bool) -> Iterator[Caveat]:
    drops = any(_drops(module) for module in model.modules())
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    off = not model.training
    if drops:
        end = (
            "this gradient, without masks, is not the one trained with, and e is "
            "large for that reason alone"
            if off
            else "this gradient is of one draw of the masks, e of that draw"
        )
        yield Caveat("dropout", "weakens", f"the model has dropout: {end}")
    if norms and not frozen and any(not m.training for m in norms):
        reason = (
            "BatchNorm in evaluation mode: this gradient is not the one trained with, "
            "and e is large for that reason alone"
        )
        yield Caveat("batch_norm_mode", "weakens", reason)
    reason = (
        "the bound is about the rows that were measured: augmentation has to be as in "
        "training"
    )
    yield Caveat("data", "note", reason)


def _positions(module: nn.Module, num_positions: int) -> Iterator[Caveat]:
    if num_positions > 1 or isinstance(module, _ConvNd):
        count = f"{num_positions}" if num_positions > 1 else "several"
        yield Caveat(
            "positions",
            "note",
            f"a sample gives {count} rows: collapse of the classes makes the rank at "
            "most cells times positions, and rows of one cell vary with the position",
        )


def _drops(module: nn.Module) -> bool:
    # Attention and recurrent layers drop without a module; the latter between layers.
    if isinstance(module, nn.MultiheadAttention):
        return float(module.dropout) > 0.0
    if isinstance(module, nn.RNNBase):
        return float(module.dropout) > 0.0 and module.num_layers > 1
    return isinstance(module, _DropoutNd) and module.p > 0.0


def _is_norm(module: nn.Module) -> bool:
    kinds = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
    return isinstance(module, kinds) or type(module).__name__.endswith("Norm")
