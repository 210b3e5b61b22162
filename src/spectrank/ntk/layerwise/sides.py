"""The factors of a block of samples, gathered from passes over a few samples each.

A pass is short: its graph and gradients stay in the cache, and nothing but the factors
outlives it. What is kept of a group is its two factors or, where that takes no more
memory and no more operations, the gradient of every sample itself: formed right behind
the backward pass, a vector of parameters from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from spectrank.ntk.layerwise.contract import Factors, Size, form
from spectrank.ntk.layerwise.factors import Axes
from spectrank.ntk.layerwise.passes import Logits, Pass
from spectrank.ntk.layerwise.rules import Group


@final
@dataclass(frozen=True, eq=False)
class Recipe:
    """How the factors of a model come about.

    Attributes:
        model: The user's model.
        groups: Of parameters.
        axes: Where the samples are, by layer.
        sizes: Of the factors of every group.
        formed: Groups whose gradients of samples are kept in place of factors.
        step: Samples of a pass.
    """

    model: nn.Module
    groups: tuple[Group, ...]
    axes: Axes
    sizes: tuple[Size, ...]
    formed: frozenset[int]
    step: int


@final
class Side:
    """A block of samples; gives the factors of every group.

    Args:
        recipe: How they come about.
        x: Inputs of the block.
    """

    def __init__(self, recipe: Recipe, x: Tensor) -> None:
        self._recipe, self._x = recipe, x
        self._logits: Logits = ()
        # Inputs are those of all logits, gradients of the ones at hand.
        self._inputs: dict[int, Tensor] = {}
        self._inputs_known = False
        self._gradients: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._x)

    def fill(self, logits: Logits) -> None:
        """Gather the factors of some logits, if they are not those at hand.

        Args:
            logits: Which; ``(None,)`` for the sum of all.
        """
        if logits == self._logits:
            return
        # Gone before the next are made.
        self._gradients, self._logits = {}, ()
        recipe, n = self._recipe, len(self)
        for start in range(0, n, recipe.step):
            rows = slice(start, min(start + recipe.step, n))
            one = Pass(recipe.model, recipe.groups, recipe.axes, self._x[rows])
            self._keep(one, logits, rows)
        self._logits, self._inputs_known = logits, True

    def factors(self, index: int, rows: slice) -> Factors:
        """Both factors of a group for some of the samples.

        Args:
            index: Of the group.
            rows: The samples.

        Returns:
            Factors of the logits at hand.
        """
        g = self._gradients[index][:, rows]
        if index not in self._inputs:
            return Factors(None, g)
        return Factors(self._inputs[index][rows], g, self._recipe.sizes[index].num_rows)

    def _keep(self, one: Pass, logits: Logits, rows: slice) -> None:
        """Write what a pass gives to its place among the samples."""
        formed, made = self._recipe.formed, {}
        for index in range(len(self._recipe.sizes)):
            if index in formed:
                made[index] = one.inputs(index, columns=True)
            elif not self._inputs_known:
                h = one.inputs(index)
                if h is not None:
                    self._put(index, h, rows)
        k, whole = len(logits), rows == slice(0, len(self))
        for some, found in one.gradients(logits):
            for index, g in enumerate(found):
                if index in formed:
                    self._form(index, made[index], g, (k, some, rows))
                elif whole and len(g) == k:
                    self._gradients[index] = g
                else:
                    kept = self._gradients.get(index)
                    if kept is None:
                        kept = g.new_empty(k, len(self), *g.shape[2:])
                        self._gradients[index] = kept
                    kept[some, rows] = g

    def _put(self, index: int, h: Tensor, rows: slice) -> None:
        if rows == slice(0, len(self)):
            self._inputs[index] = h
            return
        if index not in self._inputs:
            self._inputs[index] = h.new_empty(len(self), *h.shape[1:])
        self._inputs[index][rows] = h

    def _form(
        self, index: int, h: Tensor | None, g: Tensor, place: tuple[int, slice, slice]
    ) -> None:
        """Write gradients of samples in place of their factors."""
        assert h is not None
        size, (k, some, rows) = self._recipe.sizes[index], place
        if index not in self._gradients:
            shape = (k, len(self), 1, 1, size.formed_numel)
            self._gradients[index] = g.new_empty(shape)
        kept = self._gradients[index][some, rows, 0, 0]
        for part, out in zip(g, kept, strict=True):
            form(h, part, size.num_rows, out)
