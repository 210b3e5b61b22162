r"""`Watch`: laws of a model followed step by step, against what each step predicts.

Two statements are kept apart. *Structure*: B(w, g) = 0 for the gradient g of a batch,
under any optimizer; that the law is a law. *Drift*: the value against its exact
prediction, which is known for gradient descent with or without momentum and decay.

``conserved``       the value moved by no more than rounding allows
``explained``       it moved, and the steps taken predict by how much, to rounding
``broken``          it left the prediction, or the gradient changes it to first order
``not_applicable``  there is no prediction: the optimizer has none, or a step was missed
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, final

import torch
from torch import nn
from torch.optim import Optimizer

from spectrank.errors import ArgumentTypeError
from spectrank.invariance.laws import Laws
from spectrank.invariance.watching.checks import (
    check_laws,
    check_optimizers,
    check_options,
)
from spectrank.invariance.watching.cost import Cost, cost_of
from spectrank.invariance.watching.ledger import Ledger
from spectrank.invariance.watching.narrowing import Features, narrowed
from spectrank.invariance.watching.rows import COLUMNS, suspects, told, watched_row
from spectrank.invariance.watching.rules import DecayForm
from spectrank.invariance.watching.steps import Training
from spectrank.scanning.provenance import environment
from spectrank.table import Table
from spectrank.train.calls import Calls

# Steps between two tests of the structure, which reads three times what a step does.
_STRUCTURE_EVERY = 50


@final
class Watch:
    r"""Follows laws of a model while an optimizer trains it; changes nothing.

    It hears of steps by the hooks of the optimizer, from its construction to
    ``remove()`` or the end of its ``with`` block; gradients are read as the step uses
    them, after clipping. Every step is accounted for; values are compared with the
    prediction every ``every`` steps, so that a break is placed between two of them.

    Exact predictions: SGD and ASGD, any minibatches and schedules, momentum, dampening,
    Nesterov, coupled decay, rates and decays that differ between parameters. Under
    different rates the parts of a law are divided by the ratios of the rates, which
    must stay fixed. Under Adam and its kin only structure is tested, and differences of
    parameters with equal gradients are predicted. Clipping by value or per layer breaks
    laws, and is reported so.

    What rounding may add is bounded at every step and stated as ``bound``: 4 u per step
    of the size of a law, with u the unit roundoff of the weights, and 2^10 units of the
    gradient. A change from outside is seen where it is larger than what rounding may
    have added since the last evaluation, so a watch sees the less the larger ``every``
    is: of float32 weights about 1e-2 of a law every 500 steps, 1e-4 every 10. Gradients
    in half precision are allowed 4 units, and between these and 2^10 the verdict is
    ``not_applicable``. The verdict is of each family; its row tells of the worst entry.

    A matrix law of more than ``features`` features is followed in the entries between
    some of them, in the norms of all and in one sum of all with random signs; it is
    ``broken`` where one of the three is, and ``reason`` says how much is followed.

    Cost: at each step one pass over the gradients (or momentum buffers) of all
    parameters with laws, at each evaluation one over the weights, twice as slow. On one
    core, of a step of a dense network of 1024 units at batch 128: a quarter with
    ``every=10``, half with ``every=1``. More for matrix laws, see `watching_cost`.

    Args:
        model: The module that is trained.
        laws: Of it.
        optimizer: That trains it; several where they step together.
        every: Steps between two evaluations.
        structure_every: Steps between two tests of the structure; also at the first.
        features: Largest number of features of a matrix law between which all entries
            are followed, spread evenly; ``all``.
        computed_in: Where gradients are computed in another dtype than that of the
            weights, as under autocast.
        inexact: Relative violation allowed to laws that hold for eps = 0 only.
        decay: ``decoupled`` where an optimizer of your own decays beside its step.
        as_type: Class of ``torch.optim`` whose update a subclass of it follows.
        run: Name of the run, for the column of that name.

    Raises:
        ArgumentTypeError: An argument of another type.
        DomainError: A number out of range, no law, half-precision weights, or an
            optimizer of another model.
        UnknownNameError: The model lacks a parameter of the laws, or ``as_type`` is no
            known class.

    Example:
        >>> import torch
        >>> from spectrank.invariance.laws import GramTerm, Law, Laws
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(3, 2, bias=False)
        ... ).double()
        >>> terms = (
        ...     GramTerm("0.weight", (3, 4), (0,), None, 1.0),
        ...     GramTerm("1.weight", (2, 3), (1,), None, -1.0),
        ... )
        >>> law = Law("matrix 0", "matrix", "gram", terms, (3, 3), 6, "", "derived")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with Watch(model, Laws((law,)), optimizer=optimizer, every=1) as watch:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(5, 4).double()).square().mean().backward()
        ...         optimizer.step()
        >>> watch.table().frame["verdict"].to_list()
        ['conserved', 'explained', 'explained', 'explained']
    """

    def __init__(
        self,
        model: nn.Module,
        laws: Laws,
        *,
        optimizer: Optimizer | Sequence[Optimizer],
        every: int = 10,
        structure_every: int = _STRUCTURE_EVERY,
        features: Features = 32,
        computed_in: torch.dtype | None = None,
        inexact: float = 1e-3,
        decay: DecayForm = "coupled",
        as_type: type[Optimizer] | None = None,
        run: str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(
                f"a model is a torch.nn.Module, got {type(model).__name__}; "
                "load a checkpoint into its module first"
            )
        numbers = {"every": every, "structure_every": structure_every}
        if features != "all":
            numbers["features"] = features
        check_options(**numbers)
        held = {id(p) for p in model.parameters()}
        optimizers = check_optimizers(optimizer, held)
        self._training = Training(model, optimizers, as_type)
        self._laws = check_laws(laws, self._training.parameters)
        self._followed = narrowed(self._laws, features)
        self._label = type(model).__name__
        self._settings = {**numbers, "inexact": inexact, "decay": decay}
        self._every, self._structure_every = every, structure_every
        self._run = run
        self._ledger = Ledger(
            self._followed.laws,
            self._training,
            computed_in=computed_in,
            inexact=inexact,
            decay=decay,
        )
        self._rows: list[dict[str, Any]] = []
        self._step = self._evaluated = 0
        self._done: set[int] = set()
        self._calls = Calls()
        self._removed = False
        self.rebase()
        self._hooks = [
            hook
            for one in optimizers
            for hook in (
                one.register_step_pre_hook(self._before),
                one.register_step_post_hook(self._after),
            )
        ]

    @property
    def step(self) -> int:
        """Number of steps seen."""
        return self._step

    @property
    def cost(self) -> Cost:
        """What a step and an evaluation read and compute."""
        return cost_of(self._followed, self._training.parameters)

    def rebase(self) -> None:
        """Compare with the present weights from now on; earlier rows are kept.

        A watch that was removed and is told to rebase does not listen again: it tells
        values, and has no prediction of them.
        """
        with torch.no_grad():
            self._ledger.start(self._step)
        if self._removed:
            self._ledger.lose("the watch was removed: steps are not seen")
        self.evaluate()

    def evaluate(self) -> None:
        """Compare now, between two steps; every ``every`` steps it comes by itself."""
        with torch.no_grad():
            found = self._ledger.evaluate(self._step)
        self._evaluated = self._step
        families = self._ledger.families
        groups = [[families[k] for k in group] for group in self._followed.groups]
        suspected = suspects(groups)
        for law, group, numbers, partly in zip(
            self._laws,
            groups,
            self._followed.groups,
            self._followed.partly,
            strict=True,
        ):
            own = [found[k] for k in numbers]
            chosen = told(group, own)
            row = watched_row(
                group[chosen],
                own[chosen],
                subject=law.name,
                run=self._run,
                partly=partly,
                suspects=suspected,
            )
            self._rows.append(row)

    def remove(self) -> None:
        """Evaluate the last step and stop listening; later steps are not seen."""
        if self._hooks and self._evaluated < self._step:
            self.evaluate()
        self._ledger.lose(f"steps after step {self._step} were not seen")
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._removed = True

    def table(self) -> Table:
        """Rows so far, of kind ``law``: one per family of laws and evaluation.

        Returns:
            Columns as in `spectrank.invariance.watching.rows.COLUMNS`; ``value`` and
            what belongs to it are of the entry ``index`` that is worst.
        """
        settings = dict(self._settings)
        provenance = {**environment(), "settings": settings, "steps": self._step}
        return Table.from_rows(self._rows, columns=COLUMNS, provenance=provenance)

    def __repr__(self) -> str:
        last = Counter(row["verdict"] for row in self._rows[-len(self._laws) :])
        told = ", ".join(f"{num} {verdict}" for verdict, num in sorted(last.items()))
        partly = sum(said is not None for said in self._followed.partly)
        share = f"; {partly} in part" if partly else ""
        where = f"{self._label}, step {self._evaluated}"
        return f"Watch({len(self._laws)} laws of {where}: {told}{share})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        frame = sys._getframe(1)
        if self._calls.nested(optimizer, frame):
            return
        coming = self._step + 1
        if self._done:
            self._ledger.go_on(optimizer, coming)
            return
        # A closure computes the gradients inside the step.
        closure = (args[1] if len(args) > 1 else None) or kwargs.get("closure")
        due = coming == 1 or coming % self._structure_every == 0
        with torch.no_grad():
            self._ledger.open(coming, due=due, closure=closure is not None)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._calls.over(optimizer, sys._getframe(1)):
            return
        if id(optimizer) in self._done:
            self._ledger.lose(
                f"in step {self._step + 1} one optimizer stepped twice, others did not"
            )
        self._done.add(id(optimizer))
        if len(self._done) < len(self._training.optimizers):
            return
        self._done.clear()
        self._step += 1
        with torch.no_grad():
            self._ledger.close(self._step)
        if self._step % self._every == 0:
            self.evaluate()
