r"""Decomposition of a homogeneous net: nu(x; w) = mu(h(x; w)), for small graphs.

h lists, for every path p from an input to the output, x_p times the product of the
weights on p: it is multilinear in the weights. mu is a tree whose weights are +1 or -1
and depend on the signs of the weights alone. While no weight changes its sign, mu does
not change, and nu can be differentiated through h. This is a device of proofs: the
number of paths grows exponentially with depth.

Source (stated): Le & Jegelka (2022), arXiv:2201.11968, Lemmas 1 and 5; the signs of the
tree are derived in tests/invariance/test_decomposition.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.errors import ShapeError
from spectrank.invariance.dags import Dag, Path, activation, input_values, paths


@final
@dataclass(frozen=True)
class SignTree:
    """The tree mu: a vertex for every suffix of a path, with weights +1 and -1.

    Attributes:
        parents: Number of the parent of each vertex, itself the smaller number; the
            root, number 0, has -1.
        signs: +1 or -1 on the edge to the parent; of the root +1.
        slopes: Slope of each vertex at z <= 0; of a leaf 1.
        leaves: Vertex of each path, in the order of ``paths``.
    """

    parents: tuple[int, ...]
    signs: tuple[int, ...]
    slopes: tuple[float, ...]
    leaves: tuple[int, ...]

    def __call__(self, values: Tensor) -> Tensor:
        r"""Return :math:`\mu(h)`.

        Args:
            values: (n, paths) what ``path_values`` returned.

        Returns:
            (n,) outputs, differentiable in the values.

        Raises:
            ShapeError: There is not one value a path.
        """
        if values.dim() != 2 or values.shape[1] != len(self.leaves):
            raise ShapeError(
                f"a tree of {len(self.leaves)} paths reads (samples, "
                f"{len(self.leaves)}) values, got {tuple(values.shape)}; "
                "give those of path_values"
            )
        sums: list[Tensor | None] = [None] * len(self.parents)
        for path, leaf in enumerate(self.leaves):
            sums[leaf] = values[:, path]
        for vertex in range(len(self.parents) - 1, 0, -1):
            own = sums[vertex]
            assert own is not None
            given = self.signs[vertex] * activation(own, self.slopes[vertex])
            above = sums[self.parents[vertex]]
            sums[self.parents[vertex]] = given if above is None else above + given
        root = sums[0]
        assert root is not None
        return activation(root, self.slopes[0])


def path_values(
    dag: Dag, weights: Tensor, x: Tensor, *, absolute: bool = False
) -> Tensor:
    r"""Path enumeration :math:`h_p(x; w) = x_p \prod_{e \in p} w_e`.

    Multilinear in the weights; with ``absolute`` the product of \|w_e\| instead. A path
    that starts at the constant is a bias, and has x_p = 1.
    Source (stated): Le & Jegelka (2022), arXiv:2201.11968, Lemma 1; absolute: Lemma 5.

    Args:
        dag: The graph.
        weights: (edges,) weights.
        x: (n, features) inputs.
        absolute: Take absolute values of the weights.

    Returns:
        (n, paths) values, in the order of ``paths``.

    Raises:
        ShapeError: The weights or the inputs do not fit the graph.
        DomainError: There are too many paths.
    """  # noqa: DOC502 - raised by the functions called
    inputs = input_values(dag, weights, x)
    factors = weights.abs() if absolute else weights
    columns = [
        inputs[:, dag.edges[path[0]][0]] * factors[list(path)].prod()
        for path in paths(dag)
    ]
    return torch.stack(columns, 1) if columns else inputs.new_zeros(len(inputs), 0)


def sign_tree(dag: Dag, weights: Tensor, *, absolute: bool = False) -> SignTree:
    r"""Tree :math:`\mu` with :math:`\nu(x; w) = \mu(h(x; w))` for all inputs.

    With absolute path values the edge above every suffix that starts with edge e is
    sgn(w_e). With signed ones the edge above a leaf is the product of the signs of the
    other edges of its path instead, because h_p has the sign of all of them. A weight
    of zero counts as positive: all its path values are zero.
    Source (stated): Le & Jegelka (2022), arXiv:2201.11968, Lemma 1; absolute: Lemma 5.
    Source (derived): tests/invariance/test_decomposition.py, the signs.

    Args:
        dag: The graph.
        weights: (edges,) weights, of which the signs are read.
        absolute: Whether it is for absolute path values.

    Returns:
        The tree.

    Raises:
        DomainError: There are too many paths.
    """  # noqa: DOC502 - raised by the function called
    sign = [1 if w >= 0 else -1 for w in weights.tolist()]
    number: dict[Path, int] = {(): 0}
    parents, signs, slopes = [-1], [1], [dag.slopes[dag.output]]
    leaves: list[int] = []
    for path in paths(dag):
        for start in range(len(path) - 1, -1, -1):
            suffix, rest = path[start:], path[start + 1 :]
            if suffix in number:
                continue
            number[suffix] = len(parents)
            parents.append(number[rest])
            leaf = start == 0
            slopes.append(1.0 if leaf else dag.slopes[dag.edges[suffix[0]][0]])
            turned = rest if leaf and not absolute else suffix[:1]
            signs.append(_product(sign[edge] for edge in turned))
        leaves.append(number[path])
    return SignTree(tuple(parents), tuple(signs), tuple(slopes), tuple(leaves))


def path_gradient(dag: Dag, weights: Tensor, x: Tensor) -> Tensor:
    r"""Gradient of each output in the weights, by the paths.

    .. math:: \partial\nu/\partial w_e = \sum_{p \ni e} [\nabla\mu(h)]_p \, x_p
        \prod_{f \in p, f \ne e} w_f

    No derivative of an indicator is in it: mu does not depend on the weights while
    their signs are kept. At a kink of an activation it takes the side z <= 0.
    Source (derived): tests/invariance/test_decomposition.py, autograd through the net.

    Args:
        dag: The graph.
        weights: (edges,) weights.
        x: (n, features) inputs.

    Returns:
        (n, edges) gradients.

    Raises:
        ShapeError: The weights or the inputs do not fit the graph.
        DomainError: There are too many paths.
    """  # noqa: DOC502 - raised by the functions called
    weights = weights.detach()
    inputs = input_values(dag, weights, x)
    values = path_values(dag, weights, x).detach().requires_grad_()
    with torch.enable_grad():
        output = sign_tree(dag, weights)(values).sum()
    (slopes,) = torch.autograd.grad(output, values)
    gradient = inputs.new_zeros(len(inputs), len(dag.edges))
    for number, path in enumerate(paths(dag)):
        start = inputs[:, dag.edges[path[0]][0]] * slopes[:, number]
        for place, edge in enumerate(path):
            others = [*path[:place], *path[place + 1 :]]
            gradient[:, edge] += start * weights[others].prod()
    return gradient


def _product(signs: Iterable[int]) -> int:
    product = 1
    for sign in signs:
        product *= sign
    return product
