r"""Values of laws and of their polar forms, in float64.

Every quadratic law is h(w) = B(w, w) with a symmetric bilinear B, so that one step of
gradient descent gives exactly h(w - eta g) = h(w) - 2 eta B(w, g) + eta^2 h(g), and the
law is conserved iff B(w, grad R(w)) = 0. A linear law is h(w) = <c, w>; its B(a, b) is
<c, b>, whatever a is, and h(w - eta g) = h(w) - eta B(w, g).

A law with offsets m is h(w) = B(w - m, w - m), and its B(a, b) is that of (a - m, b): a
is a point and b a displacement. The h(g) of a displacement is that of the law without
offsets, ``law.homogeneous``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from spectrank.errors import ShapeError, UnknownNameError
from spectrank.invariance.laws.law import Law
from spectrank.invariance.laws.offsets import centred
from spectrank.invariance.laws.terms import GramTerm, Term

Tensors = Mapping[str, Tensor]
_Key = tuple[str, tuple[int, ...], tuple[int, ...]]
# One pass over a parameter serves every law that needs the same sums of it.
_Sums = dict[_Key, Tensor]


def evaluate(law: Law, tensors: Tensors) -> Tensor:
    r"""Value of a law, :math:`h(w)`.

    In the squared unit of the parameters (linear laws: in their unit); any sign. Sums
    are formed in float64, so relative rounding is about 1e-16 of the largest term.
    Source (derived): tests/invariance/laws/test_evaluation.py, sums by hand.

    Args:
        law: The law.
        tensors: Name of each parameter to its values, such as
            ``dict(model.named_parameters())``.

    Returns:
        float64 tensor of ``law.shape``, without a gradient.

    Raises:
        UnknownNameError: A parameter of the law is absent.
        ShapeError: A parameter does not have as many entries as the law expects.
    """  # noqa: DOC502 - raised by the functions called
    return _value(law, tensors, {})


def polar(law: Law, a: Tensors, b: Tensors) -> Tensor:
    r"""Polar form :math:`B(a, b)`; of a linear law :math:`\langle c, b\rangle`.

    Symmetric in a and b for quadratic laws, and B(w, w) = h(w). Zero at b = gradient of
    the risk iff the law holds there to first order. Offsets are taken off ``a`` alone.
    Source (derived): tests/invariance/laws/test_evaluation.py, by polarisation.

    Args:
        law: The law.
        a: Name of each parameter to values; not read by a linear law.
        b: Name of each parameter to values, such as gradients.

    Returns:
        float64 tensor of ``law.shape``, without a gradient.

    Raises:
        UnknownNameError: A parameter of the law is absent.
        ShapeError: A parameter does not have as many entries as the law expects.
    """  # noqa: DOC502 - raised by the functions called
    return _polar(law, a, b, {})


def evaluate_all(laws: Iterable[Law], tensors: Tensors) -> dict[str, Tensor]:
    """Values of several laws; each sum of a parameter is formed once.

    Args:
        laws: The laws.
        tensors: Name of each parameter to its values.

    Returns:
        Name of the law to what `evaluate` returns.
    """
    sums: _Sums = {}
    return {law.name: _value(law, tensors, sums) for law in laws}


def polar_all(laws: Iterable[Law], a: Tensors, b: Tensors) -> dict[str, Tensor]:
    """Polar forms of several laws; each sum of a pair of parameters is formed once.

    Args:
        laws: The laws.
        a: Name of each parameter to values.
        b: Name of each parameter to values.

    Returns:
        Name of the law to what `polar` returns.
    """
    sums: _Sums = {}
    return {law.name: _polar(law, a, b, sums) for law in laws}


def _value(law: Law, tensors: Tensors, sums: _Sums) -> Tensor:
    if law.offsets:
        tensors, sums = centred(law.offsets, tensors), {}
    if law.form == "gram":
        return _grams(law, lambda term: _self_gram(term, tensors))
    form = _squares if law.form == "squares" else _entries
    return _scattered(law, sums, lambda term: form(term, tensors))


def _polar(law: Law, a: Tensors, b: Tensors, sums: _Sums) -> Tensor:
    if law.offsets:
        a, sums = centred(law.offsets, a), {}
    if law.form == "gram":
        return _grams(law, lambda term: _cross_gram(term, a, b))
    if law.form == "linear":
        return _scattered(law, sums, lambda term: _entries(term, b))
    return _scattered(law, sums, lambda term: _products(term, a, b))


def _scattered(law: Law, sums: _Sums, form: Callable[[Term], Tensor]) -> Tensor:
    """Sum over the terms of c_k * sums[i_k], into law l_k."""
    total: Tensor | None = None
    for term in law.terms:
        assert not isinstance(term, GramTerm)
        # Linear and square sums of one parameter differ.
        key = (f"{type(term).__name__} {term.parameter}", term.view, term.axes)
        if key not in sums:
            sums[key] = form(term)
        found = sums[key]
        if total is None:
            total = torch.zeros(law.shape, dtype=torch.float64, device=found.device)
        # A read-only array has no tensor without a warning, so copies are made.
        index = torch.tensor(term.laws, device=total.device)
        chosen = found[torch.tensor(term.indices, device=found.device)]
        factor = torch.tensor(term.coefficients, device=found.device)
        total.index_add_(0, index, (factor * chosen).to(total.device))
    assert total is not None
    return total


def _grams(law: Law, form: Callable[[GramTerm], Tensor]) -> Tensor:
    total: Tensor | None = None
    for term in law.terms:
        assert isinstance(term, GramTerm)
        gram = form(term) * term.coefficient
        total = gram if total is None else total + gram.to(total.device)
    assert total is not None
    return total


def _squares(term: Term, tensors: Tensors) -> Tensor:
    x, summed = _viewed(term, tensors)
    if not summed:
        return _ordered(term, x.double().square())
    # vector_norm converts entry by entry: no float64 copy of the parameter is made.
    norms = torch.linalg.vector_norm(x, dim=summed, dtype=torch.float64)
    return _ordered(term, norms.square())


def _entries(term: Term, tensors: Tensors) -> Tensor:
    x, summed = _viewed(term, tensors)
    return _ordered(
        term, x.sum(dim=summed, dtype=torch.float64) if summed else x.double()
    )


def _products(term: Term, a: Tensors, b: Tensors) -> Tensor:
    x, summed = _viewed(term, a)
    y, _ = _viewed(term, b)
    # A product of two float32 numbers is exact in float64.
    product = x.double() * y.double()
    return _ordered(term, product.sum(dim=summed) if summed else product)


def _self_gram(term: GramTerm, tensors: Tensors) -> Tensor:
    matrix = _matrix(term, tensors)
    return matrix @ matrix.T


def _cross_gram(term: GramTerm, a: Tensors, b: Tensors) -> Tensor:
    half = _matrix(term, a) @ _matrix(term, b).T
    return (half + half.T) / 2


def _matrix(term: GramTerm, tensors: Tensors) -> Tensor:
    x, summed = _viewed(term, tensors)
    matrix = x.permute(*term.axes, *summed)
    sizes = [x.shape[axis] for axis in term.axes]
    flat = matrix.reshape(int(torch.Size(sizes).numel()), -1)
    if term.rows is not None:
        flat = flat[torch.tensor(term.rows, device=flat.device)]
    if term.columns is not None:
        flat = flat[:, torch.tensor(term.columns, device=flat.device)]
    if term.summed:
        return flat.sum(0, keepdim=True, dtype=torch.float64)
    return flat.double()


def _ordered(term: Term, sums: Tensor) -> Tensor:
    """Flatten sums, whose axes stand as in the view, in the order of the kept axes."""
    rank = {axis: place for place, axis in enumerate(sorted(term.axes))}
    return sums.permute([rank[axis] for axis in term.axes]).reshape(-1)


def _viewed(term: Term, tensors: Tensors) -> tuple[Tensor, list[int]]:
    """The parameter as the term sees it, and the axes that are summed over."""
    tensor = tensors.get(term.parameter)
    if tensor is None:
        raise UnknownNameError(
            f"a law is evaluated on all its parameters, {term.parameter!r} is absent; "
            "give a mapping from the first name of every parameter, such as "
            "dict(model.named_parameters()), with zeros where there is no gradient"
        )
    if tensor.numel() != torch.Size(term.view).numel():
        raise ShapeError(
            f"{term.parameter!r} of this law has the view {term.view}, got a tensor of "
            f"shape {tuple(tensor.shape)}; find the laws of this model again"
        )
    summed = [axis for axis in range(len(term.view)) if axis not in term.axes]
    # Gradients of tables may be sparse.
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return dense.reshape(term.view), summed
