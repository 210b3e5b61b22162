r"""`Tracker`: per-layer metrics of a model while it trains.

What a row is worth, for metrics of the norms (stable rank, spectral and Frobenius
norm), on matrices whose shorter side is above 32:

- Rows of a full enclosure (``route`` lanczos-...), at least every ``refresh`` steps:
  both ends, ``rtol`` wide in the spectral norm, at the stated failure probability.
- Rows between (``route`` warm-start): the value follows a carried singular vector. Its
  spectral norm can only be too small and its stable rank too large, and that end is
  proved. Of the other end only what needs no luck is said: sigma_1 <= ||W||_F, a stable
  rank of at least 1; or, with ``drift=True``, sigma_1 at the last full enclosure plus
  the distance the matrix moved since.
- ``lag``, in rows of a full enclosure: by which share the carried vector fell short.

Smaller matrices are measured in full at every tick. Metrics that read every singular
value take a full spectrum each time, at their own pace ``spectrum_every``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, final

import torch
from torch import nn
from torch.optim import Optimizer

from spectrank.errors import DomainError
from spectrank.linalg import (
    DEFAULT_FAILURE_PROBABILITY,
    Need,
    Spectrum,
    spectrum,
)
from spectrank.metrics import Metric
from spectrank.model import (
    Skip,
    WeightMatrix,
)
from spectrank.scanning import parse_metrics
from spectrank.scanning.requests import MetricRequest
from spectrank.scanning.rows import skip_row
from spectrank.table import Table
from spectrank.train.observers import Attachment, Observer, Step
from spectrank.train.sinks import MemorySink, Sink
from spectrank.train.tracker.live import LearningRates
from spectrank.train.tracker.options import (
    check_sink,
    make_pace,
    provenance,
    weights_of,
)
from spectrank.train.tracker.rows import COLUMNS, Moment, left_row, tracked_rows
from spectrank.train.tracker.slots import Slot, Slots

# Ticks that are kept as numbers on the device before they become rows.
_BUFFER = 32
# And no more than these steps: what is not in the sink is lost in a kill.
_BUFFER_STEPS = 500
_NORMS: frozenset[Need] = frozenset({"frobenius", "sigma_max"})


@final
class Tracker(Observer):
    """Measures the matrices of a model while it trains, and leaves the training alone.

    Tell it of steps as any `Observer`: ``tracker.observe(optimizer, loss)`` after
    ``optimizer.step()``, or ``with tracker.attach(optimizer):``. Rows go to the sink;
    what is not there yet, at most 32 ticks or 500 steps, goes there with ``flush`` or
    ``close``.

    Nothing of the model, the optimizer or the global random state is changed: a run
    with a tracker is bit for bit the run without. Under torch.distributed use it on
    one rank.

    Cost of a tick: the matrix is read once a product and once for its Frobenius norm
    (twice more with ``drift``, and a copy of the weights is kept). Cost of a full
    enclosure: about 15 to 40 products. Cost of a metric that reads every singular
    value: a full spectrum, 60 ms for 1024 x 1024 on two cores, growing with the cube.

    Args:
        model: The module that is trained; every matrix that `iter_weights` finds.
        metrics: As in `scan`. ``stable_rank``, ``spectral_norm`` and
            ``frobenius_norm`` follow each tick, the others ``spectrum_every``.
        every: Steps between two ticks.
        select: Glob pattern(s) of names.
        views: Glob pattern -> view.
        sink: Where rows go; a `MemorySink` by default.
        run: Name of the run, for the column of that name.
        rtol: Relative width of a full enclosure of the spectral norm. A value between
            is ``not_converged`` where its vector turned by more than twice this in a
            step of power iteration.
        failure_probability: Of the upper end of each full enclosure.
        refresh: Most steps between two full enclosures of a matrix; the matrices take
            turns. One comes earlier where the energy outside the carried direction,
            ``||W||_F^2 - ||W x||^2``, has grown by half of sigma_1^2, because then a
            direction unseen so far may take the lead: often in the first steps of
            training, every 50 to 500 steps later (MLP on MNIST).
        num_products: Half steps of power iteration a tick.
        drift: Bound the upper end between full enclosures by the distance moved.
            Useful for small learning rates: it is the whole of ``||W - W_s||_F``.
        spectrum_every: Steps between two full spectra, where a metric reads them.
        seed: Of the random start vectors.
        first_step: Steps done before, where a run is resumed.

    Raises:
        ArgumentTypeError: If an argument is of a wrong type.
        DomainError: If an argument is out of range, or the model has no matrix.
        UnknownNameError: If a metric or view does not exist.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> tracker = Tracker(model)
        >>> with tracker.attach(optimizer):
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(4, 8)).square().mean().backward()
        ...         optimizer.step()
        >>> rows = tracker.table().where(kind="measurement", subject="0.weight")
        >>> rows.frame["step"].to_list()
        [1, 2, 3]
        >>> sorted(tracker.latest)
        ['0.weight', '1.weight']
    """

    def __init__(
        self,
        model: nn.Module,
        metrics: str | Metric | Iterable[str | Metric] = "stable_rank",
        every: int = 1,
        *,
        select: str | Sequence[str] | None = None,
        views: Mapping[str, str] | None = None,
        sink: Sink | None = None,
        run: str | None = None,
        rtol: float = 0.05,
        failure_probability: float = DEFAULT_FAILURE_PROBABILITY,
        refresh: int = 1000,
        num_products: int = 1,
        drift: bool = False,
        spectrum_every: int = 100,
        seed: int = 0,
        first_step: int = 0,
    ) -> None:
        super().__init__(first_step=first_step)
        self._pace = make_pace(
            every=every,
            spectrum_every=spectrum_every,
            rtol=rtol,
            failure_probability=failure_probability,
            refresh=refresh,
            num_products=num_products,
            seed=seed,
        )
        self._run, self._every, self._spectrum_every = run, every, spectrum_every
        requests = parse_metrics(metrics)
        self._fast = [r for r in requests if r.needs <= _NORMS]
        self._slow = [r for r in requests if not r.needs <= _NORMS]
        self._sink: Sink = MemorySink() if sink is None else sink
        check_sink(self._sink)
        weights = weights_of(model, select, views)
        # Rows ready for the sink; what is no matrix is told once.
        self._rows: list[dict[str, Any]] = [
            {**skip_row(w), "metric": "track", "run": run}
            for w in weights
            if isinstance(w, Skip)
        ]
        self._slots = Slots(
            [w for w in weights if isinstance(w, WeightMatrix)],
            model,
            views,
            self._pace,
            drift=drift,
            num_ticks=_BUFFER,
        )
        self._devices = self._slots.devices
        self._trained = {id(parameter) for parameter in model.parameters()}
        self._moments: list[Moment] = []
        self._rates = LearningRates.of(())
        self._last_look: int | None = None
        self._latest: dict[str, float] = {}
        settings = {
            "every": every,
            "select": [select] if isinstance(select, str) else select,
            "views": dict(views) if views else None,
            "rtol": rtol,
            "failure_probability": failure_probability,
            "refresh": refresh,
            "num_products": num_products,
            "drift": drift,
            "spectrum_every": spectrum_every,
        }
        self._provenance = provenance(model, requests, seed, settings)

    def attach(self, *optimizers: Optimizer) -> Attachment:
        """Measure after every step of these optimizers, by their post-step hooks.

        Args:
            *optimizers: One, or all that make up a step together.

        Returns:
            A handle: ``remove()`` it, or use it in a ``with`` block.

        Raises:
            DomainError: None of them trains the model, or as `Observer.attach`.
        """
        attachment = super().attach(*optimizers)
        held = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
        if not held & self._trained:
            attachment.remove()
            raise DomainError(
                "a tracker is attached to an optimizer of its model, got one that "
                "holds none of its parameters; make it from model.parameters()"
            )
        return attachment

    def on_step(self, step: Step) -> None:
        """Measure, where this step is one of those to measure."""
        fast = bool(self._fast) and step.index % self._every == 0
        slow = bool(self._slow) and step.index % self._spectrum_every == 0
        if fast or slow:
            self._look(step, fast, slow)

    def measure(self) -> None:
        """Measure now, with every metric; once a step. For step 0, or the last one."""
        if self._last_look != self._step:
            step = Step(self._step, (), None)
            self._look(step, bool(self._fast), bool(self._slow))

    def flush(self) -> None:
        """Bring all rows into the sink and have it make them safe."""
        self._drain()
        self._sink.flush()

    def close(self) -> None:
        """Bring all rows into the sink and close it; detach where attached."""
        if self._attachment is not None:
            self._attachment.remove()
        try:
            self._drain()
        finally:
            self._sink.close()

    def table(self) -> Table:
        """Return all rows so far, from the sink."""
        self._drain()
        return self._sink.table()

    @property
    def latest(self) -> dict[str, float]:
        """The newest value by name, for a progress bar.

        Of the first metric that follows every tick; of the first one where all read
        full spectra, and then empty until ``spectrum_every`` steps are done.
        """
        self._drain()
        return dict(self._latest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look(self, step: Step, fast: bool, slow: bool) -> None:
        self._last_look = step.index
        if self._slots.disturbed:
            self._settle(step.index)
        if not self._rates.fits(step.optimizers):
            self._rates = LearningRates.of(step.optimizers)
        rates = [self._rates.rate(slot.live.parameter) for slot in self._slots]
        moment = Moment(step.index, step.loss, rates)
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for kind in self._devices:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            if fast:
                # Backwards: the optimizer wrote the last ones last, they are still in
                # the cache. A fifth of a tick on an MLP of 16 MB.
                for slot in reversed(self._slots):
                    matrix = slot.live.matrix()
                    slot.follower.tick(len(self._moments), matrix, step.index)
                self._moments.append(moment)
            if slow:
                self._drain()
                self._take_spectra(moment)
        if self._moments and (
            len(self._moments) == _BUFFER
            or step.index - self._moments[0].step >= _BUFFER_STEPS
        ):
            self._drain()

    def _take_spectra(self, moment: Moment) -> None:
        needs = frozenset[Need]().union(*(request.needs for request in self._slow))
        for slot, rate in zip(self._slots, moment.rates, strict=True):
            s = spectrum(
                slot.live.matrix(),
                needs,
                failure_probability=self._pace.failure_probability,
                seed=self._pace.seed,
            )
            self._add(slot, s, self._slow, moment, rate, None)
        self._drain()

    def _drain(self) -> None:
        """Turn the ticks since the last time into rows, and hand rows to the sink."""
        moments, self._moments = self._moments, []
        count = len(moments)
        readings = [slot.follower.read(count) for slot in self._slots if count]
        for k, moment in enumerate(moments):
            for slot, read, rate in zip(
                self._slots, readings, moment.rates, strict=True
            ):
                self._add(slot, read[k].norms, self._fast, moment, rate, read[k].lag)
        if self._rows:
            rows, self._rows = self._rows, []
            self._sink.append(
                Table.from_rows(rows, provenance=self._provenance, columns=COLUMNS)
            )

    def _add(
        self,
        slot: Slot,
        norms: Spectrum,
        requests: Sequence[MetricRequest],
        moment: Moment,
        rate: float | None,
        lag: float | None,
    ) -> None:
        rows = tracked_rows(
            slot.live.weight,
            norms,
            requests,
            run=self._run,
            moment=moment,
            rate=rate,
            lag=lag,
        )
        if requests is (self._fast or self._slow):
            self._latest[slot.live.weight.name] = rows[0]["value"]
        self._rows += rows

    def _settle(self, step: int) -> None:
        """Follow what was replaced; say which matrices are gone."""
        self._drain()
        self._rates = LearningRates.of(())
        for weight in self._slots.settle():
            self._rows.append(left_row(weight, self._run, step))
            self._latest.pop(weight.name, None)
        self._devices = self._slots.devices
