"""From any source to its weight matrices, with a reason for everything else."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn

from spectrank.errors import DomainError
from spectrank.model.checkpoints import open_checkpoint
from spectrank.model.flatten import Named, flatten_checkpoint
from spectrank.model.infer import Shapes, dtype_reason, infer_view
from spectrank.model.modules import module_entries
from spectrank.model.views import get_view
from spectrank.model.weights import (
    Entry,
    Kind,
    Skip,
    SourceInfo,
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
) -> Iterator[WeightMatrix | Skip]:
    """Every tensor of a source, each as exactly one matrix or one skip.

    Nothing is loaded here: headers are read and checked at once, values only by
    ``WeightMatrix.tensor()``. A module is neither run nor changed. Of tied tensors the
    first selected name carries the matrix.

    Args:
        source: Module, state dict, weights file or folder.
        select: Glob pattern or patterns of names; the rest is not yielded.
        views: Glob pattern to view name; the first match overrides layer types and
            inference.

    Returns:
        Matrices and skips in the order of the source; a folder's unread files last.

    Raises:
        CheckpointError: A file or folder cannot be read as a checkpoint.
        UnknownNameError: ``views`` names a view that does not exist.
        DomainError: The source is of none of these types.
    """  # noqa: DOC502 - raised by the functions called
    overrides = dict(views or {})
    for view in overrides.values():
        get_view(view)
    _, _, entries = _open(source)
    shapes = {e.name: e.shape for e in entries if e.shape is not None}
    chosen = [entry for entry in entries if _selected(entry.name, select)]
    return _decide_all(chosen, _ties(entries), overrides, shapes)


def iter_matrices(
    source: Source,
    *,
    select: str | Sequence[str] | None = None,
    views: Mapping[str, str] | None = None,
) -> Iterator[WeightMatrix]:
    """The matrices of ``iter_weights`` without the skips.

    Args:
        source: Module, state dict, weights file or folder.
        select: Glob pattern or patterns of names; the rest is not yielded.
        views: Glob pattern to view name, overrides layer types and inference.

    Returns:
        Matrices in the order of the source.
    """
    weights = iter_weights(source, select=select, views=views)
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


def _decide_all(
    entries: Sequence[Entry],
    ties: Mapping[Hashable, tuple[str, ...]],
    overrides: Mapping[str, str],
    shapes: Shapes,
) -> Iterator[WeightMatrix | Skip]:
    first: dict[Hashable, str] = {}
    for entry in entries:
        names = () if entry.tie is None else ties.get(entry.tie, ())
        if names and first.setdefault(entry.tie, entry.name) != entry.name:
            yield _skip(entry, f"tied to {first[entry.tie]}")
            continue
        others = tuple(name for name in names if name != entry.name)
        yield _decide(entry, others, overrides, shapes)


def _decide(
    entry: Entry,
    tied_to: tuple[str, ...],
    overrides: Mapping[str, str],
    shapes: Shapes,
) -> WeightMatrix | Skip:
    if entry.refusal is not None:
        return _skip(entry, entry.refusal)
    if entry.shape is None:
        try:
            value = entry.load()
        except Exception as error:
            return _skip(entry, f"the parametrised weight cannot be computed: {error}")
        entry = replace(entry, shape=tuple(value.shape), dtype=value.dtype)
    assert entry.shape is not None
    unfit = dtype_reason(entry.name, entry.dtype, len(entry.shape))
    if unfit is not None:
        return _skip(entry, unfit)
    override = next(
        (view for glob, view in overrides.items() if fnmatchcase(entry.name, glob)),
        None,
    )
    view = override or entry.view
    if view is None and entry.reason is None:
        verdict = infer_view(entry.name, entry.shape, entry.dtype, shapes)
        view, entry = verdict.view, replace(entry, reason=verdict.reason)
        inferred = True
    else:
        inferred = False
    if view is None:
        assert entry.reason is not None
        return _skip(entry, entry.reason)
    return _matrix(entry, view, tied_to, inferred)


def _matrix(
    entry: Entry, view: str, tied_to: tuple[str, ...], inferred: bool
) -> WeightMatrix | Skip:
    assert entry.shape is not None
    assert entry.dtype is not None
    convention = get_view(view)
    misfit = convention.misfit(len(entry.shape))
    if misfit is not None:
        return _skip(entry, misfit)
    return WeightMatrix(
        name=entry.name,
        view=view,
        shape=convention.matrix_shape(entry.shape),
        dtype=entry.dtype,
        layer_type=entry.layer_type,
        tied_to=tied_to,
        inferred=inferred,
        load=entry.load,
    )


def _skip(entry: Entry, reason: str) -> Skip:
    return Skip(
        name=entry.name,
        reason=reason,
        shape=entry.shape or (),
        dtype=entry.dtype,
        layer_type=entry.layer_type,
    )
