"""Laws as coefficient vectors over the monomials w_i w_j (i <= j), then w_i.

The terms of a law are read here entry by entry from their definition, with loops, so
that a slip in the evaluation of the library is not repeated.
"""

import itertools

import numpy as np
import torch


class Layout:
    """Where each learned parameter stands in one long vector; tied ones stand once."""

    def __init__(self, model):
        self.names, self.sizes, self.offsets, self.total = [], {}, {}, 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.names.append(name)
                self.sizes[name] = parameter.numel()
                self.offsets[name] = self.total
                self.total += parameter.numel()
        self.upper = np.triu_indices(self.total)
        # (i, j) -> number of the monomial, for i <= j.
        self.monomial = np.zeros((self.total, self.total), dtype=np.int64)
        self.monomial[self.upper] = np.arange(len(self.upper[0]))
        self.num_monomials = len(self.upper[0])

    @property
    def num_unknowns(self):
        return self.num_monomials + self.total

    def flat(self, tensors):
        return torch.cat([tensors[name].detach().flatten() for name in self.names])

    def equation(self, weights, gradient):
        """Row whose product with a law is the rate at which the law changes."""
        w, g = self.flat(weights).numpy(), self.flat(gradient).numpy()
        outer = np.outer(w, g)
        both = outer + outer.T
        # d(w_i^2) is 2 w_i g_i, which the diagonal of `both` is already.
        return np.concatenate([both[self.upper], g])

    def label(self, number):
        """Readable name of an unknown."""
        if number >= self.num_monomials:
            return self._entry(number - self.num_monomials)
        i, j = (int(side[number]) for side in self.upper)
        return f"{self._entry(i)}^2" if i == j else f"{self._entry(i)}*{self._entry(j)}"

    def _entry(self, position):
        for name in reversed(self.names):
            if position >= self.offsets[name]:
                return f"{name}[{position - self.offsets[name]}]"
        raise IndexError(position)

    def describe(self, vector, most=8):
        """Return the largest coefficients of a law, readable."""
        order = np.argsort(-np.abs(vector))[:most]
        largest = np.abs(vector[order[0]])
        return " ".join(
            f"{vector[k] / largest:+.3g} {self.label(int(k))}"
            for k in order
            if abs(vector[k]) > 1e-6 * largest
        )


def _slots(term):
    """For each kept index, the flat positions in the parameter that belong to it."""
    positions = np.arange(int(np.prod(term.view, dtype=np.int64))).reshape(term.view)
    kept = [range(term.view[axis]) for axis in term.axes]
    found = []
    for index in itertools.product(*kept):
        chosen = [slice(None)] * len(term.view)
        for axis, value in zip(term.axes, index, strict=True):
            chosen[axis] = value
        found.append(positions[tuple(chosen)].flatten())
    return found


def _moved(law, layout):
    """What each entry of the long vector has taken off."""
    moved = np.zeros(layout.total)
    for offset in law.offsets:
        for index, value in zip(offset.indices, offset.values, strict=True):
            moved[layout.offsets[offset.parameter] + index] += value
    return moved


def law_vectors(law, layout):
    """Coefficient vectors (count of entries, unknowns) of a family of laws.

    (w - m)^2 is w^2 - 2 m w and a constant, which is left out.
    """
    n, moved = law.shape[0], _moved(law, layout)
    if law.form != "gram":
        vectors = np.zeros((n, layout.num_unknowns))
        for term in law.terms:
            if term.parameter not in layout.offsets:
                raise KeyError(f"{law.name}: {term.parameter} is not learned")
            start, slots = layout.offsets[term.parameter], _slots(term)
            for k, i, c in zip(term.laws, term.indices, term.coefficients, strict=True):
                at = start + slots[i]
                number = (
                    layout.monomial[at, at]
                    if law.form == "squares"
                    else layout.num_monomials + at
                )
                vectors[k, number] += c
                if law.form == "squares":
                    vectors[k, layout.num_monomials + at] -= 2 * c * moved[at]
        return vectors
    pairs = list(itertools.combinations_with_replacement(range(n), 2))
    vectors = np.zeros((len(pairs), layout.num_unknowns))
    for term in law.terms:
        if term.parameter not in layout.offsets:
            raise KeyError(f"{law.name}: {term.parameter} is not learned")
        start, slots = layout.offsets[term.parameter], _slots(term)
        if term.rows is not None:
            slots = [slots[k] for k in term.rows]
        if term.columns is not None:
            slots = [slot[term.columns] for slot in slots]
        if term.summed:
            # The square of a sum of rows is the sum of all products of two rows.
            slots = [np.array(slots)]
        for k, (u, v) in enumerate(pairs):
            i, j = start + slots[u], start + slots[v]
            if term.summed:
                i, j = np.broadcast_arrays(i[:, None], j[None])
            low, high = np.minimum(i, j), np.maximum(i, j)
            np.add.at(vectors[k], layout.monomial[low, high], term.coefficient)
            for own, other in ((i, j), (j, i)):
                numbers = layout.num_monomials + own
                np.add.at(vectors[k], numbers, -term.coefficient * moved[other])
    return vectors
