"""The accumulators of one weight matrix, fed with the calls of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from spectrank.collapse.statistics.cells import coarsen, join
from spectrank.collapse.statistics.keep import RowKeeper
from spectrank.collapse.statistics.labels import BatchTargets
from spectrank.collapse.statistics.layer import (
    LayerStatistics,
    Minibatch,
    minibatch_of,
)
from spectrank.collapse.statistics.positions import cell_numbers, use_positions
from spectrank.collapse.statistics.rows import CallRows, call_rows, kept_parts
from spectrank.collapse.statistics.settings import Settings
from spectrank.collapse.statistics.sites import Site
from spectrank.linalg.moments import (
    ClassMoments,
    ClassSummary,
    CrossMoments,
    CrossSummary,
)
from spectrank.model import Batch, LayerBatch

# Entries of class means of the output gradients, above which a layer that no class
# cells can bound (K >= min(m, n)) holds them in one cell: K by K for the last layer.
_MAX_MEANS = 1 << 22
Moments = CrossMoments | ClassMoments


@final
class LayerAccumulator:
    """Sums of one weight matrix over the batches of a pass.

    Args:
        site: The layer.
        settings: Of the pass.
        device: Where the sums live.
    """

    def __init__(self, site: Site, settings: Settings, device: torch.device) -> None:
        self.site, self.settings, self.device = site, settings, device
        self.cells: Moments | None = None
        self.rest: Moments | None = None
        # Inputs by class where the cells are not the classes.
        self.inputs: ClassMoments | None = None
        self.keeper = RowKeeper(settings.capacity, seed=settings.seed)
        # Positions of each use, settled on the first batch; None without such cells.
        self._positions: tuple[int, ...] | None = None
        self._minibatch: Minibatch | None = None
        self._dtype = torch.float64
        self._rows_per_sample = 1

    def update(self, batch: Batch, targets: BatchTargets) -> None:
        """Take in every call of the layer, and of those that share its weight.

        Args:
            batch: Of the pass.
            targets: Of the batch.
        """
        records = [r for name in self.site.uses for r in batch.calls(name)]
        s = self.settings
        calls = [
            call_rows(self.site, r, batch, targets, graded=s.graded, ignored=s.ignored)
            for r in records
        ]
        if self.cells is None:
            self._start(calls, batch, targets)
        for use, rows in enumerate(calls):
            self._add(use, rows, batch.num_samples)
        if s.graded and self._minibatch is None and calls:
            self._minibatch = minibatch_of(
                [(c.gradients, c.inputs) for c in calls if c.gradients is not None]
            )
        if calls:
            self._keep(records[0], calls[0], targets)

    def compute(self, divisor: float) -> LayerStatistics | None:
        """Return the statistics so far.

        Args:
            divisor: F of the whole pass.

        Returns:
            The statistics; None where the layer never ran.
        """
        if self.cells is None:
            return None
        features, cross, fine = self._summaries()
        return LayerStatistics(
            name=self.site.name,
            uses=self.site.uses,
            weight_name=self.site.weight_name,
            view=self.site.view,
            layer_type=type(self.site.module).__name__,
            parametrised=self.site.parametrised,
            weight=self.site.weight(),
            dtype=self._dtype,
            cells="none" if self._single or self.is_split else "classes",
            num_classes=self.settings.num_classes,
            features=features,
            cross=cross,
            position_cross=fine,
            num_positions=self._rows_per_sample,
            divisor=divisor,
            kept=self.keeper.compute(),
            minibatch=self._minibatch,
        )

    @property
    def is_split(self) -> bool:
        """Whether inputs go by class, but the pairs into one cell, to save memory."""
        s = self.settings
        if not s.graded or s.num_classes is None:
            return False
        m, n = self.site.shape
        return s.num_classes >= min(m, n) and s.num_classes * m > _MAX_MEANS

    @property
    def cells_per_class(self) -> int:
        """Number of (use, position) pairs that have cells of their own; 1 without."""
        return 1 if self._positions is None else sum(self._positions)

    def make_moments(self, num_cells: int) -> Moments:
        """Return empty accumulators of this layer.

        Args:
            num_cells: Number of cells.

        Returns:
            Both sides with their products, or the inputs alone without gradients.
        """
        s = self.settings
        m, n = self.site.shape
        if not s.graded:
            return self._make_inputs(num_cells)
        return CrossMoments(
            num_cells,
            m,
            n,
            scatter_in=s.scatter,
            scatter_out=s.scatter_out,
            precision=s.precision,
            device=self.device,
        )

    def open(self, cells_per_class: int) -> None:
        """Make the accumulators of the cells where there are none.

        Args:
            cells_per_class: As found here or by another process.
        """
        if self.cells is None:
            if self._positions is None and cells_per_class > 1:
                self._positions = (cells_per_class,)
            num_classes = self.settings.num_classes or 1
            if self.is_split:
                self.inputs = self._make_inputs(num_classes)
                num_classes = 1
            self.cells = self.make_moments(num_classes * cells_per_class)

    def _make_inputs(self, num_cells: int) -> ClassMoments:
        s = self.settings
        return ClassMoments(
            num_cells,
            self.site.shape[1],
            scatter=s.scatter,
            precision=s.precision,
            device=self.device,
        )

    @property
    def _single(self) -> bool:
        return self.settings.num_classes is None

    def _start(
        self, calls: Sequence[CallRows], batch: Batch, targets: BatchTargets
    ) -> None:
        if not calls:
            return
        self._dtype = calls[0].inputs.dtype
        if batch.num_samples:
            size = sum(len(rows.inputs) for rows in calls)
            self._rows_per_sample = max(size // batch.num_samples, 1)
        s = self.settings
        if s.positions and s.graded and s.num_classes is not None:
            self._positions = use_positions(
                calls,
                batch,
                targets,
                num_classes=s.num_classes,
                most=min(self.site.shape),
            )
        self.open(self.cells_per_class)

    def _add(self, use: int, rows: CallRows, num_samples: int | None) -> None:
        labels, labelled = rows.labels, rows.labelled
        if self._single:
            labels = torch.zeros(len(rows.inputs), dtype=torch.int64)
        elif labels is None:
            self._feed_rest(rows, None)
            return
        assert self.cells is not None
        if self.inputs is not None:
            kept = slice(None) if labelled is None else labelled
            self.inputs.update(rows.inputs[kept], labels[kept])
            labels, labelled = torch.zeros_like(labels), None
        if self._positions is not None:
            labels = cell_numbers(
                labels, use, self._positions, num_samples, name=self.site.name
            )
        if labelled is None:
            _feed(self.cells, rows.gradients, rows.inputs, labels)
            return
        _feed(
            self.cells,
            None if rows.gradients is None else rows.gradients[labelled],
            rows.inputs[labelled],
            labels[labelled],
        )
        self._feed_rest(rows, ~labelled)

    def _feed_rest(self, rows: CallRows, chosen: Tensor | None) -> None:
        if rows.gradients is None:
            return
        if self.rest is None:
            self.rest = self.make_moments(1)
        pick = slice(None) if chosen is None else chosen
        inputs = rows.inputs[pick]
        labels = torch.zeros(len(inputs), dtype=torch.int64)
        _feed(self.rest, rows.gradients[pick], inputs, labels)

    def _keep(self, record: LayerBatch, rows: CallRows, targets: BatchTargets) -> None:
        s = self.settings
        if s.capacity:
            parts = kept_parts(
                self.site,
                record,
                rows,
                targets,
                gradients=s.keep_gradients,
                ignored=s.ignored,
            )
            if parts is not None:
                self.keeper.update(parts)

    def _summaries(
        self,
    ) -> tuple[ClassSummary, CrossSummary | None, CrossSummary | None]:
        if isinstance(self.cells, ClassMoments):
            return self.cells.compute(), None, None
        assert isinstance(self.cells, CrossMoments)
        found = self.cells.compute()
        rest = self.rest.compute() if isinstance(self.rest, CrossMoments) else None
        fine = None
        if self._positions is not None:
            size = len(found.inputs.counts)
            fine = found if rest is None else join(found, rest)
            classes = torch.arange(size) // self.cells_per_class
            found = coarsen(found, classes, size // self.cells_per_class)
        features = found.inputs if self.inputs is None else self.inputs.compute()
        return features, found if rest is None else join(found, rest), fine


def _feed(
    moments: Moments, gradients: Tensor | None, inputs: Tensor, labels: Tensor
) -> None:
    if isinstance(moments, ClassMoments):
        moments.update(inputs, labels)
    elif gradients is not None:
        moments.update(gradients, inputs, labels)
