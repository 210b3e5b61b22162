"""One forward pass over a block of samples, and backward passes one logit at a time.

A backward pass is of the sum over samples of one logit: samples do not meet, so its
derivative at a sample is that of the sample alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.model.capture.choose import choose_layers
from spectrank.model.capture.recorder import Call, Recorder
from spectrank.model.capture.tensors import logits
from spectrank.model.capture.undisturbed import (
    RandomStream,
    plain_execution,
    undisturbed,
)
from spectrank.ntk.layerwise.contract import Factors
from spectrank.ntk.layerwise.factors import Axes, gradient_factor, input_factor
from spectrank.ntk.layerwise.rules import EMBEDDING, Group


def run(
    model: nn.Module,
    layers: Sequence[str],
    x: Tensor,
    *,
    parameters: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, list[Call]]]:
    """Run a model and record the calls of layers; the model is left as it was.

    Args:
        model: The user's model; in the mode that it is in.
        layers: Names of modules.
        x: Inputs (n, ...).
        parameters: What to run it with in place of its own, by name.

    Returns:
        Outputs (n, c) with their graph, and the calls by layer.

    Raises:
        ArgumentTypeError: The model returns no tensor.
        ShapeError: Its outputs are not (n, c).
    """
    recorder = Recorder(choose_layers(model, list(layers)), gradients=True)
    with (
        RandomStream().active(),
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        undisturbed(model, None),
        plain_execution(model),
        recorder.installed(),
    ):
        x = x.clone() if x.is_inference() else x
        outputs = logits(functional_call(model, dict(parameters or {}), (x,)))
    recorder.stop()
    if outputs is None:
        raise ArgumentTypeError(
            "the model must return a tensor (batch, classes), it returns none; "
            "wrap it in a module that does"
        )
    if outputs.ndim != 2 or outputs.shape[0] != x.shape[0]:
        raise ShapeError(
            f"outputs must be (batch, classes) for a batch of {x.shape[0]}, "
            f"got {tuple(outputs.shape)}; wrap the model in a module that selects them"
        )
    calls: dict[str, list[Call]] = {name: [] for name in layers}
    for call in recorder.calls:
        calls[call.layer.name].append(call)
    return outputs, calls


@final
class Side:
    """A block of samples run once; gives the two factors of every group.

    Args:
        model: The user's model.
        groups: Of parameters.
        axes: Where the samples are, by layer.
        x: Inputs of the block.

    Attributes:
        inputs: Input factor of every group.
        shapes: (n, R, T, q) of its gradient factor.
        num_rows: V of an embedding, 0 for other layers.
        stacked: Gradient factors of all logits (k, n, R, T, q), by index of the group.
        complete: Groups of which all logits are stacked.
        num_samples: n.
        num_outputs: c, the number of logits.
        like: Of the dtype and on the device of the outputs.
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[Group], axes: Axes, x: Tensor
    ) -> None:
        layers = list(dict.fromkeys(n for g in groups for n in g.layers))
        self.num_samples = x.shape[0]
        self._outputs, calls = run(model, layers, x)
        self.num_outputs = self._outputs.shape[1]
        self.stacked: dict[int, Tensor] = {}
        self.complete: frozenset[int] = frozenset()
        self.like = self._outputs.detach()[:0]
        self._groups = groups
        self._axes = axes
        self._calls = [[c for n in g.layers for c in calls[n]] for g in groups]
        if empty := [g for g, c in zip(groups, self._calls, strict=True) if not c]:
            raise DomainError(
                "a layer must run on every block of samples, "
                f"{empty[0].layers[0]} did not run on one; leave its parameters to "
                "method='jacobian'"
            )
        self.inputs = [
            input_factor(group, calls, self.num_samples, axes)
            for group, calls in zip(groups, self._calls, strict=True)
        ]
        self.shapes = [self._shape(index) for index in range(len(groups))]
        self.num_rows = [self._num_rows(index) for index in range(len(groups))]

    @property
    def num_bytes(self) -> int:
        """About what is held between the passes: factors and the graph."""
        taps = {id(c): c.tap for calls in self._calls for c in calls}
        factors = [h for h in self.inputs if h is not None]
        # Beside what a layer gives, what flows on and what comes of it are kept.
        graph = 3 * sum(t.nbytes for t in taps.values())
        return graph + sum(h.nbytes for h in factors)

    def gradients(self, logit: int | None, groups: Sequence[int]) -> dict[int, Tensor]:
        """Gradient factors of one logit; a backward pass.

        Args:
            logit: Which; None for the sum of all.
            groups: Indices of groups.

        Returns:
            g (n, R, T, q) by index of the group.
        """
        taps: dict[int, Tensor] = {}
        for index in groups:
            taps.update((id(c), c.tap) for c in self._calls[index])
        found: dict[int, Tensor | None] = dict.fromkeys(taps)
        # The sum needs a graph even where the caller wants none.
        with torch.enable_grad():
            chosen = self._outputs if logit is None else self._outputs[:, logit]
            scalar = chosen.sum()
        if taps and scalar.requires_grad:
            values = torch.autograd.grad(
                scalar, list(taps.values()), retain_graph=True, allow_unused=True
            )
            found = dict(zip(taps, values, strict=True))
        return {
            index: gradient_factor(
                self._groups[index],
                self._calls[index],
                [found[id(call)] for call in self._calls[index]],
                self.num_samples,
                self._axes,
            )
            for index in groups
        }

    def let_go(self) -> None:
        """Drop the graph; only what is stacked is needed from now on."""
        self._outputs = self.like
        self._calls = []

    def _shape(self, index: int) -> tuple[int, int, int, int]:
        """(n, R, T, q) of a gradient factor, known before a backward pass."""
        group, calls = self._groups[index], self._calls[index]
        h, n = self.inputs[index], self.num_samples
        module: Any = calls[0].layer.module
        if h is None:
            sizes = [
                getattr(module, p.rpartition(".")[2]).numel() for p in group.params
            ]
            return n, 1, 1, sum(sizes)
        if group.rule == EMBEDDING:
            return n, 1, h.shape[1], module.embedding_dim
        return n, h.shape[1], h.shape[2], len(module.weight) // h.shape[1]

    def _num_rows(self, index: int) -> int:
        """V of an embedding, 0 for other layers."""
        module: Any = self._calls[index][0].layer.module
        embedding = self._groups[index].rule == EMBEDDING
        return int(module.num_embeddings) if embedding else 0


@final
@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples of a run: one side of a block of a kernel.

    Attributes:
        side: The run.
        start: First sample.
        stop: Behind the last.
    """

    side: Side
    start: int
    stop: int

    @classmethod
    def whole(cls, side: Side) -> Part:
        """All samples of a run.

        Args:
            side: The run.

        Returns:
            The part.
        """
        return cls(side, 0, side.num_samples)

    @classmethod
    def halves(cls, side: Side, first: int) -> tuple[Part, Part]:
        """The samples of two sets that were run as one.

        Args:
            side: The run.
            first: Samples of the first set.

        Returns:
            The parts.
        """
        return cls(side, 0, first), cls(side, first, side.num_samples)

    def __len__(self) -> int:
        return self.stop - self.start

    def factors(self, index: int, gradients: Tensor) -> Factors:
        """Both factors of a group.

        Args:
            index: Of the group.
            gradients: Factor (k, n, R, T, q) of the whole run.

        Returns:
            Of the part.
        """
        h, rows = self.side.inputs[index], slice(self.start, self.stop)
        g = gradients[:, rows]
        return Factors(None if h is None else h[rows], g, self.side.num_rows[index])
