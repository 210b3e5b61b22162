"""``measure``: how collapsed the layers of a classifier are, and what follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from spectrank.collapse.certificates import NORMS, Norm, applicability
from spectrank.collapse.rows import (
    COLUMNS,
    Request,
    capped_rows,
    depth_rows,
    layer_rows,
    output_rows,
)
from spectrank.collapse.statistics import (
    Decay,
    EffectiveDecay,
    LayerStatistics,
    Statistics,
    decay_of,
    effective_decays,
    gather,
)
from spectrank.collapse.statistics.gather import KEEP_BYTES, Divisor
from spectrank.collapse.statistics.labels import TargetKind
from spectrank.collapse.statistics.settings import Scatter
from spectrank.errors import SpectrankError
from spectrank.model import Graph, graph
from spectrank.model.capture.choose import NORMS as NORM_LAYERS
from spectrank.model.capture.choose import Choices
from spectrank.model.capture.objective import LossLike
from spectrank.model.capture.step import Forward
from spectrank.model.capture.undisturbed import Mode, undisturbed
from spectrank.model.capture.unpack import Unpack, unpack_batch
from spectrank.scanning.provenance import environment
from spectrank.scanning.rows import skip_row
from spectrank.table import Table


def measure(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    loss: LossLike | None,
    weight_decay: float | Optimizer,
    decay: Decay = "coupled",
    layers: Choices = None,
    targets: TargetKind | None = None,
    num_classes: int | None = None,
    divisor: Divisor | None = None,
    scatter: Scatter = "full",
    precision: Literal["float64", "float32"] = "float64",
    ranks: Sequence[int] | None = None,
    norms: Sequence[Norm] = NORMS,
    alignments: bool = False,
    clusters: bool = False,
    positions: bool = True,
    batch_norm_frozen: bool = False,
    keep_bytes: int = KEEP_BYTES,
    rank_rtol: float = 1e-3,
    seed: int = 0,
    mode: Mode = "eval",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    unpack: Unpack | None = None,
    forward: Forward | None = None,
    batch_axis: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Table:
    r"""Collapse of every layer's features, and the rank that weight decay forces.

    One pass over the data, forward and backward; the model is left as it was. Of every
    linear layer and convolution, under the name of its weight:

    - of its input (``of`` = ``features``): ``wcv``, ``rtcv``, ``tcv``, ``pca_bracket``,
      ``nc1`` by variant, ``nc2_*``, ``subspace_angle``, ``nc4``; of the last layer
      ``nc3`` too; for regression ``nrc1``-``nrc3`` with K the rank of the targets.
      Rows of a convolution are patches; its ``nc4`` is of whole inputs;
    - of the loss for its output (``gradients``): ``wcv``, ``rtcv``, ``mean_square``,
      and ``gradient_rank`` of the first minibatch, with the number of its rows as
      ``index`` and the most that they allow as ``bound``;
    - of the weight: ``stationarity_residual``, ``distance_to_rank``, the checks
      ``rank_bound``, ``within_gradient_share`` and ``applicability``, and on request
      ``alignment_*``; with an optimizer ``window_rank``, its minibatches taken to be
      as large as the first of the loader.

    Then the outputs as the last features, and of the ``model`` accuracy, loss, the law
    of He & Su over layers, the effective depth, and ``norm_cap`` where one decay acts
    on all layers and the loss of a zero network is known.

    The bounds hold at any parameter value of the full loss of *this* loader in *this*
    mode: measure on the training data, as they were in training. Accurate to rounding
    where the features have collapsed to 1e-12; batches change rounding only. A layer
    that is used twice, or shares its weight, is one subject, summed over its uses.
    Source (derived): tests/collapse/test_collapse_measure.py.

    Args:
        model: A module.
        loader: Any iterable of batches, as `spectrank.capture` takes them.
        loss: The loss as trained: a name (mean over samples), an ``nn`` loss with its
            reduction, or a callable of raw output and batch that returns a sum
            together with ``divisor``. With ``reduction="sum"`` the gradient is the mean
            over batches of their sums, as the steps of an epoch see it. None for
            features alone, in a forward pass.
        weight_decay: The ``weight_decay`` of SGD or Adam, or the optimizer.
        decay: What the number means: ``coupled``; ``penalty`` for the coefficient w of
            a term w ||W||^2; ``decoupled`` for AdamW, where no bound follows.
        layers: As in `spectrank.capture`, or names of weights, as the rows have; None
            for all.
        targets: ``classes`` or ``regression``; None to go by loss and targets.
        num_classes: K; None for the size of the outputs.
        divisor: What the sum of a callable loss over the loader is divided by, or the
            part of it that a batch adds.
        scatter: ``full``, or ``trace`` for sums alone: NC1 on the span, brackets and
            the feature-spectrum bound are skipped then.
        precision: Of covariance products; ``float32`` is faster and states its error.
        ranks: Of the profile of distances and bounds.
        norms: Of the certificates: ``frobenius``, ``spectral``, ``nuclear``.
        alignments: Take the six alignments, for another scatter.
        clusters: Run k-means on the kept rows (needs scikit-learn), and certify by the
            best partitions found where all rows were kept, gradients too.
        positions: Also certify by (class, position) cells where those are few enough.
        batch_norm_frozen: The model was trained with the running statistics of its
            BatchNorms, as ``eval`` mode uses them.
        keep_bytes: Memory for rows of features, for NC4 and k-means. Where not all fit,
            a uniform sample is kept and the row says so, with a standard error.
        rank_rtol: Relative threshold of ``gradient_rank``.
        seed: Of that sample and of k-means.
        mode: In which the model runs; ``eval`` by default.
        device: Where batches go; None for the device of the model.
        dtype: Of floating-point inputs; None keeps it.
        unpack: As in `spectrank.capture`.
        forward: As in `spectrank.capture`.
        batch_axis: As in `spectrank.capture`.
        group: Processes to sum over; every one must call.

    Returns:
        Long table. A matrix without statistics is a ``skip`` row with the reason: of
        the layers chosen by ``layers``, of the whole model without it.

    Raises:
        DomainError: No batch, soft labels, an unknown loss, or an option out of range.
        ArgumentTypeError: An argument of another type.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> loader = [(torch.randn(12, 4), torch.arange(12) % 3)]
        >>> table = measure(model, loader, loss="cross_entropy", weight_decay=1e-2)
        >>> bounds = [row for row in table if row["metric"] == "rank_bound"]
        >>> any(row["verdict"] == "violated" for row in bounds)
        False
    """  # noqa: DOC502 - raised by the functions called
    decays = effective_decays(weight_decay, model, decay=decay)
    first: list[Any] = []
    statistics = gather(
        model,
        _remembered(loader, first),
        loss=loss,
        layers=layers,
        targets=targets,
        num_classes=num_classes,
        divisor=divisor,
        scatter=scatter,
        scatter_out="full" if alignments else "trace",
        precision=precision,
        positions=positions,
        keep_bytes=keep_bytes,
        keep_gradients=clusters and loss is not None,
        seed=seed,
        mode=mode,
        device=device,
        dtype=dtype,
        unpack=unpack,
        forward=forward,
        batch_axis=batch_axis,
        group=group,
    )
    request = Request(norms, ranks, clusters, alignments, rank_rtol, seed)
    rows: list[dict[str, Any]] = []
    owns = [_own(decays, layer) for layer in statistics.layers]
    with undisturbed(model, mode):
        wiring = None if forward is not None else _wiring(model, first[0], unpack)
        for layer, own in zip(statistics.layers, owns, strict=True):
            known = applicability(
                model,
                layer.name,
                own,
                graph=wiring,
                num_positions=layer.num_positions,
                batch_norm_frozen=batch_norm_frozen,
            )
            rows += layer_rows(layer, statistics, own, known, request)
    if loss is not None:
        optimizer = weight_decay if isinstance(weight_decay, Optimizer) else None
        rows += capped_rows(model, statistics, owns, loss=loss, optimizer=optimizer)
    rows += output_rows(statistics.outputs, statistics, request)
    rows += depth_rows(rows, [layer.weight_name for layer in statistics.layers])
    rows += [skip_row(skip) | {"metric": "collapse"} for skip in statistics.skips]
    return Table.from_rows(
        rows, columns=COLUMNS, provenance=_provenance(model, statistics, mode)
    )


def _own(
    decays: Mapping[str, EffectiveDecay] | EffectiveDecay, layer: LayerStatistics
) -> EffectiveDecay:
    aliases = tuple(f"{name}.weight" for name in layer.uses[1:])
    return decay_of(decays, layer.weight_name, aliases=aliases)


def _remembered(loader: Iterable[Any], first: list[Any]) -> Iterator[Any]:
    """Pass batches on and remember the first: a loader may be read only once."""
    for raw in loader:
        if not first:
            first.append(raw)
        yield raw


def _wiring(model: nn.Module, raw: Any, unpack: Unpack | None) -> Graph | None:
    """Trace a model that has norms: only they make a difference to the certificates."""
    if not any(isinstance(module, NORM_LAYERS) for module in model.modules()):
        return None
    if unpack is None:
        call = unpack_batch(raw, model, keep_targets=False)
    else:
        call = unpack(raw)
    try:
        return graph(model, tuple(call.args), kwargs=dict(call.kwargs))
    except SpectrankError:
        # The caveat then says that it is not known what follows the layer.
        return None


def _provenance(
    model: nn.Module, statistics: Statistics, mode: str | None
) -> dict[str, Any]:
    reading = statistics.reading
    return environment() | {
        "input": type(model).__name__,
        "loss": reading.loss,
        "mode": mode,
        "targets": reading.kind,
        "num_samples": statistics.num_samples,
        "num_batches": statistics.num_batches,
        "divisor": None if math.isnan(statistics.divisor) else statistics.divisor,
    }
