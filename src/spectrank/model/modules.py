"""Every tensor of a torch.nn.Module as an Entry, judged by the type of its layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from spectrank.model.around import Around
from spectrank.model.families import Config
from spectrank.model.infer import (
    factor_reason,
    packed_attention_reason,
    recurrent_reason,
)
from spectrank.model.operators import geometry
from spectrank.model.parametrized import computed_weights, parametrized_prefixes
from spectrank.model.weights import (
    Entry,
    Verdict,
    known_shape,
    storage_key,
    tensor_refusal,
)

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def module_entries(model: nn.Module) -> Iterator[Entry]:
    """Every parameter, buffer and computed weight of a model, in module order.

    A module registered under two names gives its tensors twice, tied.

    Args:
        model: Any module; neither run nor changed.

    Yields:
        One Entry per name.
    """
    factor_of: dict[str, str] = {}
    around = Around()
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for local, name in parametrized_prefixes(module).items():
            factor_of[prefix + local] = prefix + name
        weight = next(
            (w for start, w in factor_of.items() if prefix.startswith(start)), None
        )
        around.enter(prefix, module)
        for entry in _own_entries(module, prefix, weight, around.config(prefix)):
            yield replace(entry, scale=around.scale(entry.name))


def _own_entries(
    module: nn.Module, prefix: str, weight: str | None, config: Config | None
) -> Iterator[Entry]:
    layer_type = parametrize.type_before_parametrizations(module).__name__
    computed = computed_weights(module)
    factors = {factor: item.tensor_name for item in computed for factor in item.factors}
    for item in computed:
        verdict = _by_type(module, item.tensor_name, prefix + item.tensor_name, None)
        yield Entry(
            name=prefix + item.tensor_name,
            shape=None,
            dtype=None,
            load=item.load,
            tie=("computed", id(module), item.tensor_name),
            layer_type=layer_type,
            view=verdict.view,
            whole=verdict.whole,
            reason=verdict.reason,
            known=geometry(module),
            config=config,
            role="computed",
        )
    for local, parameter in module._parameters.items():
        if parameter is None:
            continue
        made = prefix + factors[local] if local in factors else weight
        if made is not None:
            verdict = Verdict(reason=factor_reason(made))
        else:
            verdict = _by_type(module, local, prefix + local, parameter)
        entry = _entry(prefix + local, parameter, layer_type, verdict)
        yield replace(entry, known=geometry(module), config=config)
    for local, buffer in module._buffers.items():
        if buffer is not None:
            yield _buffer_entry(prefix + local, buffer, layer_type)


def _entry(name: str, tensor: Tensor, layer_type: str, verdict: Verdict) -> Entry:
    return Entry(
        name=name,
        shape=known_shape(tensor),
        dtype=tensor.dtype,
        load=partial(_itself, tensor),
        tie=storage_key(tensor),
        layer_type=layer_type,
        view=verdict.view,
        whole=verdict.whole,
        reason=verdict.reason,
        refusal=tensor_refusal(tensor),
    )


def _buffer_entry(name: str, buffer: Tensor, layer_type: str) -> Entry:
    integer = not (buffer.dtype.is_floating_point or buffer.dtype.is_complex)
    return Entry(
        name=name,
        shape=known_shape(buffer),
        dtype=buffer.dtype,
        load=partial(_itself, buffer),
        tie=storage_key(buffer),
        layer_type=layer_type,
        reason="buffer, not a parameter",
        refusal="integer buffer" if integer else tensor_refusal(buffer),
        role="buffer",
    )


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _fixed(view: str) -> Callable[[nn.Module, str], Verdict]:
    return lambda module, name: Verdict(view=view)


def _skipped(reason: str) -> Callable[[nn.Module, str], Verdict]:
    return lambda module, name: Verdict(reason=reason.replace("NAME", repr(name)))


def _recurrent(module: nn.Module, name: str) -> Verdict:
    layout = next(
        (x for kinds, x in _GATED if isinstance(module, kinds)),
        None,
    )
    whole = Verdict(reason=recurrent_reason(name, gates=layout is not None))
    # A plain RNN has one gate: its weights are plain matrices.
    return Verdict(view=layout or "linear", whole=whole)


_GATED: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.LSTM, nn.LSTMCell), "lstm"),
    ((nn.GRU, nn.GRUCell), "gru"),
)


def _packed_attention(module: nn.Module, name: str) -> Verdict:
    return Verdict(view="qkv", whole=Verdict(reason=packed_attention_reason(name)))


def _transposed(module: nn.Module, name: str) -> Verdict:
    reason = (
        "transposed convolution, one tensor of in x (out / groups * size); "
        f"pass views={{{name!r}: 'conv-unfolded'}} to measure it"
    )
    return Verdict(
        view="conv-transposed-unfolded"
        if module.groups == 1
        else f"conv-transposed-grouped:groups={module.groups}",
        whole=Verdict(reason=reason),
    )


def _kernel(module: nn.Module, name: str) -> Verdict:
    whole = Verdict(view="conv-unfolded")
    if module.groups == 1:
        return whole
    kind = "depthwise" if module.groups == module.in_channels else "grouped"
    return Verdict(view=f"conv-{kind}:groups={module.groups}", whole=whole)


# (types, local names, number of dimensions of the weight or None for any, verdict).
# A weight with another number of dimensions, such as the packed weight of a quantised
# Linear, is judged by name and shape instead.
_RULES: tuple[
    tuple[
        tuple[type[nn.Module], ...],
        tuple[str, ...],
        int | None,
        Callable[[nn.Module, str], Verdict],
    ],
    ...,
] = (
    ((nn.Linear,), ("weight",), 2, _fixed("linear")),
    ((nn.Embedding, nn.EmbeddingBag), ("weight",), 2, _fixed("embedding")),
    (
        (_ConvTransposeNd,),
        ("weight",),
        None,
        _transposed,
    ),
    ((nn.Conv1d,), ("weight",), 3, _kernel),
    ((nn.Conv2d,), ("weight",), 4, _kernel),
    ((nn.Conv3d,), ("weight",), 5, _kernel),
    (
        _NORMS,
        ("weight", "bias"),
        None,
        _skipped("scale or shift of a normalisation, not a matrix"),
    ),
    (
        (nn.MultiheadAttention,),
        ("q_proj_weight", "k_proj_weight", "v_proj_weight"),
        2,
        _fixed("linear"),
    ),
    ((nn.MultiheadAttention,), ("in_proj_weight",), 2, _packed_attention),
    (
        (nn.MultiheadAttention,),
        ("bias_k", "bias_v"),
        None,
        _skipped("bias or scale vector, not a matrix"),
    ),
)


def _by_type(
    module: nn.Module, local: str, name: str, tensor: Tensor | None
) -> Verdict:
    """What the type of the layer says of one of its tensors; empty if nothing.

    Args:
        module: The layer.
        local: Name of the tensor in the layer.
        name: Full name, for the reason.
        tensor: The tensor; None where it is not computed yet.

    Returns:
        A view, a reason or neither.
    """
    ndim = None if tensor is None else len(known_shape(tensor))
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        if local.startswith(("weight_ih", "weight_hh")):
            return _recurrent(module, name)
        # weight_hr projects the hidden state: one plain matrix.
        return Verdict(view="linear") if local.startswith("weight_hr") else Verdict()
    if _is_transposed_linear(module) and local == "weight" and ndim in {2, None}:
        return Verdict(view="linear-transposed")
    for types, names, dims, verdict in _RULES:
        fits = dims is None or ndim is None or ndim == dims
        if isinstance(module, types) and local in names and fits:
            return verdict(module, name)
    return Verdict()


def _is_transposed_linear(module: nn.Module) -> bool:
    # transformers' Conv1D without importing it; torch's own convolution is Conv1d.
    kind = parametrize.type_before_parametrizations(module).__name__
    return kind == "Conv1D" and hasattr(module, "nf")
