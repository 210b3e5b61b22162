r"""Floats of four bits, E2M1, with a scale per group: MXFP4 and NVFP4.

.. math:: W_{ok} = s_{o, \lfloor k / b \rfloor} T[q_{ok}]

    gpt-oss        ``N_blocks`` (experts, out, groups, 16), ``N_scales``: groups of 32,
                   scales 2^(e - 127); unpacked (experts, in, out) as transformers does
    MXFP4          ``weight_packed`` (out, in / 2), ``weight_scale`` in bytes: the same
    NVFP4          ``weight_scale`` in fp8: groups of 16, scales s / weight_global_scale

of which the last two are compressed-tensors'. Two codes a byte, the first in the lower
half. bfloat16 holds the values of MXFP4 exactly up to 2^127.
Source (stated): OCP Microscaling Formats (MX) v1.0, sections 5.3.3 and 5.4.1. Source
(derived): transformers and compressed-tensors, tests/model/formats/test_packed.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.formats.bits import look_up
from spectrank.model.formats.packing import (
    EXPONENTS,
    ByName,
    Config,
    Found,
    Packing,
    Refused,
    powers_of_two,
    way_out,
)
from spectrank.model.slices import Slices
from spectrank.model.weights import Entry

Load = Callable[[], Tensor]
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_GROUP = 32
_NV_GROUP = 16
_GATE_UP, _DOWN = "gate_up_proj", "down_proj"


def experts_in_blocks(entry: Entry, by_name: ByName, config: Config) -> Found:
    """Stacked experts in MXFP4, as gpt-oss stores them.

    Args:
        entry: Any entry.
        by_name: All of the source.
        config: Not needed.

    Returns:
        The weight, a refusal, or None where this is something else.
    """
    if not entry.name.endswith("_blocks") or entry.dtype != torch.uint8:
        return None
    name = entry.name.removesuffix("_blocks")
    scales = by_name.get(f"{name}_scales")
    if scales is None:
        return None
    parts = (entry.name, scales.name)
    shape = entry.shape or ()
    if len(shape) != 4 or shape[3] != _GROUP // 2 or scales.shape != shape[:3]:
        return Refused(way_out("blocks that are no stack of experts"), parts)
    if scales.dtype not in EXPONENTS:
        return Refused(way_out("scales of another type"), parts)
    experts, outputs, groups, _ = shape
    stored = (entry.load, scales.load, name)
    # A layer of gpt-oss has 32 or 128 experts: decoded whole for each of them, it
    # would be decoded as many times.
    load = Slices(
        partial(_load_experts, *stored), partial(_load_expert, *stored), experts
    )
    note = f"decoded from MXFP4, groups of {_GROUP}"
    sides = (experts, groups * _GROUP, outputs)
    # Gate and up projection are told apart by what lies beside them, the side of the
    # outputs by the packing.
    both = _GATE_UP in name and name.replace(_GATE_UP, _DOWN) + "_blocks" in by_name
    view = None if both else "experts-transposed"
    return Packing(name, sides, torch.bfloat16, load, note, parts, view)


def _load_experts(codes: Load, scales: Load, name: str) -> Tensor:
    raw, powers = _read_stack(codes, scales, name)
    experts, outputs, groups, _ = raw.shape
    sides = (experts, outputs, groups * _GROUP)
    found = raw.new_empty(sides, dtype=torch.bfloat16)
    for expert in range(experts):
        # One at a time bounds what is held beside the result.
        found[expert] = _scaled(raw[expert].flatten(1), powers_of_two(powers[expert]))
    return found.mT


def _load_expert(codes: Load, scales: Load, name: str, expert: int) -> Tensor:
    raw, powers = _read_stack(codes, scales, name)
    values = _scaled(raw[expert].flatten(1), powers_of_two(powers[expert]))
    return values.to(torch.bfloat16).mT


def _read_stack(codes: Load, scales: Load, name: str) -> tuple[Tensor, Tensor]:
    raw, powers = codes().detach(), scales().detach()
    if raw.shape[:3] != powers.shape:
        raise CheckpointError(
            f"a weight must keep its shape while it is read, {name} did not; "
            "scan it again"
        )
    return raw, powers


def packed_floats(entry: Entry, by_name: ByName, config: Config) -> Found:
    """MXFP4 and NVFP4 of compressed-tensors.

    Args:
        entry: Any entry.
        by_name: All of the source.
        config: Not needed.

    Returns:
        The weight, a refusal, or None where this is something else.
    """
    if not entry.name.endswith("weight_packed") or entry.dtype != torch.uint8:
        return None
    name = entry.name.removesuffix("_packed")
    kinds = ("scale", "global_scale", "zero_point")
    scale, overall, zero = (by_name.get(f"{name}_{kind}") for kind in kinds)
    parts = tuple(e.name for e in (entry, scale, overall, zero) if e is not None)
    shape = entry.shape or ()
    if scale is None or zero is not None or len(shape) != 2 or 0 in shape:
        return Refused(way_out("no scales, or more than scales, beside them"), parts)
    outputs, inputs = shape[0], 2 * shape[1]
    groups = scale.shape or ()
    fine = scale.dtype == torch.float8_e4m3fn and overall is not None
    group = _NV_GROUP if fine else _GROUP
    known = fine or (scale.dtype in EXPONENTS and overall is None)
    if not known or groups != (outputs, inputs // group) or inputs % group:
        return Refused(way_out("scales of no known type or shape"), parts)
    if overall is not None and math.prod(overall.shape or ()) != 1:
        return Refused(way_out("more than one overall scale"), parts)
    load = partial(
        _load_floats, entry.load, scale.load, None if overall is None else overall.load
    )
    kind = "NVFP4" if fine else "MXFP4"
    dtype = torch.float32 if fine else torch.bfloat16
    note = f"decoded from {kind} of compressed-tensors, groups of {group}"
    return Packing(name, (outputs, inputs), dtype, load, note, parts)


def _load_floats(codes: Load, scales: Load, overall: Load | None) -> Tensor:
    raw, scale = codes().detach(), scales().detach()
    if overall is None:
        return _scaled(raw, powers_of_two(scale)).to(torch.bfloat16)
    whole = overall().detach().to(torch.float32).reshape(())
    return _scaled(raw, scale.to(torch.float32) / whole)


def _scaled(raw: Tensor, factors: Tensor) -> Tensor:
    """Codes (out, in / 2) times factors (out, groups), float32."""
    signed = torch.tensor([*_E2M1, *(-value for value in _E2M1)], device=raw.device)
    values = look_up(raw, signed, lower_first=True)
    values.view(*factors.shape, -1).mul_(factors[..., None])
    return values
