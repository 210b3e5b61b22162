"""LayerBatch: what one call of a layer took and gave, as tensors and as rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError
from spectrank.model.capture.rows import (
    Positions,
    Samples,
    as_rows,
    feature_axis,
    patches,
    sample_axis,
)

Select = Literal["labelled", "unmasked", "all"]
Side = Literal["inputs", "outputs"]


@dataclass(frozen=True, eq=False)
class LayerBatch:
    """One call of one layer on one batch; every tensor is detached.

    A *row* is one position of one sample (a token, a pixel of a feature map). Rows are
    selected by ``select``:

    ``"labelled"`` (default)
        without padding, and without rows whose label is the ignored one (-100);
    ``"unmasked"``
        without padding;
    ``"all"``
        every row. Only these add up to the gradient of the weight,
        ``gradient_rows(select="all").T @ input_rows(select="all")`` summed over batches
        and calls: a token without a label of its own is attended to by others.

    A layer whose positions are not those of the mask (after pooling, or flattened by
    the model) is taken whole.

    Attributes:
        name: Of the layer.
        call: 0 for the first use of the layer in this batch, 1 for the next, counted
            as they return.
        inputs: First tensor argument, copied before the layer ran; None where it takes
            none. Indices of an embedding; data of a packed sequence.
        outputs: First tensor that the layer returned, before the user's forward hooks.
            The sequence of a recurrent layer.
        output_gradients: Derivative of the sum-reduced loss with respect to
            ``outputs``, of the same shape, per sample and not divided by N; with one
            leading axis (c, ...) of logits under ``gradients="logits"``. Exact per
            sample unless samples are coupled by BatchNorm in training mode. None if
            not asked for, or if the model ran the layer without gradients.
        tied_to: Other layers that hold the same weight.
    """

    name: str
    call: int
    inputs: Tensor | None = field(repr=False)
    outputs: Tensor = field(repr=False)
    output_gradients: Tensor | None = field(repr=False)
    tied_to: tuple[str, ...]
    _module: nn.Module = field(repr=False)
    _samples: Samples = field(repr=False)
    _packed: tuple[Tensor, Tensor] | None = field(repr=False, default=None)

    @property
    def signs(self) -> Tensor:
        """Whether each output is above zero: the pattern of a ReLU that follows.

        False at 0, -0 and nan.
        """
        return self.outputs > 0

    @property
    def num_samples(self) -> int | None:
        """N of the batch; None where the batch does not tell."""
        return self._samples.num_samples

    def output_rows(
        self, *, select: Select = "labelled", feature_axis: int | None = None
    ) -> Tensor:
        """Outputs as rows (rows, d): channel vectors of a convolution.

        Args:
            select: Which rows.
            feature_axis: Axis of the features; None to go by the type of the layer.

        Returns:
            2-D tensor, dtype as computed.
        """
        axis = self._axis(self.outputs, feature_axis)
        kept = self._kept(self._positions(self.outputs.shape, axis), select)
        return _pick(as_rows(self.outputs, axis), kept)

    def gradient_rows(
        self, *, select: Select = "labelled", feature_axis: int | None = None
    ) -> Tensor:
        """Output gradients as rows, in the order of ``output_rows``.

        Args:
            select: Which rows.
            feature_axis: Axis of the features; None to go by the type of the layer.

        Returns:
            (rows, d), or (c, rows, d) under ``gradients="logits"``.

        Raises:
            DomainError: There are none.
        """
        if self.output_gradients is None:
            raise DomainError(
                f"output gradients of {self.name} must have been captured, there are "
                "none; pass gradients='loss' or 'logits', and see that the model "
                "does not run the layer under torch.no_grad"
            )
        axis = self._axis(self.outputs, feature_axis)
        kept = self._kept(self._positions(self.outputs.shape, axis), select)
        if not self._samples.per_logit:
            return _pick(as_rows(self.output_gradients, axis), kept)
        return torch.stack(
            [_pick(as_rows(g, axis), kept) for g in self.output_gradients]
        )

    def input_rows(
        self,
        *,
        select: Select = "labelled",
        feature_axis: int | None = None,
        unfold: bool = False,
    ) -> Tensor:
        """Inputs as rows (rows, d); indices (rows,) of an embedding.

        Args:
            select: Which rows.
            feature_axis: Axis of the features; None to go by the type of the layer.
            unfold: Rows are the patches that a convolution reads, one per position of
                its output and in the order of ``weight.flatten(1)``; with groups, group
                q reads the q-th of equally many columns.

        Returns:
            2-D tensor, dtype as given to the layer.

        Raises:
            DomainError: The layer takes no tensor, or sums bags of entries.
        """  # noqa: DOC502 - raised by the functions called
        inputs = self._needed_inputs()
        if isinstance(self._module, nn.Embedding):
            kept = self._kept(self._positions_of(tuple(inputs.shape)), select)
            return _pick(inputs.flatten(), kept)
        if unfold:
            inputs = patches(self._module, inputs)
            feature_axis = inputs.ndim - 1
        axis = self._axis(inputs, feature_axis)
        kept = self._kept(self._positions(inputs.shape, axis), select)
        return _pick(as_rows(inputs, axis), kept)

    def row_labels(
        self,
        *,
        select: Select = "labelled",
        of: Side = "outputs",
        feature_axis: int | None = None,
    ) -> Tensor:
        """Label of every row: the sample's, repeated over its positions, or its own.

        Args:
            select: Which rows.
            of: Rows of the outputs (and unfolded inputs) or of the inputs.
            feature_axis: Axis of the features; None to go by the type of the layer.

        Returns:
            (rows,) integers.

        Raises:
            DomainError: The batch has no integer labels, or it is not known which
                sample or position a row belongs to.
        """
        if self._samples.labels is None:
            raise DomainError(
                "rows have labels where the targets are integers, "
                f"this batch of {self.name} has none; pass unpack= to capture"
            )
        positions = self._positions_for(of, feature_axis)
        return self._spread(self._samples.labels, positions, select)

    def row_samples(
        self,
        *,
        select: Select = "labelled",
        of: Side = "outputs",
        feature_axis: int | None = None,
    ) -> Tensor:
        """Index in the batch of the sample that every row belongs to.

        Args:
            select: Which rows.
            of: Rows of the outputs (and unfolded inputs) or of the inputs.
            feature_axis: Axis of the features; None to go by the type of the layer.

        Returns:
            (rows,) integers.

        Raises:
            DomainError: The number of samples, or their axis, is not known.
        """
        if self._samples.num_samples is None:
            raise DomainError(
                "the number of samples must be known, this batch does not tell; "
                "pass batch_axis= to capture, or unpack= that states num_samples"
            )
        index = torch.arange(self._samples.num_samples, device=self.outputs.device)
        return self._spread(index, self._positions_for(of, feature_axis), select)

    def _spread(self, values: Tensor, positions: Positions, select: Select) -> Tensor:
        rows = positions.spread(values)
        if rows is None:
            raise DomainError(
                f"a row of {self.name} must belong to one sample, but positions "
                f"{positions.shape} do not fit values {tuple(values.shape)}; where "
                "samples are not on the first axis, pass batch_axis=1 to capture"
            )
        return _pick(rows, self._kept(positions, select))

    def _positions_for(self, of: Side, axis: int | None) -> Positions:
        value = self.outputs if of == "outputs" else self._needed_inputs()
        if of == "inputs" and isinstance(self._module, nn.Embedding):
            return self._positions_of(tuple(value.shape))
        return self._positions(value.shape, self._axis(value, axis))

    def _needed_inputs(self) -> Tensor:
        bag = isinstance(self._module, nn.EmbeddingBag)
        if self.inputs is None or bag:
            what = "sums bags of entries" if bag else "takes no tensor"
            raise DomainError(
                f"a row of inputs must be one argument of the layer, {self.name} "
                f"{what}; read .outputs, or .inputs as it is"
            )
        return self.inputs

    def _axis(self, tensor: Tensor, given: int | None) -> int:
        return feature_axis(self._module, tensor.ndim, given)

    def _positions(self, shape: torch.Size, axis: int) -> Positions:
        return self._positions_of(tuple(shape[:axis] + shape[axis + 1 :]))

    def _positions_of(self, shape: tuple[int, ...]) -> Positions:
        if self._packed is not None:
            return Positions(shape, None, self._packed)
        return Positions(shape, sample_axis(shape, self._module, self._samples))

    def _kept(self, positions: Positions, select: Select) -> Tensor | None:
        """Which rows are selected; None for all of them."""
        if select not in {"labelled", "unmasked", "all"}:
            raise DomainError(
                "select must be 'labelled', 'unmasked' or 'all', "
                f"got {select!r}; 'all' rows add up to the gradient of the weight"
            )
        kept = None
        samples = self._samples
        if select != "all" and samples.mask is not None:
            kept = positions.spread(samples.mask)
        if select == "labelled" and samples.ignore_index is not None:
            assert samples.labels is not None
            labels = positions.spread(samples.labels)
            if labels is not None:
                own = labels != samples.ignore_index
                kept = own if kept is None else kept & own
        return kept


def _pick(rows: Tensor, kept: Tensor | None) -> Tensor:
    return rows if kept is None else rows[kept.to(rows.device)]
