"""Which tensors hold several matrices under the names that libraries give them.

What name and shape prove is split; where heads have to be known, the configuration of
the model (``config.json`` beside a file, ``model.config`` of a module) tells. Read off
the forward passes of transformers 5.23; tests/model/test_model_families.py checks each
against the layer itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from spectrank.model.weights import Verdict

Config = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

# Fused query, key and value under a name that does not tell the order of the rows.
_FUSED = re.compile(
    r"(^|\.)(query_key_value|qkv_proj|Wqkv|wqkv|W_pack|c_attn|in_proj)\.weight$"
)
_QKV = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\.qkv\.weight$")
_GATE_UP = re.compile(r"(^|\.)(gate_up_proj|gate_up_projs)(\.weight)?$")
_GATE_UP_EXPERTS = re.compile(r"(gate_up_proj|input_linear)(\.weight)?$")
# Shapes that tell nothing.
_ALONE = (0, 0, 1)
_EXPERT = re.compile(r"expert|(^|[._])moe([._]|$)")
_C_ATTN = re.compile(r"(^|\.)c_attn\.weight$")

# By model_type of the configuration: rows per head q, k, v; all q, then k, then v.
_INTERLEAVED = frozenset(
    [
        "bloom",
        "deberta",
        "fuyu",
        "gpt_neox",
        "gpt_neox_japanese",
        "minimax",
        "persimmon",
    ]
)
_GROUPED = frozenset(["dbrx", "phi3", "phi4_multimodal", "phimoe"])
_STACKED = frozenset(
    ["decision_transformer", "gpt2", "imagegpt", "modernbert", "mpt", "qwen"]
)
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "kv_n_heads",
    "n_head_kv",
    "multi_query_group_num",
)
_UNKNOWN_ORDER = (
    "query, key and value stacked in an order that the name does not tell; "
    "pass views={NAME: 'qkv'} or 'qkv-interleaved:heads=H' to cut them apart"
)


def fused_layout(
    name: str,
    shape: tuple[int, ...],
    view: str,
    shapes: Shapes,
    config: Config | None,
) -> Verdict:
    """How a tensor known by name and shape is cut into several matrices.

    Args:
        name: Full parameter name.
        shape: As stored.
        view: ``linear`` or ``linear-transposed``: how it is stored.
        shapes: Name to shape of every tensor of the source.
        config: Configuration of the model; None where there is none.

    Returns:
        The layout as ``view``; a ``reason`` where the tensor looks stacked in an
        unknown order; neither where it is one matrix.
    """
    if len(shape) != 2 or view not in {"linear", "linear-transposed"}:
        return Verdict()
    swap = "-transposed" if view == "linear-transposed" else ""
    rows, columns = shape[::-1] if swap else shape
    if _GATE_UP.search(name) and rows % 2 == 0:
        return Verdict(view=f"gate-up{swap}")
    if _QKV.search(name):
        return _by_neighbours(name, rows, columns, swap, shapes)
    if not _FUSED.search(name):
        return Verdict()
    for own in _configs(config):
        layout = _by_config(own, rows, columns)
        if layout is not None:
            head, colon, options = layout.partition(":")
            return Verdict(view=f"{head}{swap}{colon}{options}")
    return _by_shape(name, rows, columns, swap, shapes, config)


def _by_neighbours(
    name: str, rows: int, columns: int, swap: str, shapes: Shapes
) -> Verdict:
    """What ``attn.qkv`` of a vision model is, by the tensors of the same layer."""
    stem = name.removesuffix("qkv.weight")
    biases = shapes.get(f"{stem}attention_biases", ())
    if len(biases) == 2 and biases[0] and rows % (3 * biases[0]) == 0:
        # TinyViT: per head q, k, v; one row of biases a head.
        return Verdict(view=f"qkv-interleaved{swap}:heads={biases[0]}")
    # MaxViT and CoAtNet keep the rows per head, ViT with relative positions does not.
    relative = any(other.startswith(f"{stem}rel_pos.") for other in shapes)
    # The output layer takes as many inputs as there are values; fewer keys than
    # queries would not fill a third of the rows.
    output = shapes.get(f"{stem}proj.weight", ())
    values = (output[0] if swap else output[1]) if len(output) == 2 else columns
    if relative or rows != 3 * values:
        return _unknown(name) if rows > columns else Verdict()
    return Verdict(view=f"qkv{swap}")


def _unknown(name: str) -> Verdict:
    return Verdict(reason=_UNKNOWN_ORDER.replace("NAME", repr(name)))


def _by_shape(
    name: str,
    rows: int,
    columns: int,
    swap: str,
    shapes: Shapes,
    config: Config | None,
) -> Verdict:
    """What name and shape prove without a configuration."""
    c_attn = _C_ATTN.search(name) is not None
    # Stored (outputs, inputs) it may be nanoGPT's, stacked, or GPT-BigCode's, per head.
    if c_attn and swap and rows == 3 * columns:
        return Verdict(view=f"qkv{swap}")
    # GPT-2's cross attention: its query has a layer of its own.
    if c_attn and rows == 2 * columns:
        beside = _C_ATTN.sub(r"\1q_attn.weight", name)
        return Verdict(view=f"kv{swap}") if beside in shapes else Verdict()
    # 'in_proj' names other things too, such as the halves of a Mamba block.
    if name.endswith("in_proj.weight") or rows <= columns:
        return Verdict()
    return _unknown(name)


def _configs(config: Config | None) -> Iterator[Config]:
    """A configuration and those of its parts, such as ``text_config``."""
    if config is None:
        return
    yield config
    for key, value in config.items():
        if key.endswith("config") and isinstance(value, Mapping):
            yield value


def _by_config(config: Config, rows: int, columns: int) -> str | None:
    kind = config.get("model_type")
    heads = _number(config, _HEADS)
    if not isinstance(kind, str) or heads is None or rows < heads:
        return None
    kv_heads = _number(config, _KV_HEADS)
    inner = config.get("attn_config")
    if kv_heads is None and isinstance(inner, Mapping):
        kv_heads = _number(inner, _KV_HEADS)
    kind = kind.lower()
    if kind in _INTERLEAVED:
        layout, kv_heads = f"qkv-interleaved:heads={heads}", heads
    elif kind in _STACKED:
        layout, kv_heads = "qkv", heads
    elif kind == "chatglm" and not config.get("multi_query_attention"):
        # The first ChatGLM, and the second without shared keys: per head.
        layout, kv_heads = f"qkv-interleaved:heads={heads}", heads
    elif kind in _GROUPED or kind == "chatglm":
        kv_heads = kv_heads or heads
        layout = f"qkv-grouped:heads={heads}:kv_heads={kv_heads}"
    elif kind == "internlm2":
        kv_heads = kv_heads or heads
        layout = f"qkv-grouped-interleaved:heads={heads}:kv_heads={kv_heads}"
    elif kind in {"falcon", "refinedweb", "refinedwebmodel", "gpt_bigcode"}:
        layout, kv_heads = _multi_query(config, heads, kv_heads)
    else:
        return None
    return layout if _fits(config, rows, columns, heads, kv_heads) else None


def _multi_query(config: Config, heads: int, kv_heads: int | None) -> tuple[str, int]:
    if config.get("new_decoder_architecture"):
        kv_heads = kv_heads or heads
        form = "qkv-grouped-interleaved"
        return f"{form}:heads={heads}:kv_heads={kv_heads}", kv_heads
    if config.get("multi_query", True):
        return f"qkv-grouped:heads={heads}:kv_heads=1", 1
    return f"qkv-interleaved:heads={heads}", heads


def _fits(config: Config, rows: int, columns: int, heads: int, kv_heads: int) -> bool:
    """Whether the rows are those heads: a part of a model may have other numbers."""
    width = config.get("head_dim") or config.get("kv_channels")
    if not isinstance(width, int):
        width = columns // heads
    return rows == (heads + 2 * kv_heads) * width


def _number(config: Config, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def stacked_experts(
    name: str, shape: tuple[int, ...], shapes: Shapes, config: Config | None
) -> str | None:
    """Layout of the matrices of several experts in one tensor of three axes.

    Gate and up projection are told by their name, how they are stored by the down
    projection beside them. Of those with a bias gpt-oss alone takes them row by row,
    so without a configuration they stay together.

    Args:
        name: Full parameter name.
        shape: As stored.
        shapes: Name to shape of every tensor of the source.
        config: Configuration of the model; None where there is none.

    Returns:
        The layout; None where the name is none of an expert.
    """
    if len(shape) != 3 or not _EXPERT.search(name):
        return None
    up, down = _pair(name, shape, shapes)
    # (E, inputs, 2 I) beside (E, I, outputs), else (E, 2 I, inputs) beside (E, out, I).
    transposed = up[2] == 2 * down[1] and up[1] == down[2]
    plain = up[1] == 2 * down[2] and up[2] == down[1]
    swap = "-transposed" if transposed and not plain else ""
    kinds = [own.get("model_type") for own in _configs(config)]
    if transposed == plain or _GATE_UP_EXPERTS.search(name) is None:
        return f"experts{swap}"
    if f"{name}_bias" in shapes and not kinds:
        return f"experts{swap}"
    order = "-interleaved" if "gpt_oss" in kinds else ""
    return f"experts-gate-up{order}{swap}"


def _pair(
    name: str, shape: tuple[int, ...], shapes: Shapes
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the gate and up projection and of the down projection of experts."""
    for ours, theirs in (("gate_up_proj", "down_proj"), ("input_", "output_")):
        for own, other, first in ((ours, theirs, True), (theirs, ours, False)):
            head, found, tail = name.rpartition(own)
            beside = shapes.get(f"{head}{other}{tail}", ())
            if found and len(beside) == 3:
                return (shape, beside) if first else (beside, shape)
    return _ALONE, _ALONE
