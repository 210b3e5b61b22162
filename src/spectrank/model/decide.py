"""What becomes of an entry: its matrices, or one skip with the reason."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import final

from spectrank.errors import ShapeError
from spectrank.model.families import Config, fused_layout
from spectrank.model.infer import Shapes, dtype_reason, infer_view
from spectrank.model.layouts import parts_of
from spectrank.model.operators import VIEW as OPERATOR
from spectrank.model.operators import Operator
from spectrank.model.sizes import Sizes
from spectrank.model.splits import Part
from spectrank.model.weights import Entry, Skip, Verdict, WeightMatrix

_KERNELS = ("conv-",)


@final
@dataclass(frozen=True)
class Rules:
    """What decides beside the entry itself.

    Attributes:
        views: Glob pattern to view or layout, from the user.
        everywhere: View for every tensor that takes it, from the user.
        shapes: Name to shape of every tensor of the source.
        split: Whether tensors are cut into their matrices.
        config: Configuration beside a file; None where there is none.
        sizes: Input sizes of convolutions, by the path of the layer.
    """

    views: Mapping[str, str]
    everywhere: str | None
    shapes: Shapes
    split: bool
    config: Config | None = None
    sizes: Sizes = field(default_factory=dict)

    def override(self, name: str) -> str | None:
        """The user's view for a name; the first pattern that matches."""
        matches = (v for glob, v in self.views.items() if fnmatchcase(name, glob))
        return next(matches, None)

    def known(self, entry: Entry) -> Mapping[str, str]:
        """What the layer and the example input tell of a convolution's operator."""
        known = dict(entry.known or {})
        met = self.sizes.get(entry.name.rpartition(".")[0], ())
        if len(met) == 1:
            known["size"] = "x".join(map(str, met[0]))
        return known


def decide_all(
    entries: Sequence[Entry],
    ties: Mapping[Hashable, tuple[str, ...]],
    rules: Rules,
) -> Iterator[WeightMatrix | Skip]:
    """Decide every entry, tied ones once.

    Args:
        entries: The selected ones, in the order of the source.
        ties: Key of shared memory to all names that share it.
        rules: What decides.

    Yields:
        Matrices and skips.
    """
    first: dict[Hashable, str] = {}
    for entry in entries:
        names = () if entry.tie is None else ties.get(entry.tie, ())
        if names and first.setdefault(entry.tie, entry.name) != entry.name:
            yield _skip(entry, f"tied to {first[entry.tie]}")
            continue
        others = tuple(name for name in names if name != entry.name)
        yield from _decide(entry, others, rules)


def _decide(
    entry: Entry, tied_to: tuple[str, ...], rules: Rules
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
    if entry.product is not None:
        return [_product(entry, tied_to)]
    override = rules.override(entry.name)
    if override is not None:
        return _matrices(entry, override, tied_to, rules, inferred=False)
    verdict, inferred = _verdict(entry, rules)
    if rules.everywhere is not None and verdict.view is not None:
        for_all = _if_it_fits(entry, rules.everywhere, verdict.view, tied_to, rules)
        if for_all is not None:
            return for_all
    if verdict.view is None:
        assert verdict.reason is not None
        return [_skip(entry, verdict.reason)]
    if verdict.reason is not None:
        entry = replace(entry, note=_joined(entry.note, verdict.reason))
    return _matrices(entry, verdict.view, tied_to, rules, inferred)


def _verdict(entry: Entry, rules: Rules) -> tuple[Verdict, bool]:
    """View or layout without the user's word, and whether it was inferred."""
    assert entry.shape is not None
    config = rules.config if entry.config is None else entry.config
    verdict = Verdict(entry.view, entry.reason, entry.whole)
    inferred = verdict.view is None and verdict.reason is None
    if inferred:
        verdict = infer_view(
            entry.name, entry.shape, entry.dtype, _seen_by(entry, rules.shapes), config
        )
    if not rules.split:
        return verdict.whole or verdict, inferred
    if verdict.view is None:
        return verdict, inferred
    fused = fused_layout(entry.name, entry.shape, verdict.view, rules.shapes, config)
    if fused.view is not None:
        # A configuration of the module's own is knowledge, a name is not.
        return fused, inferred or entry.config is None
    if fused.reason is not None:
        return replace(verdict, reason=fused.reason), inferred
    return verdict, inferred


def _if_it_fits(
    entry: Entry,
    view: str,
    own: str,
    tied_to: tuple[str, ...],
    rules: Rules,
) -> Sequence[WeightMatrix | Skip] | None:
    """The matrices by a view that was asked for everywhere; None where it is none."""
    if view.startswith(OPERATOR) and not own.startswith(_KERNELS):
        return None
    found = _matrices(entry, view, tied_to, rules, inferred=False)
    if view.startswith(OPERATOR) or isinstance(found[0], WeightMatrix):
        return found
    return None


def _matrices(
    entry: Entry,
    view: str,
    tied_to: tuple[str, ...],
    rules: Rules,
    inferred: bool,
) -> Sequence[WeightMatrix | Skip]:
    assert entry.shape is not None
    assert entry.dtype is not None
    try:
        parts = parts_of(view, entry.shape, rules.known(entry))
    except ShapeError as error:
        return [_skip(entry, str(error))]
    if not parts:
        return [_skip(entry, "a stack of no matrices")]
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
            note=_joined(entry.note, _note_of(part)),
        )
        for part in parts
    ]


def _note_of(part: Part) -> str | None:
    """What its name does not tell of an operator: another size is another matrix."""
    return part.take.note if isinstance(part.take, Operator) else None


def _product(entry: Entry, tied_to: tuple[str, ...]) -> WeightMatrix:
    product = entry.product
    assert product is not None
    assert entry.dtype is not None
    return WeightMatrix(
        name=entry.name,
        view="lora-product",
        shape=product.shape,
        dtype=entry.dtype,
        layer_type=entry.layer_type,
        tied_to=tied_to,
        inferred=product.inferred,
        load=entry.load,
        take=product,
        stored=product.stored,
        note=_joined(entry.note, product.note),
    )


def _joined(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note) or None


def _skip(entry: Entry, reason: str) -> Skip:
    return Skip(
        name=entry.name,
        reason=reason,
        shape=entry.shape or (),
        dtype=entry.dtype,
        layer_type=entry.layer_type,
    )


def _seen_by(entry: Entry, shapes: Shapes) -> Shapes:
    """Shapes of the source, without the scales of what is decoded already."""
    if entry.note is None:
        return shapes
    scales = f"{entry.name}_scale"
    return {k: v for k, v in shapes.items() if not k.startswith(scales)}
