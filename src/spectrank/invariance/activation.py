"""Activation patterns over data: which units switch, which switch together.

A unit is active on a row (a sample, or a position of one) where its pre-activation is
above zero, as autograd has it for ``torch.relu``. A *class* are units of a layer that
are active on the same rows: their pair laws hold while the class lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, final

import numpy as np
import polars as pl
from torch import Tensor, nn

from spectrank.errors import DomainError, UnknownNameError
from spectrank.invariance.pairs import coactivation_classes
from spectrank.invariance.preactivations import ACTIVATIONS, Chosen, preactivations
from spectrank.model import LayerBatch, capture
from spectrank.model.capture.choose import Choices
from spectrank.model.capture.undisturbed import Mode
from spectrank.model.capture.unpack import Unpack
from spectrank.scanning.provenance import environment
from spectrank.table import Table

COLUMNS: Mapping[str, Any] = {"num_units": pl.Int64, "num_rows": pl.Int64}


@final
@dataclass(frozen=True, eq=False)
class LayerPattern:
    """On which rows each unit of a layer is active.

    Attributes:
        bits: (ceil(N / 8), n) bytes, eight rows in each.
        num_rows: N.
    """

    bits: np.ndarray
    num_rows: int

    @property
    def active(self) -> np.ndarray:
        """(N, n) booleans: whether a unit is active on a row."""
        rows = np.unpackbits(self.bits, axis=0, count=self.num_rows)
        return np.asarray(rows, dtype=bool)

    @property
    def counts(self) -> np.ndarray:
        """(n,) numbers of rows on which each unit is active."""
        return np.asarray(self.active.sum(0))

    @property
    def stably_active(self) -> np.ndarray:
        """Units that are active on every row."""
        return np.flatnonzero(self.counts == self.num_rows)

    @property
    def dead(self) -> np.ndarray:
        """Units that are active on no row; a ReLU has no gradient there."""
        return np.flatnonzero(self.counts == 0)

    @property
    def classes(self) -> list[np.ndarray]:
        """Units that are active on the same rows, together."""
        return coactivation_classes(self.bits)


@final
@dataclass(frozen=True, eq=False, repr=False)
class ActivationPatterns:
    """Patterns of the layers of a model and the signs of its weights, at one moment.

    Attributes:
        layers: Name to pattern.
        signs: Parameter to its positive and its negative entries, as bits.
        previous: An earlier moment to compare with; None.
        step: Of training; None.
        skipped: Layers that were not looked at, to the reason.
    """

    layers: Mapping[str, LayerPattern]
    signs: Mapping[str, tuple[np.ndarray, np.ndarray]]
    previous: ActivationPatterns | None = None
    step: int | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ActivationPatterns({', '.join(self.layers)}); .table() has the counts"

    def slopes(self, name: str) -> np.ndarray:
        """Slopes of a ReLU after a layer, as `pair_laws` takes them.

        Args:
            name: Of the layer.

        Returns:
            (N, n) booleans.

        Raises:
            UnknownNameError: The layer was not looked at.
        """
        if name not in self.layers:
            raise UnknownNameError(
                f"patterns are asked for by layer, got {name!r}; the layers are "
                f"{', '.join(self.layers)}"
            )
        return self.layers[name].active

    def sign_flips(self, name: str) -> int | None:
        """Entries of a parameter whose sign is opposite to that of the moment before.

        An entry that is or was zero does not count.

        Args:
            name: Of the parameter.

        Returns:
            Their number; None without a moment before.
        """
        if self.previous is None or name not in self.previous.signs:
            return None
        (plus, minus), (was_plus, was_minus) = (
            self.signs[name],
            self.previous.signs[name],
        )
        turned = (plus & was_minus) | (minus & was_plus)
        return int(np.unpackbits(turned).sum())

    def flips(self, name: str) -> np.ndarray | None:
        """Rows on which each unit of a layer switched since the moment before.

        Args:
            name: Of the layer.

        Returns:
            (n,) counts; None without a moment before.
        """
        if self.previous is None or name not in self.previous.layers:
            return None
        now, before = self.layers[name].bits, self.previous.layers[name].bits
        return np.asarray(np.unpackbits(now ^ before, axis=0).sum(0, dtype=np.int64))

    def table(self) -> Table:
        """Rows of kind ``measurement``, and of kind ``skip`` for layers left out.

        Of each layer ``num_active`` and ``num_dead`` (on all rows, on none),
        ``num_mixed``, ``num_classes``, ``largest_class``, ``num_coactive_pairs`` (of
        distinct units of one class) and, against the moment before,
        ``activation_flips`` (switches of a unit on a row) and ``num_flipped_units``;
        of each parameter ``weight_sign_flips``.

        Returns:
            The table.
        """
        rows = [row for name in self.layers for row in self._layer_rows(name)]
        for name in self.signs:
            count = self.sign_flips(name)
            if count is not None:
                rows.append(_row(name, "weight_sign_flips", count, self.step))
        for name, reason in self.skipped.items():
            row = {"kind": "skip", "subject": name, "metric": "activation_pattern"}
            rows.append(row | {"status": "skipped", "reason": reason})
        return Table.from_rows(rows, columns=COLUMNS, provenance=environment())

    def _layer_rows(self, name: str) -> list[dict[str, Any]]:
        layer = self.layers[name]
        sizes = np.array([len(units) for units in layer.classes])
        n = int(sizes.sum())
        active, dead = len(layer.stably_active), len(layer.dead)
        found = {
            "num_active": active,
            "num_dead": dead,
            "num_mixed": n - active - dead,
            "num_classes": len(sizes),
            "largest_class": int(sizes.max()),
            "num_coactive_pairs": int((sizes * (sizes - 1) // 2).sum()),
        }
        flips = self.flips(name)
        if flips is not None:
            found["activation_flips"] = int(flips.sum())
            found["num_flipped_units"] = int((flips > 0).sum())
        of = {"num_units": n, "num_rows": layer.num_rows}
        return [_row(name, metric, v, self.step) | of for metric, v in found.items()]


def activation_patterns(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    previous: ActivationPatterns | None = None,
    layers: Choices = None,
    mode: Mode = "eval",
    unpack: Unpack | None = None,
    step: int | None = None,
) -> ActivationPatterns:
    """Look at which units are active on which rows of the data, in one pass.

    Evaluate on the data that are trained on, augmentation included. The model is left
    as it was. Memory: one bit per unit and row, and two per parameter.
    Source (derived): tests/invariance/test_activation.py, by hand.

    Args:
        model: A module.
        loader: Batches, in the same order as for ``previous``.
        previous: An earlier result to compare with; its own ``previous`` is let go.
        layers: As in `spectrank.capture`: layers whose outputs are pre-activations, or
            ReLU modules, whose inputs are. None for the layers that a relu, leaky relu
            or prelu reads directly, and for modules of those kinds that read something
            else, such as a normalisation; one that is called at several places counts
            as ``name:0``, ``name:1``, ... in the order of its calls.
        mode: In which the model runs.
        unpack: As in `spectrank.capture`.
        step: Of training, for the rows.

    Returns:
        The patterns; ``table()`` makes rows of them.

    Raises:
        DomainError: ``previous`` is of other data or layers, or no relu reads any.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [0.0]]))
        >>> _ = model[0].bias.data.copy_(torch.tensor([0.0, 1.0]))
        >>> data = [torch.tensor([[1.0], [-1.0]])]
        >>> found = activation_patterns(model, data, layers="0")
        >>> found.slopes("0").tolist()
        [[True, True], [False, True]]
    """  # noqa: DOC502 - raised by the function called
    batches, chosen = iter(loader), Chosen(())
    if layers is None:
        first = next(batches, None)
        if first is not None:
            batches = chain([first], batches)
            chosen = preactivations(model, first, unpack)
            layers = chosen.layers
    pieces: dict[str, list[np.ndarray]] = {}
    with capture(model, layers, mode=mode, unpack=unpack) as taps:
        for batch in taps.over(batches):
            for name in batch.layers:
                for place, record in enumerate(batch.calls(name)):
                    module = model.get_submodule(name)
                    active = _active(record, module).cpu().numpy()
                    own = f"{name}:{place}" if name in chosen.several else name
                    pieces.setdefault(own, []).append(active)
    found = {name: _packed(np.concatenate(rows)) for name, rows in pieces.items()}
    if previous is not None:
        _check_previous(found, previous)
        previous = ActivationPatterns(previous.layers, previous.signs)
    signs = {name: _signs(p.detach()) for name, p in model.named_parameters()}
    return ActivationPatterns(found, signs, previous, step, chosen.skipped)


def _active(record: LayerBatch, module: nn.Module) -> Tensor:
    if not isinstance(module, ACTIVATIONS):
        return record.output_rows(select="all") > 0
    assert record.inputs is not None
    # Channels stand second in images; features last elsewhere.
    axis = 1 if record.inputs.ndim in {4, 5} else record.inputs.ndim - 1
    return record.input_rows(select="all", feature_axis=axis) > 0


def _packed(active: np.ndarray) -> LayerPattern:
    return LayerPattern(np.packbits(active, axis=0), len(active))


def _signs(parameter: Tensor) -> tuple[np.ndarray, np.ndarray]:
    flat = parameter.flatten().cpu()
    return np.packbits((flat > 0).numpy()), np.packbits((flat < 0).numpy())


def _check_previous(
    found: Mapping[str, LayerPattern], previous: ActivationPatterns
) -> None:
    for name, layer in found.items():
        before = previous.layers.get(name)
        if before is None or before.num_rows != layer.num_rows:
            got = "none" if before is None else f"{before.num_rows} rows"
            raise DomainError(
                f"flips are counted on the same rows of the same layers, {name!r} has "
                f"{layer.num_rows} rows now and {got} before; pass the same loader and "
                "layers, unshuffled"
            )


def _row(subject: str, metric: str, value: int, step: int | None) -> dict[str, Any]:
    return {
        "kind": "measurement",
        "subject": subject,
        "metric": metric,
        "value": float(value),
        "step": step,
        "status": "ok",
    }
