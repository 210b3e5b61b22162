"""`closeness`: how far each layer is from its initialisation, and from noise."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from spectrank.errors import CheckpointError, SpectrankWarning
from spectrank.init.closeness.checks import check_room, checked_draws
from spectrank.init.closeness.layer import make_layer
from spectrank.init.closeness.nulls import Nulls
from spectrank.init.closeness.references import references
from spectrank.init.closeness.rows import COLUMNS, Row, layer_rows, unmeasured_rows
from spectrank.linalg import DEFAULT_RTOL, Need, spectrum
from spectrank.model import (
    Skip,
    Source,
    Views,
    WeightMatrix,
    describe,
    iter_weights,
)
from spectrank.scanning.patterns import check_patterns, check_types
from spectrank.scanning.provenance import InputHash, described, environment
from spectrank.scanning.rows import matrix_key, skip_row, unread_row
from spectrank.table import Table

DEFAULT_LEVEL = 1e-3
_FACTOR = "factor of the parametrised weight"
_FACTOR_HINT = (
    "factor of a parametrised weight, which is not stored itself; save after "
    "torch.nn.utils.parametrize.remove_parametrizations (weight_norm of old: "
    "torch.nn.utils.remove_weight_norm), or pass the module"
)


def closeness(
    source: Source,
    *,
    select: str | Sequence[str] | None = None,
    views: Views = None,
    level: float = DEFAULT_LEVEL,
    num_draws: int | None = None,
    bulk: bool = True,
    rtol: float = DEFAULT_RTOL,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Table:
    r"""Compare every weight matrix with fresh ones and with noise of its stable rank.

    Two checks a matrix, each with its reason:

    - ``at_initialisation``: ``holds`` if spectrum and scale are those of He, LeCun,
      Glorot or PyTorch's default entries, or all singular values are equal
      (orthogonal); ``violated`` if no matrix of independent entries looks so;
      ``inconclusive`` if they do but no listed initialisation has their deviation.
    - ``explained_by_stable_rank``: ``holds`` if the singular values after the first are
      those of a Gaussian matrix conditioned on this stable rank; ``violated`` means
      rank structure beyond it.

    The value of a check is a p-value, its bound the level: a fresh normal layer fails
    the first with at most that probability (spectrum and scale are two tests, so the
    smaller p-value counts twice), one drawn from the conditioned law fails the second
    with about that probability. For uniform entries the spectrum is the same to leading
    order and the level of the first is met closely too, not exactly. A layer that
    ``holds`` may still have been trained a little: what cannot be told from fresh is
    not proved fresh. Spectra do not tell laws of entries apart; the words of the reason
    use their kurtosis.

    Measurements have a row for the matrix and a row with ``variant`` for each
    reference: its mean as ``value``, 4 standard errors as enclosure, the spread of the
    ensemble as ``deviation`` and the matrix's place in it as ``z_score``.
    Source (derived): tests/init/closeness.

    Args:
        source: Module, mapping of names to tensors, or path to a safetensors or
            PyTorch file or a folder of them.
        select: Glob pattern(s) on the names; all by default.
        views: Glob pattern -> view, where the view is not to be inferred; or one view
            for every tensor that it fits.
        level: Probability of a false alarm of each check on a matrix, in [1e-6, 0.5].
        num_draws: Gaussian matrices drawn a shape, in O(min(m, n)) time and 16
            min(m, n) bytes each, 8 GiB at most; by default the fewest that reach the
            level, 2 / level, and 199 at least.
        bulk: Whether to compute all singular values of every matrix; without, only
            where they come with the norms (up to an order of some hundreds): what
            follows the first singular value of a larger matrix is judged by its
            participation ratio, without its stable rank and the distance to noise.
        rtol: Largest relative width of the enclosure of the spectral norm.
        seed: Of the draws and the random starts.
        progress: Called with name, matrices done and matrices in all before each.

    Returns:
        Table with rows of kind ``check``, ``measurement`` and ``skip``.

    Raises:
        ArgumentTypeError: If an argument is of another type.
        DomainError: If the level or the draws are out of range, the source has no
            tensors, a pattern matches none, or the draws do not fit in memory.

    Example:
        >>> import torch, spectrank as sr
        >>> from spectrank.init.closeness import closeness
        >>> table = closeness({"fc.weight": torch.eye(8)})
        >>> table.where(metric="at_initialisation").frame["reason"][0]
        'orthogonal, gain 1: all 8 singular values are equal'
    """  # noqa: DOC502 - raised by the functions called
    num_draws = checked_draws(level, num_draws)
    started = time.perf_counter()
    provenance = environment()
    check_types(select, views)
    weights = list(iter_weights(source, select=select, views=views, split=False))
    check_patterns(weights, select, views, what="a report")
    check_room(weights, num_draws)
    info = describe(source)
    digest = InputHash(info.files)
    report = _Report(
        Nulls(num_draws, seed), level, bulk, rtol, seed, info.kind != "module"
    )
    devices: set[str] = set()
    rows = report.all_rows(weights, devices, progress)
    settings = {
        "select": [select] if isinstance(select, str) else select,
        "views": dict(views) if isinstance(views, Mapping) else views,
        "level": level,
        "num_draws": num_draws,
        "bulk": bulk,
        "rtol": rtol,
    }
    provenance |= {
        **described(info, digest.result(), ", ".join(sorted(devices)) or "cpu"),
        "seed": seed,
        "settings": settings,
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)


@final
@dataclass(frozen=True, eq=False)
class _Report:
    """Settings of one report and the nulls its matrices share."""

    nulls: Nulls
    level: float
    bulk: bool
    rtol: float
    seed: int
    stored: bool

    def all_rows(
        self,
        weights: Sequence[WeightMatrix | Skip],
        devices: set[str],
        progress: Callable[[str, int, int], None] | None,
    ) -> list[Row]:
        """Rows in the model's order; a matrix that cannot be read is one of them."""
        count = sum(isinstance(weight, WeightMatrix) for weight in weights)
        rows: list[Row] = []
        unread: list[str] = []
        done = 0
        for weight in weights:
            if isinstance(weight, Skip):
                rows.append(_skipped(_with_hint(skip_row(weight), self.stored)))
                continue
            if progress:
                progress(weight.name, done, count)
            done += 1
            try:
                rows += self._rows(weight, devices)
            except CheckpointError as error:
                unread.append(weight.name)
                rows.append(_skipped(unread_row(weight, error)))
        if unread:
            warnings.warn(
                f"{len(unread)} of the tensors could not be read, first {unread[0]}; "
                "their rows of kind 'skip' say why",
                SpectrankWarning,
                stacklevel=3,
            )
        return rows

    def _rows(self, weight: WeightMatrix, devices: set[str]) -> list[Row]:
        W = weight.tensor()
        devices.add(str(W.device))
        needs: list[Need] = ["frobenius", "sigma_max", "schatten4"]
        if self.bulk:
            needs.append("sigma")
        s = spectrum(W, needs, rtol=self.rtol, seed=self.seed)
        key = _without_inferred(matrix_key(weight))
        if s.status != "ok":
            return unmeasured_rows(key, s)
        layer = make_layer(W, s)
        m, n = s.shape
        known = references(m, n, kernel=_kernel(weight), layer_type=weight.layer_type)
        rest = self.nulls.of(m - 1, n - 1) if layer.size > 1 else None
        return layer_rows(key, layer, s, self.nulls.of(m, n), rest, known, self.level)


def _skipped(row: Row) -> Row:
    return _without_inferred(row) | {"metric": "closeness"}


def _with_hint(row: Row, stored: bool) -> Row:
    # Of a module the weight itself is looked at, from its factors.
    if not (stored and str(row["reason"]).startswith(_FACTOR)):
        return row
    return row | {"reason": _FACTOR_HINT}


def _without_inferred(row: Row) -> Row:
    return {k: v for k, v in row.items() if k not in {"inferred", "note"}}


def _kernel(weight: WeightMatrix) -> int:
    """Entries of a kernel for each pair of channels."""
    if weight.view != "conv-unfolded":
        return 1
    return math.prod(weight.load().shape[2:])
