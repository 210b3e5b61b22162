"""From any source to its weight matrices, with a reason for everything else."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn

from spectrank.errors import DomainError, ShapeError
from spectrank.model.checkpoints import open_checkpoint
from spectrank.model.flatten import Named, flatten_checkpoint
from spectrank.model.infer import Shapes, dtype_reason, infer_view
from spectrank.model.layouts import check_convention, parts_of
from spectrank.model.modules import module_entries
from spectrank.model.weights import (
    Entry,
    Kind,
    Skip,
    SourceInfo,
    Verdict,
    WeightMatrix,
    known_shape,
    storage_key,
    tensor_refusal,
)

Source = nn.Module | Mapping[str, Tensor] | str | Path


def iter_weights(
    source: Source,
    *,
    select: str | Sequence[str] | None = None,
    views: Mapping[str, str] | None = None,
    split: bool = True,
) -> Iterator[WeightMatrix | Skip]:
    """Every tensor of a source, each as its matrices or as one skip.

    A tensor that holds several matrices (packed query, key and value; gates; experts)
    is yielded part by part: the same name with different views. Nothing
    is loaded here: headers are read and checked at once, values only by
    ``WeightMatrix.operand()``. A module is neither run nor changed. Of tied tensors
    the first selected name carries the matrix.

    Args:
        source: Module, state dict, weights file or folder.
        select: Glob pattern or patterns of names; the rest is not yielded.
        views: Glob pattern to view name; the first match overrides layer types and
            inference. A layout such as ``qkv-interleaved:heads=12`` cuts the tensor.
        split: Whether tensors are cut into their matrices and groups of a kernel are
            blocks; otherwise each is one matrix or one skip.

    Returns:
        Matrices and skips in the order of the source; a folder's unread files last.

    Raises:
        CheckpointError: A file or folder cannot be read as a checkpoint.
        UnknownNameError: ``views`` names a view that does not exist.
        DomainError: The source is of none of these types.
    """  # noqa: DOC502 - raised by the functions called
    overrides = dict(views or {})
    for view in overrides.values():
        check_convention(view)
    _, _, entries = _open(source)
    shapes = {e.name: e.shape for e in entries if e.shape is not None}
    chosen = [entry for entry in entries if _selected(entry.name, select)]
    return _decide_all(chosen, _ties(entries), _Rules(overrides, shapes, split))


def iter_matrices(
    source: Source,
    *,
    select: str | Sequence[str] | None = None,
    views: Mapping[str, str] | None = None,
    split: bool = True,
) -> Iterator[WeightMatrix]:
    """The matrices of ``iter_weights`` without the skips.

    Args:
        source: Module, state dict, weights file or folder.
        select: Glob pattern or patterns of names; the rest is not yielded.
        views: Glob pattern to view name, overrides layer types and inference.
        split: Whether tensors that hold several matrices are cut into them.

    Returns:
        Matrices in the order of the source.
    """
    weights = iter_weights(source, select=select, views=views, split=split)
    return (weight for weight in weights if isinstance(weight, WeightMatrix))


def describe(source: Source) -> SourceInfo:
    """What a source is and how large, without reading any values.

    Args:
        source: Module, state dict, weights file or folder.

    Returns:
        Kind, label, files and counts.
    """
    kind, files, entries = _open(source)
    label = str(source) if isinstance(source, str | Path) else type(source).__name__
    label = "state dict" if kind == "state_dict" else label
    elements: dict[Hashable, int] = {}
    for entry in entries:
        if entry.dtype is not None and entry.dtype.is_floating_point:
            key = entry.name if entry.tie is None else entry.tie
            size = math.prod(entry.shape or ()) if entry.role == "weight" else 0
            elements[key] = max(size, elements.get(key, 0))
    return SourceInfo(
        kind=kind,
        label=label,
        files=files,
        num_parameters=sum(elements.values()),
        num_tensors=sum(
            entry.role in {"weight", "buffer", "beside"} for entry in entries
        ),
    )


def weight_names(source: Source) -> tuple[str, ...]:
    """Every name that ``iter_weights`` would yield without ``select``.

    Args:
        source: Module, state dict, weights file or folder.

    Returns:
        Names in the order of the source.
    """
    return tuple(entry.name for entry in _open(source)[2])


def unmatched_patterns(
    names: Iterable[str], patterns: str | Sequence[str] | None
) -> tuple[str, ...]:
    """Patterns of ``select`` or ``views`` that match none of the names.

    Args:
        names: Such as ``weight_names`` gives.
        patterns: Glob pattern or patterns; None has none to miss.

    Returns:
        The patterns without a match, in their order.
    """
    known = list(names)
    return tuple(
        pattern
        for pattern in _patterns(patterns)
        if not any(fnmatchcase(name, pattern) for name in known)
    )


def _open(source: Source) -> tuple[Kind, tuple[Path, ...], list[Entry]]:
    if isinstance(source, nn.Module):
        return "module", (), list(module_entries(source))
    if isinstance(source, Mapping):
        return "state_dict", (), [_named(item) for item in flatten_checkpoint(source)]
    if isinstance(source, str | Path):
        checkpoint = open_checkpoint(source)
        return checkpoint.kind, checkpoint.files, list(checkpoint.entries)
    raise DomainError(
        "a source must be a torch.nn.Module, a state dict or a path, "
        f"got {type(source).__name__}; wrap a bare tensor as {{'name': tensor}}"
    )


def _named(item: Named) -> Entry:
    tensor = item.tensor
    return Entry(
        name=item.name,
        shape=known_shape(tensor),
        dtype=tensor.dtype,
        load=lambda: tensor,
        tie=storage_key(tensor),
        reason=item.reason,
        refusal=tensor_refusal(tensor),
        role="weight" if item.reason is None else "beside",
    )


def _patterns(patterns: str | Sequence[str] | None) -> tuple[str, ...]:
    if patterns is None:
        return ()
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _selected(name: str, select: str | Sequence[str] | None) -> bool:
    if select is None:
        return True
    return any(fnmatchcase(name, pattern) for pattern in _patterns(select))


def _ties(entries: Sequence[Entry]) -> dict[Hashable, tuple[str, ...]]:
    groups: dict[Hashable, list[str]] = {}
    for entry in entries:
        if entry.tie is not None:
            groups.setdefault(entry.tie, []).append(entry.name)
    return {key: tuple(names) for key, names in groups.items()}


@dataclass(frozen=True)
class _Rules:
    """What decides beside the entry itself."""

    overrides: Mapping[str, str]
    shapes: Shapes
    split: bool

    def override(self, name: str) -> str | None:
        matches = (v for glob, v in self.overrides.items() if fnmatchcase(name, glob))
        return next(matches, None)


def _decide_all(
    entries: Sequence[Entry],
    ties: Mapping[Hashable, tuple[str, ...]],
    rules: _Rules,
) -> Iterator[WeightMatrix | Skip]:
    first: dict[Hashable, str] = {}
    for entry in entries:
        names = () if entry.tie is None else ties.get(entry.tie, ())
        if names and first.setdefault(entry.tie, entry.name) != entry.name:
            yield _skip(entry, f"tied to {first[entry.tie]}")
            continue
        others = tuple(name for name in names if name != entry.name)
        yield from _decide(entry, others, rules)


def _decide(
    entry: Entry, tied_to: tuple[str, ...], rules: _Rules
) -> Sequence[WeightMatrix | Skip]:
    if entry.refusal is not None:
        return [_skip(entry, entry.refusal)]
    if entry.shape is None:
        try:
            value = entry.load()
        except Exception as error:
            reason = f"the parametrised weight cannot be computed: {error}"
            return [_skip(entry, reason)]
        entry = replace(entry, shape=tuple(value.shape), dtype=value.dtype)
    assert entry.shape is not None
    unfit = dtype_reason(entry.name, entry.dtype, len(entry.shape))
    if unfit is not None:
        return [_skip(entry, unfit)]
    override = rules.override(entry.name)
    if override is not None:
        return _matrices(entry, override, tied_to, inferred=False)
    verdict = Verdict(entry.view, entry.reason, entry.whole)
    inferred = verdict.view is None and verdict.reason is None
    if inferred:
        verdict = infer_view(entry.name, entry.shape, entry.dtype, rules.shapes)
    if not rules.split and verdict.whole is not None:
        verdict = verdict.whole
    if verdict.view is None:
        assert verdict.reason is not None
        return [_skip(entry, verdict.reason)]
    return _matrices(entry, verdict.view, tied_to, inferred)


def _matrices(
    entry: Entry, view: str, tied_to: tuple[str, ...], inferred: bool
) -> Sequence[WeightMatrix | Skip]:
    assert entry.shape is not None
    assert entry.dtype is not None
    try:
        parts = parts_of(view, entry.shape)
    except ShapeError as error:
        return [_skip(entry, str(error))]
    return [
        WeightMatrix(
            name=entry.name,
            view=part.view,
            shape=part.shape,
            dtype=entry.dtype,
            layer_type=entry.layer_type,
            tied_to=tied_to,
            inferred=inferred,
            load=entry.load,
            take=part.take,
            alone=len(parts) == 1,
            stored=part.stored,
        )
        for part in parts
    ]


def _skip(entry: Entry, reason: str) -> Skip:
    return Skip(
        name=entry.name,
        reason=reason,
        shape=entry.shape or (),
        dtype=entry.dtype,
        layer_type=entry.layer_type,
    )
