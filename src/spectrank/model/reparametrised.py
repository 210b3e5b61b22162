r"""Weights that a checkpoint holds as the factors of torch's reparametrisations.

    weight_norm    v g / ||v||, the norm over the axes along which g has one entry
    spectral_norm  W / (u^T W v) with the stored u and v, as in evaluation mode
    pruning        W * mask

both as hooks name them (``weight_g``, ``weight_v``, ``weight_orig``, ``weight_u``,
``weight_mask``) and as ``torch.nn.utils.parametrize`` does
(``parametrizations.weight.original0``, ...). The factors stay skips; the weight itself
gets the name that the module has for it. What the names leave open stays a skip: the
map of ``orthogonal``, and the axis of a spectral norm where two have the length of u.
Source (derived): against torch's own modules, tests/model/test_model_reparametrised.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from spectrank.model.weights import Entry

_HOOK = re.compile(r"^(?P<weight>(.*\.)?weight\w*?)_(?P<part>v|orig)$")
_LIST = re.compile(
    r"^(?P<head>(.*\.)?parametrizations\.(?P<tensor>[^.]+)\.)original1?$"
)
ByName = Mapping[str, Entry]
Load = Callable[[], Tensor]


def reparametrised(entries: Iterable[Entry]) -> list[Entry]:
    """Entries with every weight that their factors prove, behind the last factor.

    Args:
        entries: Of a source without layer types.

    Returns:
        The entries in order.
    """
    listed = list(entries)
    by_name = {entry.name: entry for entry in listed}
    places = {entry.name: place for place, entry in enumerate(listed)}
    # Other tensors of a list of parametrisations: there is more to it than is known.
    prefixes: dict[str, int] = {}
    for name in by_name:
        head, found, rest = name.rpartition("parametrizations.")
        if found:
            start = f"{head}{found}{rest.partition('.')[0]}."
            prefixes[start] = prefixes.get(start, 0) + 1
    behind: dict[str, Entry] = {}
    for entry in listed:
        made = _made(entry, by_name, prefixes)
        if made is not None:
            weight, factors = made
            behind[max(factors, key=places.__getitem__)] = weight
    result = []
    for entry in listed:
        result.append(entry)
        if entry.name in behind:
            result.append(behind[entry.name])
    return result


def _made(
    entry: Entry, by_name: ByName, prefixes: Mapping[str, int]
) -> tuple[Entry, tuple[str, ...]] | None:
    """The weight that an entry is the main factor of, with the names of all."""
    found = _by_hook(entry, by_name) or _by_list(entry, by_name, prefixes)
    if found is None or not _is_factor(entry) or found[0] in by_name:
        return None
    name, load, factors = found
    weight = Entry(
        name=name, shape=entry.shape, dtype=entry.dtype, load=load, role="computed"
    )
    return weight, (entry.name, *factors)


_Found = tuple[str, Load, tuple[str, ...]]


def _by_hook(entry: Entry, by_name: ByName) -> _Found | None:
    match = _HOOK.match(entry.name)
    if match is None:
        return None
    name = match["weight"]
    if match["part"] == "v":
        g = by_name.get(f"{name}_g")
        load = _normed(entry, g)
        return None if load is None or g is None else (name, load, (g.name,))
    mask = by_name.get(f"{name}_mask")
    if mask is not None:
        fits = mask.shape == entry.shape and mask.refusal is None
        load = partial(_masked, entry.load, mask.load)
        return (name, load, (mask.name,)) if fits else None
    return _spectral(name, entry, by_name.get(f"{name}_u"), by_name.get(f"{name}_v"))


def _by_list(
    entry: Entry, by_name: ByName, prefixes: Mapping[str, int]
) -> _Found | None:
    match = _LIST.match(entry.name)
    if match is None:
        return None
    head, tensor = match["head"], match["tensor"]
    name = f"{head.removesuffix(f'parametrizations.{tensor}.')}{tensor}"
    if entry.name.endswith("original1"):
        g = by_name.get(f"{head}original0")
        load = _normed(entry, g)
        alone = prefixes.get(head) == 2
        return (name, load, (g.name,)) if load and g and alone else None
    u, v = by_name.get(f"{head}0._u"), by_name.get(f"{head}0._v")
    return _spectral(name, entry, u, v) if prefixes.get(head) == 3 else None


def _is_factor(entry: Entry) -> bool:
    floating = entry.dtype is not None and entry.dtype.is_floating_point
    return floating and entry.refusal is None and entry.role == "weight"


def _normed(v: Entry, g: Entry | None) -> Load | None:
    """Loader of v g / ||v||; None where the shapes are not those of weight_norm."""
    if g is None or g.refusal is not None or not v.shape or g.shape is None:
        return None
    if g.shape == ():
        return partial(_weight_norm, v.load, g.load)
    if len(g.shape) != len(v.shape):
        return None
    kept = [axis for axis, side in enumerate(g.shape) if side != 1]
    fits = len(kept) <= 1 and all(g.shape[a] == v.shape[a] for a in kept)
    return partial(_weight_norm, v.load, g.load) if fits else None


def _weight_norm(v: Load, g: Load) -> Tensor:
    direction, length = v().detach(), g().detach()
    wide = direction.to(torch.float64)
    over = [a for a in range(wide.ndim) if length.ndim == 0 or length.shape[a] == 1]
    # Divide first: squares of small entries underflow.
    scaled = wide / _largest(wide)
    norm = torch.linalg.vector_norm(scaled, dim=over, keepdim=True)
    value: Tensor = scaled * (length.to(torch.float64) / norm)
    return value.to(direction.dtype)


def _largest(values: Tensor) -> Tensor:
    largest = values.abs().amax() if values.numel() else values.new_zeros(())
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def _masked(weight: Load, mask: Load) -> Tensor:
    values = weight().detach()
    return values * mask().detach().to(values.dtype)


def _spectral(name: str, W: Entry, u: Entry | None, v: Entry | None) -> _Found | None:
    if u is None or v is None or not W.shape or len(W.shape) < 2:
        return None
    if u.refusal is not None or v.refusal is not None:
        return None
    axis = _axis(W.shape, u.shape, v.shape)
    if axis is None:
        return None
    load = partial(_spectral_norm, W.load, u.load, v.load, axis)
    return name, load, (u.name, v.name)


def _axis(
    W: tuple[int, ...], u: tuple[int, ...] | None, v: tuple[int, ...] | None
) -> int | None:
    """The axis of the rows: the second for transposed convolutions, else the first."""
    others = (math.prod(W[1:]), W[0] * math.prod(W[2:]))
    fits = [axis for axis in (0, 1) if u == (W[axis],) and v == (others[axis],)]
    # A matrix is that of a linear layer, or an embedding: rows first.
    if len(W) == 2:
        return 0 if 0 in fits else None
    return fits[0] if len(fits) == 1 else None


def _spectral_norm(W: Load, u: Load, v: Load, axis: int) -> Tensor:
    weight = W().detach()
    wide = weight.to(torch.float64)
    rows = wide.movedim(axis, 0).flatten(1)
    sigma = u().detach().to(torch.float64) @ rows @ v().detach().to(torch.float64)
    return (wide / sigma).to(weight.dtype)
