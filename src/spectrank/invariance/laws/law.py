"""Law: a family of conserved quantities of one kind at one place; NoLaw: why none.

Signs: a vertex law is what enters minus what leaves, as the identity is written for
one unit; the gap matrix W_2^T W_2 - W_1 W_1^T of two layers is minus that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

from spectrank.errors import DomainError, ShapeError
from spectrank.invariance.laws.offsets import Offset
from spectrank.invariance.laws.terms import GramTerm, LinearTerm, SquareTerm, Term

LawKind = Literal[
    "vertex",
    "channel",
    "stream",
    "cut",
    "scale",
    "affine",
    "matrix",
    "pair",
    "attention",
    "softmax",
    "sum",
    "constant",
    "equal-gradient",
    "tied",
]
Form = Literal["squares", "gram", "linear"]
_TERMS: dict[str, type] = {
    "squares": SquareTerm,
    "gram": GramTerm,
    "linear": LinearTerm,
}


@final
@dataclass(frozen=True, eq=False)
class Law:
    """One family of laws: what gradient flow conserves at one place of a network.

    Attributes:
        name: Readable and unique, such as ``vertex fc1``.
        kind: What sort of law.
        form: ``squares``: each law a weighted sum of squares; ``gram``: a symmetric
            matrix, a sum of products M M^T; ``linear``: each a weighted sum of
            entries.
        terms: What is added up, all of the class that belongs to the form.
        shape: (n,) laws, or (n, n) entries of a symmetric matrix.
        count: How many of them are independent for generic weights.
        condition: What it needs to hold, in words.
        source: Where it is stated, or from what it is derived.
        exact: False for laws of scale with eps > 0, which hold to about
            eps / (variance + eps).
        offsets: Fixed numbers that are taken off the parameters first: the law is one
            of w - offsets. Most laws have none; those of parameters without a term
            are dropped.
    """

    name: str
    kind: LawKind
    form: Form
    terms: tuple[Term, ...]
    shape: tuple[int, ...]
    count: int
    condition: str
    source: str
    exact: bool = True
    offsets: tuple[Offset, ...] = ()

    def __post_init__(self) -> None:
        wanted = _TERMS[self.form]
        if not self.terms or any(type(term) is not wanted for term in self.terms):
            got = sorted({type(term).__name__ for term in self.terms})
            raise DomainError(
                f"a law of form {self.form} has one or more {wanted.__name__}s, got "
                f"{got or 'none'} in {self.name!r}; make one law per form"
            )
        square = self.form == "gram"
        if len(self.shape) != 1 + square or (square and len(set(self.shape)) != 1):
            expected = "(n, n)" if square else "(n,)"
            raise ShapeError(
                f"a law of form {self.form} has shape {expected}, got {self.shape} "
                f"in {self.name!r}; count laws along one axis, features along two"
            )
        for term in self.terms:
            self._check_term(term)
        # A part of a law has the offsets of its own parameters.
        own = tuple(o for o in self.offsets if o.parameter in self.parameters)
        object.__setattr__(self, "offsets", own)
        if own and self.form == "linear":
            raise DomainError(
                "offsets are those of a quadratic law, got some of "
                f"{own[0].parameter!r} in the linear {self.name!r}; leave them out"
            )
        if self.count < 0:
            raise DomainError(
                f"count is not negative, got {self.count} in {self.name!r}; "
                "leave the law out where it says nothing"
            )

    def _check_term(self, term: Term) -> None:
        n = self.shape[0]
        if isinstance(term, GramTerm):
            fits, got = term.num_features == n, f"{term.num_features} features"
        else:
            most = int(term.laws.max(initial=-1))
            fits, got = most < n, f"law number {most}"
        if not fits:
            raise ShapeError(
                f"the terms of a law fit its shape {self.shape}, got {got} of "
                f"{term.parameter!r} in {self.name!r}; select the features by `rows`"
            )

    @property
    def homogeneous(self) -> Law:
        """The law without its offsets: that of displacements, such as gradients."""
        return replace(self, offsets=()) if self.offsets else self

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters involved, each once, in the order of the terms."""
        return tuple(dict.fromkeys(term.parameter for term in self.terms))


@final
@dataclass(frozen=True)
class NoLaw:
    """A place of a network at which nothing is conserved, or nothing is known to be.

    Attributes:
        name: Of the layer, junction or node.
        reason: Why there is no law.
        kind: The kind of law that one would look for there; None where any.
    """

    name: str
    reason: str
    kind: LawKind | None = None
