"""Which matrix of one source answers which of another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from spectrank.errors import DomainError
from spectrank.model import Skip, WeightMatrix

# The view of a product that is added to the weight of the same layer, and its name.
_ADAPTER = "lora-product"
_LORA = re.compile(r"\.lora(\.[^.]+)?(\.weight)?$")
# DoRA (Liu et al. 2024) has it beside the factors: W' = m (W + s B A) / ||W + s B A||.
_MAGNITUDE = ".lora_magnitude_vector"
_RESCALED = (
    "a DoRA adapter also sets the length of each row, its factors are not all that is "
    "added; merge it (merge_and_unload of peft) and compare the result"
)

Weights = Sequence[WeightMatrix | Skip]

# What wrappers put before every name: data parallel, compile, trainers, adapters.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "base_model.model.", "transformer.")


@dataclass(frozen=True)
class Pair:
    """A matrix before and after.

    Attributes:
        before: In the first source.
        after: In the second source: the matrix, or the two factors whose product
            replaces it, outputs first.
        adds: It is the product of an adapter, which is added to the matrix.
    """

    before: WeightMatrix
    after: tuple[WeightMatrix, ...]
    adds: bool = False


@dataclass(frozen=True)
class Matching:
    """Pairs and what has no partner.

    Attributes:
        pairs: In the order of the first source.
        alone: A skip for each matrix of either source that has no partner.
        prefix: What was taken off the names of the second source, ``""`` for nothing;
            a leading ``+`` says that it was put before them.
    """

    pairs: tuple[Pair, ...]
    alone: tuple[Skip, ...]
    prefix: str


def match(
    before: Weights,
    after: Weights,
    rename: Mapping[str, str] | None = None,
    select: str | Sequence[str] | None = None,
) -> Matching:
    """Match the matrices of two sources by name and view.

    A name of the second source is first looked up in ``rename``; where no name at all
    is in both, the prefix of a wrapper (``module.``, ``_orig_mod.``, ...) is taken off
    or put before. A matrix without a partner whose layer became two layers in a row
    (``fc.weight`` to ``fc.0.weight`` and ``fc.1.weight``) is paired with the product;
    one to which the second source has a LoRA pair, with the sum.

    Args:
        before: Matrices and skips of the first source.
        after: Matrices and skips of the second source.
        rename: Name or prefix in the second source -> the same in the first.
        select: Glob pattern(s) by which ``before`` was chosen: others of ``after``
            were not asked for.

    Returns:
        The matching.

    Raises:
        DomainError: If an entry of ``rename`` applies to no name, or nothing
            matches.
    """
    old = {(w.name, w.view): w for w in before if isinstance(w, WeightMatrix)}
    new = [w for w in after if isinstance(w, WeightMatrix)]
    names = _renamed([_adapted(w) for w in new], rename or {})
    known = {name for name, _ in old}
    # Quantisers append to the name of the weight.
    names = [
        name.removesuffix(".qweight")
        if name.removesuffix(".qweight") in known
        else name
        for name in names
    ]
    prefix = "" if known & set(names) else _wrapper(known, names)
    by_key = {
        (_moved(name, prefix), w.view): w for name, w in zip(names, new, strict=True)
    }
    rescaled = {
        (f"{_moved(w.name.partition(_MAGNITUDE)[0], prefix)}.weight", _ADAPTER)
        for w in after
        if _MAGNITUDE in w.name
    }
    pairs, used = [], set[tuple[str, str]]()
    alone = []
    for key, weight in old.items():
        found = _partner(key, weight, by_key)
        if not isinstance(found, str) and rescaled & set(found):
            used |= set(found)
            found = _RESCALED
        if isinstance(found, str):
            alone.append(_alone(weight, found))
            continue
        used |= set(found)
        adds = found[0][1] == _ADAPTER
        pairs.append(Pair(weight, tuple(by_key[k] for k in found), adds))
    skipped = {w.name: w.reason for w in before if isinstance(w, Skip)}
    for key, weight in by_key.items():
        if key not in used and key not in old and _asked(key[0], select):
            reason = skipped.get(key[0])
            where = "only in the second source"
            alone.append(
                _alone(weight, f"{where} (in the first: {reason})" if reason else where)
            )
    if not pairs:
        why = next((w.reason for w in (*before, *after) if isinstance(w, Skip)), None)
        if not old and why:
            raise DomainError(
                f"two sources must share matrices, the first has none: {why}"
            )
        raise DomainError(
            f"two sources must share matrices, {len(old)} and {len(new)} of them "
            f"have no name and shape in common, e.g. {_first(old)} and "
            f"{_first(by_key)}; pass rename={{PREFIX IN THE SECOND: PREFIX IN THE "
            "FIRST}"
        )
    return Matching(tuple(pairs), tuple(alone), prefix)


def _partner(
    key: tuple[str, str],
    weight: WeightMatrix,
    by_key: Mapping[tuple[str, str], WeightMatrix],
) -> list[tuple[str, str]] | str:
    """Keys of the partner, or why there is none."""
    other = by_key.get(key)
    if other is not None:
        if other.shape == weight.shape:
            return [key]
        return f"{weight.shape} in the first source, {other.shape} in the second"
    name, view = key
    adapter = by_key.get((name, _ADAPTER))
    if adapter is not None and adapter.shape == weight.shape:
        return [(name, _ADAPTER)]
    stem = name.removesuffix("weight")
    layer = re.compile(re.escape(stem) + r"[^.]+\.weight")
    factors = [k for k in by_key if k[1] == view and layer.fullmatch(k[0])]
    if name.endswith("weight") and len(factors) == 2:
        inner, outer = factors
        (rank, n), (m, inside) = by_key[inner].shape, by_key[outer].shape
        if rank == inside and (m, n) == weight.shape:
            return [outer, inner]
    return "only in the first source"


def _adapted(weight: WeightMatrix) -> str:
    """Name of the weight that a matrix is, or is added to."""
    if weight.view != _ADAPTER:
        return weight.name
    return _LORA.sub(".weight", weight.name)


def _asked(name: str, select: str | Sequence[str] | None) -> bool:
    patterns = [select] if isinstance(select, str) else select
    return patterns is None or any(fnmatchcase(name, glob) for glob in patterns)


def _renamed(names: Sequence[str], rename: Mapping[str, str]) -> list[str]:
    unused = set(rename)
    found = []
    for name in names:
        start = next((old for old in rename if name.startswith(old)), None)
        if start is not None:
            unused.discard(start)
            name = rename[start] + name[len(start) :]
        found.append(name)
    if unused:
        raise DomainError(
            "each entry of rename starts a name of the second source, "
            f"{sorted(unused)[0]!r} starts none; its first name is "
            f"{next(iter(names), None)!r}"
        )
    return found


def _wrapper(known: set[str], names: Sequence[str]) -> str:
    candidates = [*_WRAPPERS, *(f"+{prefix}" for prefix in _WRAPPERS)]
    shared = {
        prefix: len(known & {_moved(name, prefix) for name in names})
        for prefix in candidates
    }
    best = max(candidates, key=lambda prefix: shared[prefix])
    return best if shared[best] else ""


def _moved(name: str, prefix: str) -> str:
    if prefix.startswith("+"):
        return prefix[1:] + name
    return name.removeprefix(prefix)


def _alone(weight: WeightMatrix, reason: str) -> Skip:
    return Skip(weight.name, reason, weight.shape, weight.dtype, weight.layer_type)


def _first(keys: Mapping[tuple[str, str], WeightMatrix]) -> str:
    return next((f"{name!r} {w.shape}" for (name, _), w in keys.items()), "none")
