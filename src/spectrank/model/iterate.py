"""From any source to its weight matrices, with a reason for everything else."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spectrank.errors import DomainError
from spectrank.model.adapters import paired
from spectrank.model.beside import json_beside
from spectrank.model.checkpoints import open_checkpoint
from spectrank.model.decide import Rules, decide_all
from spectrank.model.flatten import Named, flatten_checkpoint
from spectrank.model.formats.quantised import decode_quantised
from spectrank.model.layouts import check_convention
from spectrank.model.modules import module_entries
from spectrank.model.operators import VIEW as OPERATOR
from spectrank.model.reparametrised import reparametrised
from spectrank.model.sizes import input_sizes
from spectrank.model.views import VIEWS
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
Views = Mapping[str, str] | str | None


def iter_weights(
    source: Source,
    *,
    select: str | Sequence[str] | None = None,
    views: Views = None,
    split: bool = True,
    example_input: Any = None,
) -> Iterator[WeightMatrix | Skip]:
    """Every tensor of a source, each as its matrices or as one skip.

    A tensor that holds several matrices (packed query, key and value; gates; experts)
    is yielded part by part: the same name with different views. Two factors of a
    low-rank adapter are two skips and their product. Nothing is loaded here: headers
    are read and checked at once, values only by ``WeightMatrix.operand()``. A module is
    left as it was, and run only for the sizes of ``conv-operator``. Of tied tensors the
    first selected name carries the matrix.

    Args:
        source: Module, state dict, weights file or folder.
        select: Glob pattern or patterns of names; the rest is not yielded.
        views: Glob pattern to view name; the first match overrides layer types and
            inference. A layout such as ``qkv-interleaved:heads=12`` cuts the tensor.
            One name alone holds for every tensor that it fits: ``conv-operator`` for
            convolutions.
        split: Whether tensors are cut into their matrices and groups of a kernel are
            blocks; otherwise each is one matrix or one skip.
        example_input: What the module takes, for the sizes of ``conv-operator``.

    Returns:
        Matrices and skips in the order of the source; a folder's unread files last.

    Raises:
        CheckpointError: A file or folder cannot be read as a checkpoint.
        UnknownNameError: ``views`` names a view that does not exist.
        DomainError: The source is of none of these types, or the model does not run
            on the input.
    """  # noqa: DOC502 - raised by the functions called
    everywhere, overrides = _requested(views)
    _, _, entries = _open(source)
    if split:
        entries = paired(entries, _json_beside(source, "adapter_config.json"))
    asked = [*overrides.values(), everywhere or ""]
    sizes = {}
    if example_input is not None and any(x.startswith(OPERATOR) for x in asked):
        sizes = dict(input_sizes(source, example_input))  # type: ignore[arg-type]
    rules = Rules(
        views=overrides,
        everywhere=everywhere,
        shapes={e.name: e.shape for e in entries if e.shape is not None},
        split=split,
        config=_json_beside(source, "config.json") if split else None,
        sizes=sizes,
    )
    chosen = [entry for entry in entries if _selected(entry.name, select)]
    return decide_all(chosen, _ties(entries), rules)


def iter_matrices(
    source: Source,
    *,
    select: str | Sequence[str] | None = None,
    views: Views = None,
    split: bool = True,
    example_input: Any = None,
) -> Iterator[WeightMatrix]:
    """The matrices of ``iter_weights`` without the skips.

    Args:
        source: Module, state dict, weights file or folder.
        select: Glob pattern or patterns of names; the rest is not yielded.
        views: Glob pattern to view name, overrides layer types and inference.
        split: Whether tensors that hold several matrices are cut into them.
        example_input: What the module takes, for the sizes of ``conv-operator``.

    Returns:
        Matrices in the order of the source.
    """
    weights = iter_weights(
        source, select=select, views=views, split=split, example_input=example_input
    )
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
            counts = entry.role in {"weight", "decoded"}
            size = math.prod(entry.shape or ()) if counts else 0
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
    return tuple(entry.name for entry in paired(_open(source)[2]))


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


def _requested(views: Views) -> tuple[str | None, dict[str, str]]:
    """The view for all tensors and those by pattern, each checked."""
    if isinstance(views, str):
        check_convention(views)
        if views not in VIEWS and not views.startswith(OPERATOR):
            raise DomainError(
                "a view for every tensor is one that a tensor takes as a whole, got "
                f"the layout {views!r}; pass views={{'*.NAME.weight': {views!r}}}"
            )
        return views, {}
    overrides = dict(views or {})
    for view in overrides.values():
        check_convention(view)
    return None, overrides


def _json_beside(source: Source, name: str) -> Mapping[str, Any] | None:
    """A configuration beside a file or in a folder; None where there is none."""
    return json_beside(source, name) if isinstance(source, str | Path) else None


def _open(source: Source) -> tuple[Kind, tuple[Path, ...], list[Entry]]:
    if isinstance(source, nn.Module):
        return "module", (), list(module_entries(source))
    if isinstance(source, Mapping):
        named = [_named(item) for item in flatten_checkpoint(source)]
        return "state_dict", (), reparametrised(decode_quantised(named))
    if isinstance(source, str | Path):
        checkpoint = open_checkpoint(source)
        return checkpoint.kind, checkpoint.files, reparametrised(checkpoint.entries)
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
