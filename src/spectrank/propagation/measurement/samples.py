"""Numbers per sample of what a layer took or gave, whatever its axes mean.

N  samples      P  positions (tokens, pixels)      d  features
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from spectrank.errors import SpectrankError
from spectrank.linalg.shapes import Float64
from spectrank.model import LayerBatch
from spectrank.propagation.measurement.wording import told


def log_squares(
    record: LayerBatch, rows: Tensor, *, of_inputs: bool = False
) -> Float64[Tensor, " N"]:
    """Logarithm of every sample's squared norm over all its unmasked positions.

    Args:
        record: The layer.
        rows: (rows, d), as ``output_rows`` or ``input_rows`` give them for
            ``select="unmasked"``.
        of_inputs: Whether they are rows of the inputs.

    Returns:
        (N,) float64; minus infinity for a sample of zeros.
    """
    side = "inputs" if of_inputs else "outputs"
    samples = record.row_samples(select="unmasked", of=side)  # type: ignore[arg-type]
    num = record.num_samples
    assert num is not None
    wide = rows.to(torch.float64)
    # Scaled by the largest entry: 1e-200 squared would be no signal at all.
    scale = wide.abs().amax() if wide.numel() else wide.new_tensor(1.0)
    if not bool(scale > 0) or not bool(scale.isfinite()):
        scale = torch.ones_like(scale)
    squares = (wide / scale).square().sum(1)
    total = squares.new_zeros(num).index_add_(0, samples.to(squares.device), squares)
    return total.log() + 2.0 * scale.log()


def log_norms(x: Float64[Tensor, "*batch d"]) -> Float64[Tensor, "*batch"]:
    """Logarithms of squared norms, of vectors of 1e-200 too.

    Args:
        x: Vectors along the last axis.

    Returns:
        Minus infinity for zeros.
    """
    scale = _largest(x)
    return (x / scale).square().sum(-1).log() + 2.0 * scale[..., 0].log()


def pair_angles(
    u: Float64[Tensor, "*batch d"], v: Float64[Tensor, "*batch d"]
) -> tuple[Tensor, Tensor, Tensor]:
    """What `Angles` takes in of pairs of vectors.

    Args:
        u: First of each pair.
        v: Second of each pair.

    Returns:
        Cosines (NaN beside a zero vector), and the logarithms of |u|^2 and |v|^2.
    """
    # Scaled first: the square of 1e-200 is zero.
    unit, other = (
        nn.functional.normalize(w / _largest(w), dim=-1, eps=0.0) for w in (u, v)
    )
    return (unit * other).sum(-1), log_norms(u), log_norms(v)


def _largest(x: Tensor) -> Tensor:
    """Largest absolute entry along the last axis; 1 where that is no scale."""
    largest = x.abs().amax(-1, keepdim=True)
    return torch.where((largest > 0) & largest.isfinite(), largest, 1.0)


def vectors(record: LayerBatch, rows: Tensor) -> Float64[Tensor, "N dim"] | None:
    """Every sample as one vector; None where samples have different numbers of rows.

    Args:
        record: The layer.
        rows: (rows, d) of its outputs, ``select="unmasked"``.

    Returns:
        (N, positions * d) float64.
    """
    samples = record.row_samples(select="unmasked")
    num = record.num_samples
    assert num is not None
    counts = torch.bincount(samples, minlength=num)
    if not bool((counts == counts[0]).all()):
        return None
    ordered = rows[torch.argsort(samples, stable=True)]
    return ordered.reshape(num, -1).to(torch.float64)


def laid_out(record: LayerBatch, outputs: Tensor) -> LayerBatch | None:
    """The record of a layer with the outputs of its activation in place of its own.

    An activation does not tell which axis holds its features; the layer before it does.

    Args:
        record: The layer.
        outputs: Of its activation, perhaps flattened in between.

    Returns:
        A record in the layout of the layer; None where entries were added or lost.
    """
    shape = record.outputs.shape
    if outputs.numel() != shape.numel() or outputs.shape[0] != shape[0]:
        return None
    return replace(record, outputs=outputs.reshape(shape))


def flat(x: Tensor, num: int, samples_axis: int) -> Float64[Tensor, "N dim"] | None:
    """An input of the model as one vector per sample; None where it is no number.

    Args:
        x: As the model takes it.
        num: N.
        samples_axis: Axis of the samples.

    Returns:
        (N, dim) float64.
    """
    if not x.is_floating_point() or x.ndim <= samples_axis:
        return None
    if x.shape[samples_axis] != num:
        return None
    return x.movedim(samples_axis, 0).reshape(num, -1).to(torch.float64)


def readable(record: LayerBatch) -> str | None:
    """Why the samples of a record cannot be told apart; None where they can.

    Args:
        record: The layer.

    Returns:
        A reason or None.
    """
    if record.num_samples is None:
        return "the batch does not tell how many samples it has; pass batch_axis="
    try:
        record.row_samples(select="unmasked")
    except SpectrankError as error:
        return told(error)
    return None
