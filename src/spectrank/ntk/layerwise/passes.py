"""One forward pass over some samples, and backward passes one logit at a time.

A backward pass is of the sum over samples of one logit: samples do not meet, so its
derivative at a sample is that of the sample alone. All logits go in one pass where
torch can carry them side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.model.capture.choose import choose_layers
from spectrank.model.capture.recorder import Call, Recorder
from spectrank.model.capture.tensors import logits
from spectrank.model.capture.undisturbed import (
    RandomStream,
    plain_execution,
    undisturbed,
)
from spectrank.ntk.layerwise.contract import Size
from spectrank.ntk.layerwise.factors import Axes, gradient_factor, input_factor
from spectrank.ntk.layerwise.rules import EMBEDDING, Group

Logits = tuple[int | None, ...]


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
class Pass:
    """Some samples run once; gives the two factors of every group.

    Args:
        model: The user's model.
        groups: Of parameters.
        axes: Where the samples are, by layer.
        x: Inputs of the samples.

    Attributes:
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
        self.like = self._outputs.detach()[:0]
        self._groups = groups
        self._axes = axes
        # torch carries logits through a convolution one after the other, and copies.
        self._batched = not any(isinstance(m, _ConvNd) for m in model.modules())
        self._calls = [[c for n in g.layers for c in calls[n]] for g in groups]
        if empty := [g for g, c in zip(groups, self._calls, strict=True) if not c]:
            raise DomainError(
                "a layer must run on every block of samples, "
                f"{empty[0].layers[0]} did not run on one; leave its parameters to "
                "method='jacobian'"
            )

    def sample_bytes(self, num_logits: int) -> int:
        """About what a sample holds during the passes: graph and gradients.

        Args:
            num_logits: Whose gradients are asked for.

        Returns:
            Bytes.
        """
        taps = {id(c): c.tap for calls in self._calls for c in calls}
        # Beside what a layer gives, what flows on and what comes of it are kept.
        copies = 3 + (num_logits if self._batched else 1)
        total = copies * sum(t.nbytes for t in taps.values())
        return max(1, total // max(1, self.num_samples))

    def inputs(self, index: int, *, columns: bool = False) -> Tensor | None:
        """Input factor of a group.

        Args:
            index: Of the group.
            columns: Whether its positions are innermost in memory.

        Returns:
            (n, R, T, p), indices (n, T), or None.
        """
        return input_factor(
            self._groups[index],
            self._calls[index],
            self.num_samples,
            self._axes,
            columns=columns,
        )

    def gradients(self, chosen: Logits) -> Iterator[tuple[slice, list[Tensor]]]:
        """Gradient factors of every group for some logits; the graph is freed.

        Args:
            chosen: Logits; ``(None,)`` for their sum.

        Yields:
            Which of them, and by group their factors (k, n, R, T, q).
        """
        calls = {id(c): c for calls in self._calls for c in calls}
        taps = [call.tap for call in calls.values()]
        seeds = _seeds(self._outputs, chosen)
        if self._batched and len(seeds) > 1 and self._outputs.requires_grad:
            both = self._side_by_side(taps, seeds)
            if both is not None:
                found = dict(zip(calls, both, strict=True))
                yield slice(0, len(seeds)), self._factors(found, len(seeds))
                return
        for i, seed in enumerate(seeds):
            one: Sequence[Tensor | None] = [None] * len(taps)
            if self._outputs.requires_grad:
                more = i + 1 < len(seeds)
                one = torch.autograd.grad(
                    self._outputs, taps, seed, retain_graph=more, allow_unused=True
                )
            by_call = dict(zip(calls, one, strict=True))
            yield (
                slice(i, i + 1),
                [
                    self._factor(index, [by_call[id(c)] for c in group])[None]
                    for index, group in enumerate(self._calls)
                ],
            )

    def _side_by_side(
        self, taps: list[Tensor], seeds: Tensor
    ) -> Sequence[Tensor | None] | None:
        """All logits in one pass; None where a backward of the user's cannot."""
        try:
            with warnings.catch_warnings():
                # A slow batching rule is still the right number.
                warnings.filterwarnings("ignore", message="There is a performance drop")
                return torch.autograd.grad(
                    self._outputs,
                    taps,
                    seeds,
                    retain_graph=True,
                    allow_unused=True,
                    is_grads_batched=True,
                )
        except RuntimeError:
            # Of another origin, it is raised again by the passes one by one.
            return None

    def _factors(
        self, found: Mapping[int, Tensor | None], num_logits: int
    ) -> list[Tensor]:
        """From gradients with an axis of logits in front."""
        factors = []
        for index, calls in enumerate(self._calls):
            gradients = [found[id(call)] for call in calls]
            axes = [None if g is None else 0 for g in gradients]
            if any(axis == 0 for axis in axes):
                make = vmap(partial(self._factor, index), (axes,))
                factors.append(make(gradients))
            else:
                zero = self._factor(index, gradients)
                factors.append(zero.expand(num_logits, *zero.shape))
        return factors

    def _factor(self, index: int, gradients: Sequence[Tensor | None]) -> Tensor:
        return gradient_factor(
            self._groups[index],
            self._calls[index],
            gradients,
            self.num_samples,
            self._axes,
        )

    def size(self, index: int) -> Size:
        """Sizes of both factors of a group, known before a backward pass.

        Args:
            index: Of the group.

        Returns:
            Of one sample.
        """
        group, calls = self._groups[index], self._calls[index]
        h = self.inputs(index)
        module: Any = calls[0].layer.module
        if h is None:
            sizes = [
                getattr(module, p.rpartition(".")[2]).numel() for p in group.params
            ]
            return Size(1, 1, 0, sum(sizes), 0)
        if group.rule == EMBEDDING:
            rows = int(module.num_embeddings)
            return Size(1, h.shape[1], rows, module.embedding_dim, rows)
        depth, positions, p = h.shape[1:]
        return Size(depth, positions, p, len(module.weight) // depth, 0)


def _seeds(outputs: Tensor, chosen: Logits) -> Tensor:
    """What backward passes start from: (k, n, c)."""
    c = outputs.shape[1]
    if None in chosen:
        rows = outputs.new_ones(1, c)
    else:
        index = torch.tensor(chosen, device=outputs.device)
        rows = torch.nn.functional.one_hot(index, c).to(outputs.dtype)
    return rows[:, None].expand(-1, len(outputs), -1)
