"""From the text of a view or layout to the matrices it makes of a tensor."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from torch import Tensor

from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.model.kernels import GROUPS
from spectrank.model.operators import OPERATOR, check_operator
from spectrank.model.splits import (
    Layout,
    Options,
    Part,
    Shape,
    count_option,
)
from spectrank.model.stacks import STACKS
from spectrank.model.views import VIEWS, get_view

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {layout.name: layout for layout in (*STACKS, *GROUPS, OPERATOR)}
)
"""Every layout by name, read-only."""

_COUNTS = frozenset(["heads", "kv_heads", "groups"])


@final
@dataclass(frozen=True)
class Whole:
    """Takes a tensor as one matrix, by the name of a view.

    Attributes:
        view: A key of ``VIEWS``.
    """

    view: str

    def __call__(self, weight: Tensor) -> Tensor:
        """The matrix (m, n) of a tensor.

        Args:
            weight: As stored.

        Returns:
            The matrix; no copy where the strides allow it.
        """
        return get_view(self.view).apply(weight)


def check_convention(text: str) -> None:
    """Refuse what names no view and no layout, or options that it has not.

    Args:
        text: Such as ``linear`` or ``qkv-interleaved:heads=12``.

    Raises:
        UnknownNameError: No such view, layout or option; the message suggests one.
        DomainError: An option is missing or written wrongly.
    """  # noqa: DOC502 - some are raised by the functions called
    if text in VIEWS:
        return
    layout, options = _parse(text)
    if layout is OPERATOR:
        check_operator(options)
    # A cut by heads has to know how many there are.
    by_head = {"heads"} if "each" in options else set()
    for name in sorted({*layout.needs, *(options.keys() & _COUNTS), *by_head}):
        count_option(options, name)
    if options.get("each", "head") != "head":
        raise DomainError(
            f"each must be 'head', got {options['each']!r} in {text!r}; leave it out "
            "for whole query, key and value"
        )


def parts_of(text: str, shape: Shape, known: Options | None = None) -> tuple[Part, ...]:
    """The matrices that a view or layout makes of a tensor of some shape.

    Args:
        text: Such as ``linear`` or ``qkv-interleaved:heads=12``.
        shape: Of the tensor as stored.
        known: Options that the layer of the tensor tells; what is written wins.

    Returns:
        One part or several.

    Raises:
        ShapeError: The tensor cannot be cut so.
        UnknownNameError: No such view, layout or option.
        DomainError: An option is missing or out of range.
    """  # noqa: DOC502 - some are raised by the functions called
    view = VIEWS.get(text)
    if view is None:
        layout, options = _parse(text)
        told = {k: v for k, v in (known or {}).items() if k in layout.options}
        return layout.parts(shape, {**told, **options})
    misfit = view.misfit(len(shape))
    if misfit is not None:
        raise ShapeError(misfit)
    return (Part(text, view.matrix_shape(shape), Whole(text)),)


def _parse(text: str) -> tuple[Layout, dict[str, str]]:
    name, *written = str(text).split(":")
    layout = LAYOUTS.get(name)
    if layout is None:
        known = [*VIEWS, *LAYOUTS]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownNameError(
            f"a view must be a registered name, got {text!r}; "
            f"{hint}the views are {', '.join(known)}"
        )
    options: dict[str, str] = {}
    for item in written:
        key, equals, value = item.partition("=")
        if layout.first is not None and not equals and not options:
            key, equals, value = layout.first, "=", item
        if not equals or not value or key in options:
            raise DomainError(
                f"options of a view are written name=value, once each, got {item!r} "
                f"in {text!r}; e.g. 'qkv-interleaved:heads=12'"
            )
        if key not in layout.options:
            raise UnknownNameError(
                f"the options of {name} are {', '.join(layout.options) or 'none'}, "
                f"got {key!r} in {text!r}; leave it out"
            )
        options[key] = value
    return layout, options
