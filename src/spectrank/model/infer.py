"""What a tensor is, judged by name, shape and dtype alone.

State dicts and files carry no layer types. The rules below are conventions of common
libraries, so every view found here is marked ``inferred`` and can be overridden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from spectrank.model.families import Config, stacked_experts
from spectrank.model.weights import Verdict

Shapes = Mapping[str, tuple[int, ...]]


_RECURRENT = re.compile(r"weight_(ih|hh)(_l\d+(_reverse)?)?$")
_FACTOR = re.compile(r"^(?P<weight>(.*\.)?weight\w*)_(?P<part>g|v|orig)$")
# A weight_v alone may be anybody's value projection; weight_norm leaves a pair.
_PARTNER = {"g": "v", "v": "g", "orig": "orig"}
_PARAMETRIZATION = re.compile(
    r"^(?P<owner>.*?)(^|\.)parametrizations\.(?P<tensor>[^.]+)\."
)
_SCALE = re.compile(r"(^|_)scales?(_inv)?$|(^|_)q?zeros$")
_PACKED = re.compile(r"(^|_)q(weight|zeros)$")
_EMBEDDING = re.compile(
    r"embed|(^|_)(wte|wpe|emb|pe|tokens?|positions?|positional|table)$"
    r"|^(shared|relative_attention_bias)$"
)
# 'embed_proj' and 'token_mixing' map features to features: named after an embedding,
# they are linear layers.
_NOT_EMBEDDING = re.compile(
    r"proj|linear|dense|mapping|norm|mlp|mix|conv|patch|(^|_)(fc|out|head)(_|\d|$)"
)
_GPT2 = re.compile(
    r"(^|\.)h\.\d+\.(.+\.)?(?P<layer>c_attn|q_attn|c_proj|c_fc)\.weight$"
)


def infer_view(
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype | None,
    shapes: Shapes,
    config: Config | None = None,
) -> Verdict:
    """View of a tensor of unknown type, or the reason to skip it.

    Args:
        name: Full parameter name.
        shape: Shape as stored.
        dtype: As stored; None where torch has no such dtype.
        shapes: Name to shape of every tensor of the source: neighbours tell
            transformers' Conv1D from torch's Linear under the same names, and say
            what a stack is made of.
        config: Configuration of the model; None where there is none.

    Returns:
        A view or layout, or a reason, never both; with the verdict on the tensor as
        one matrix where it is a stack.
    """
    reason = dtype_reason(name, dtype, len(shape)) or _skip_reason(name, shape, shapes)
    if reason is not None:
        return Verdict(reason=reason)
    stack = _stack(name, shape, shapes, config)
    if stack is not None:
        return stack
    last = _last_part(name)
    # (1, positions, features) is no kernel with one output.
    table = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    if table and _EMBEDDING.search(last) and not _NOT_EMBEDDING.search(last):
        return Verdict(view="embedding")
    if len(shape) >= 3:
        return Verdict(view="conv-unfolded")
    gpt2 = _GPT2.search(name)
    if gpt2 is not None and _stored_transposed(shape, gpt2, shapes):
        return Verdict(view="linear-transposed")
    return Verdict(view="linear")


def dtype_reason(name: str, dtype: torch.dtype | None, ndim: int) -> str | None:
    """Why values of this dtype are no weights to measure; None where they are.

    Args:
        name: Full parameter name.
        dtype: As stored; None where torch has no such dtype.
        ndim: Number of dimensions; small integers with two or more look quantised.

    Returns:
        The reason, or None for the floating-point dtypes.
    """
    if dtype is None:
        return "its dtype has no counterpart in torch"
    if dtype == torch.bool:
        return "boolean tensor, not a weight"
    if dtype.is_complex:
        return "complex tensor: only real weights are measured"
    if not dtype.is_floating_point:
        packed = _PACKED.search(name.rsplit(".", 1)[-1]) is not None
        if ndim >= 2 and (packed or dtype in {torch.int8, torch.uint8}):
            return (
                "integer tensor: quantised weights are not decoded; pass the "
                "state_dict() of a module, or save the model dequantised"
            )
        return "integer tensor, not a weight"
    # torch 2.6 has neither of the two names below.
    if dtype == getattr(torch, "float8_e8m0fnu", None):
        return "powers of two that scale other weights, not a matrix"
    if dtype == getattr(torch, "float4_e2m1fn_x2", None):
        return "packed 4-bit values: quantised weights are not decoded"
    return None


def recurrent_reason(name: str, *, gates: bool = True) -> str:
    """Reason to skip a recurrent weight, with the way to have it all the same.

    Args:
        name: Full parameter name.
        gates: The layer has several gates (LSTM, GRU) or may have them.

    Returns:
        The reason.
    """
    what = "recurrent gates stacked in one matrix" if gates else "recurrent weight"
    return f"{what}; pass views={{{name!r}: 'linear'}} to measure the stack"


def packed_attention_reason(name: str) -> str:
    """Reason to skip an in_proj_weight, with the way to have it all the same.

    Args:
        name: Full parameter name.

    Returns:
        The reason.
    """
    return (
        "query, key and value stacked in one matrix; "
        f"pass views={{{name!r}: 'linear'}} to measure the stack"
    )


def factor_reason(weight: str) -> str:
    """Reason to skip a tensor that only enters a parametrised weight.

    Args:
        weight: Full name of the weight.

    Returns:
        The reason.
    """
    return f"factor of the parametrised weight {weight}"


def _vector_reason(ndim: int) -> str:
    return "scalar" if ndim == 0 else "bias or scale vector, not a matrix"


def _skip_reason(name: str, shape: tuple[int, ...], shapes: Shapes) -> str | None:
    factor = _FACTOR.match(name)
    if (
        factor is not None
        and f"{factor['weight']}_{_PARTNER[factor['part']]}" in shapes
    ):
        return factor_reason(factor["weight"])
    parametrization = _PARAMETRIZATION.match(name)
    if parametrization is not None:
        owner, tensor = parametrization["owner"], parametrization["tensor"]
        return factor_reason(f"{owner}.{tensor}" if owner else tensor)
    if len(shape) < 2:
        return _vector_reason(len(shape))
    last = name.rsplit(".", 1)[-1]
    # torch's attention can add one key and value of its own: bias_k and bias_v.
    if last.endswith("bias") or last in {"bias_k", "bias_v"}:
        return "bias or mask named as one, not a matrix"
    if last.endswith("mask"):
        return "mask, not a weight"
    if _SCALE.search(last):
        return "scales of a quantised weight, not a matrix"
    return _scaled_reason(name, shapes)


def _stack(
    name: str, shape: tuple[int, ...], shapes: Shapes, config: Config | None
) -> Verdict | None:
    """Verdict on what name and shape say to be several matrices; None for the rest."""
    last = name.rsplit(".", 1)[-1]
    if _RECURRENT.search(last) and len(shape) == 2:
        whole = Verdict(reason=recurrent_reason(name))
        layout = _gates(name, shapes)
        return whole if layout is None else Verdict(view=layout, whole=whole)
    if last == "in_proj_weight":
        whole = Verdict(reason=packed_attention_reason(name))
        # torch keeps three matrices apart where keys have another width.
        square = len(shape) == 2 and shape[0] == 3 * shape[1]
        return Verdict(view="qkv", whole=whole) if square else whole
    layout = stacked_experts(name, shape, shapes, config)
    if layout is not None:
        reason = "weights of several experts stacked in one tensor, not one matrix"
        return Verdict(view=layout, whole=Verdict(reason=reason))
    return None


def _gates(name: str, shapes: Shapes) -> str | None:
    """Layout of a recurrent weight, from the hidden size that its partner shows."""
    inputs = shapes.get(name.replace("weight_hh", "weight_ih"))
    hidden = shapes.get(name.replace("weight_ih", "weight_hh"))
    if inputs is None or hidden is None or len(inputs) != 2 or len(hidden) != 2:
        return None
    stem = name.replace("weight_ih", "weight_hr").replace("weight_hh", "weight_hr")
    projection = shapes.get(stem)
    size = hidden[1] if projection is None else projection[-1]
    if inputs[0] != hidden[0] or size == 0 or hidden[0] % size:
        return None
    return {4: "lstm", 3: "gru", 1: "linear"}.get(hidden[0] // size)


def _scaled_reason(name: str, shapes: Shapes) -> str | None:
    # Codes with one scale per block or row: without the scales the singular values
    # are those of another matrix. A single scale changes no rank and is let through.
    for scale in (f"{name}_scale_inv", f"{name}_scale"):
        if scale in shapes and any(side > 1 for side in shapes[scale]):
            return f"codes to be multiplied by {scale}: not decoded"
    return None


def _last_part(name: str) -> str:
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 and parts[-1] == "weight" else parts[-1]


def _stored_transposed(
    shape: tuple[int, ...], match: re.Match[str], shapes: Shapes
) -> bool:
    # GPT-2 stores (in, out); nanoGPT, Qwen and StarCoder use the same names on
    # torch.nn.Linear, stored (out, in). c_attn and c_fc widen, the c_proj of an MLP
    # narrows, so the shape tells; a square weight follows its block.
    rows, columns = shape
    if rows != columns:
        narrows = match["layer"] == "c_proj"
        return (rows > columns) == narrows
    stem = match.string[: match.start()]
    for other, sides in shapes.items():
        sibling = _GPT2.search(other) if other.startswith(stem) else None
        if sibling is not None and len(sides) == 2 and sides[0] != sides[1]:
            return (sides[0] > sides[1]) == (sibling["layer"] == "c_proj")
    return True
