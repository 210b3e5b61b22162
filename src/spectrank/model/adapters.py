r"""Low-rank adapters: two factors in the source become one product, never formed.

.. math:: \Delta W = \frac{\alpha}{r} B A

with A (r, inputs) and B (outputs, r): peft's ``lora_A`` and ``lora_B``, kohya's and
diffusers' ``lora_down`` and ``lora_up``. The scale comes of the configuration of the
adapter, of the layer, or of a scalar ``alpha`` beside the factors; where none tells it
is 1, which changes norms but no rank. Source (stated): Hu et al. (2021), LoRA,
arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from torch import Tensor

from spectrank.model.products import Product
from spectrank.model.weights import Entry

_FIRST = re.compile(
    r"(?P<head>(^|.*[._])lora[_.](embedding_)?)(?P<side>A|down)(?P<tail>(\.[^.]+)*)$"
)
_OTHER = {"A": "B", "down": "up"}
# Liu et al. (2024), DoRA, arXiv:2402.09353: the rows of W + s B A get lengths of their
# own.
_DORA = (
    "lora_magnitude_vector rescales the rows of the sum: the change of the weight is "
    "not this product"
)


def paired(
    entries: Iterable[Entry], config: Mapping[str, Any] | None = None
) -> list[Entry]:
    """Entries with every pair of adapter factors followed by their product.

    Args:
        entries: Of a source.
        config: ``adapter_config.json`` of peft beside the file; None for none.

    Returns:
        The entries in order; factors that have a partner are skipped with the name of
        the product, which stands after the second of them.
    """
    listed = list(entries)
    by_name = {entry.name: entry for entry in listed}
    places = {entry.name: place for place, entry in enumerate(listed)}
    products: dict[str, Entry] = {}
    factor_of: dict[str, str] = {}
    for right in listed:
        left = _partner(right, by_name)
        if left is None:
            continue
        product = _product(right, left, by_name, config or {})
        factor_of |= {right.name: product.name, left.name: product.name}
        last = max(right.name, left.name, key=places.__getitem__)
        products[last] = product
    return list(_with_products(listed, products, factor_of))


def _with_products(
    listed: Iterable[Entry],
    products: Mapping[str, Entry],
    factor_of: Mapping[str, str],
) -> Iterator[Entry]:
    for entry in listed:
        if entry.name in factor_of:
            reason = f"factor of the low-rank product {factor_of[entry.name]}"
            yield replace(entry, view=None, whole=None, reason=reason)
        else:
            yield entry
        if entry.name in products:
            yield products[entry.name]


def _partner(right: Entry, by_name: Mapping[str, Entry]) -> Entry | None:
    match = _FIRST.match(right.name)
    if match is None or right.refusal is not None or right.role != "weight":
        return None
    left = by_name.get(f"{match['head']}{_OTHER[match['side']]}{match['tail']}")
    if left is None or left.refusal is not None or not _fit(left.shape, right.shape):
        return None
    floating = all(
        side.dtype is not None and side.dtype.is_floating_point
        for side in (left, right)
    )
    return left if floating else None


def _fit(left: tuple[int, ...] | None, right: tuple[int, ...] | None) -> bool:
    """B (m, r, 1, ...) and A (r, n, ...)."""
    if left is None or right is None or len(left) != len(right) or len(left) < 2:
        return False
    return left[1] == right[0] and all(side == 1 for side in left[2:])


def _product(
    right: Entry,
    left: Entry,
    by_name: Mapping[str, Entry],
    config: Mapping[str, Any],
) -> Entry:
    assert left.shape is not None
    assert right.shape is not None
    match = _FIRST.match(right.name)
    assert match is not None
    rank, *rest = right.shape
    inputs = 1
    for side in rest:
        inputs *= side
    known = left.scale if left.scale is not None else right.scale
    if known is None:
        known = _configured(config, match["head"], rank)
    alpha = by_name.get(f"{match['head'].rpartition('lora')[0]}alpha")
    scale: Callable[[], float] = _Constant(1.0 if known is None else known)
    note = None
    if known is None and alpha is not None and alpha.shape == ():
        scale = _Alpha(alpha.load, rank)
    elif known is None:
        note = "the scale alpha / r of the product is not in the source: taken as 1"
    stem = match["head"].rpartition("lora")[0]
    rescaled = any(name.startswith(f"{stem}lora_magnitude_vector") for name in by_name)
    notes = [note, _DORA if rescaled else None]
    head = match["head"].rstrip("._").removesuffix("_embedding")
    table = "embedding" in match["head"].rpartition("lora")[2]
    sides = (left.shape[0], inputs)
    product = Product(
        sides[::-1] if table else sides,
        left.shape[0] * rank + rank * inputs,
        note is not None,
        "; ".join(text for text in notes if text) or None,
        left.load,
        scale,
        table,
    )
    return Entry(
        name=f"{head}{match['tail']}",
        shape=right.shape,
        dtype=right.dtype,
        load=right.load,
        layer_type=right.layer_type,
        product=product,
        role="computed",
    )


def _configured(config: Mapping[str, Any], head: str, rank: int) -> float | None:
    """The scale that a configuration of peft gives a module; None for none."""
    alpha = config.get("lora_alpha")
    own = config.get("alpha_pattern")
    module = head.rpartition("lora")[0].rstrip("._")
    if isinstance(own, Mapping):
        # As peft reads it: a pattern for the end of the module's name.
        ends = (a for p, a in own.items() if _ends(str(p), module))
        alpha = next(ends, alpha)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or rank == 0:
        return None
    # Rank-stabilised: Kalajdzievski (2023), arXiv:2312.03732.
    below = math.sqrt(rank) if config.get("use_rslora") else rank
    return alpha / below if abs(alpha) <= sys.float_info.max else None


def _ends(pattern: str, module: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return False


@final
@dataclass(frozen=True)
class _Constant:
    value: float

    def __call__(self) -> float:
        return self.value


@final
@dataclass(frozen=True)
class _Alpha:
    load: Callable[[], Tensor] = field(repr=False)
    rank: int

    def __call__(self) -> float:
        return float(self.load()) / self.rank
