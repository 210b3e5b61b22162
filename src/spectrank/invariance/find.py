"""``find``: which quantities gradient flow conserves in a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from spectrank.errors import ArgumentTypeError
from spectrank.invariance.laws import Law, Laws, NoLaw
from spectrank.invariance.linear import LossLike, linear_laws, sees_differences
from spectrank.invariance.matrices import matrix_laws
from spectrank.invariance.potentials import (
    Potentials,
    directed_weights,
    families,
    fitting_input,
    mean_laws,
    places_without,
    solve,
    stored_means,
)
from spectrank.invariance.potentials import cuts as cut_laws
from spectrank.invariance.repeats import without_repeats
from spectrank.invariance.skips import without_skips
from spectrank.model.graph import Graph, graph

_UNKNOWN_LOSS = (
    "whether it sees differences of logits only is not known; pass "
    "loss='cross_entropy' if it does, None if it does not"
)


def find(
    model_or_graph: nn.Module | Graph,
    example_input: Any = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    loss: LossLike | None = "cross_entropy",
    cuts: bool = False,
) -> Laws:
    r"""Find the quantities that gradient flow conserves, for any data.

    Diagonal laws, weighted sums of squares of parameters, are the solutions of a
    linear system over the entries of all values (`potentials.solve`): vertex, channel,
    stream, scale, affine, tied and attention laws, all of them and no others. Matrix
    laws stand in place of the diagonal ones that they contain. Linear laws follow.
    Pair laws depend on activation patterns and are found from those. Gradients are
    taken to be those of the traced forward pass: a straight-through estimator, or any
    autograd Function with a backward of its own, has others, which a trace does not
    show, and so has a parameter with a gradient hook.
    Source (derived): tests/invariance/potentials/test_brute_force.py.

    Args:
        model_or_graph: A module, in the mode in which it is trained, or its graph.
        example_input: A tensor, a tuple of arguments or a mapping of keyword
            arguments, of which only shapes and dtypes count; not needed for a
            Sequential of layers of torch.
        kwargs: Further keyword arguments of the model.
        loss: Name, module or function of the loss, as ``describe_loss`` takes it. A
            loss of differences of logits, such as ``cross_entropy``, adds laws where
            an output has two classes or more; None for any loss.
        cuts: Whether to add the sums of each family of laws, such as
            :math:`\|W_1\|_F^2 - \|W_2\|_F^2`, which follow from the others.

    Returns:
        The laws; ``skipped`` names the places without one, with the reason.

    Raises:
        ArgumentTypeError: It is neither a module nor a graph.
        UnknownNameError: No loss has that name.
        DomainError: The model cannot be traced, or the graph has stated links only.
    """  # noqa: DOC502 - raised by the functions called
    differences = sees_differences(loss)
    potentials = _potentials(model_or_graph, example_input, kwargs, skips=False)
    blocks = matrix_laws(potentials)
    inside = [block.solutions for block in blocks]
    diagonal = families(
        potentials, without=np.concatenate([np.zeros(0, dtype=np.int64), *inside])
    )
    laws = _in_order(
        potentials,
        [
            *(item.law for item in diagonal),
            *(item.law for item in blocks),
            *mean_laws(potentials),
        ],
    )
    laws = list(without_repeats([*laws, *linear_laws(potentials, loss=loss)]))
    laws += cut_laws(families(potentials)) if cuts else ()
    without = places_without(potentials)
    if differences is None:
        without += (NoLaw("loss", _UNKNOWN_LOSS, "softmax"),)
    return Laws(_told_apart(laws), without)


def pair_candidates(
    model_or_graph: nn.Module | Graph,
    example_input: Any = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
) -> Laws:
    """Find the gap matrices whose entries are conserved for units of one pattern.

    Off the diagonal nothing is conserved in general: `pair_laws` keeps what the slopes
    of `activation_patterns` allow.
    Source (derived): tests/invariance/matrices/test_matrix_laws.py.

    Args:
        model_or_graph: As for `find`.
        example_input: As for `find`.
        kwargs: As for `find`.

    Returns:
        Candidates of kind ``pair``, one for each hidden layer with an activation.

    Raises:
        ArgumentTypeError: It is neither a module nor a graph.
        DomainError: The model cannot be traced, or the graph has stated links only.
    """  # noqa: DOC502 - raised by the functions called
    potentials = _potentials(model_or_graph, example_input, kwargs)
    return Laws(tuple(b.law for b in matrix_laws(potentials, coactive=True)))


def _potentials(
    model_or_graph: nn.Module | Graph,
    example_input: Any,
    kwargs: Mapping[str, Any] | None,
    *,
    skips: bool = True,
) -> Potentials:
    """Solve; unless ``skips`` are kept, x + W x is one learned map I + W."""
    if isinstance(model_or_graph, Graph):
        found, offsets = (
            (model_or_graph, {}) if skips else without_skips(model_or_graph)
        )
        return replace(solve(found), offsets=offsets)
    if isinstance(model_or_graph, nn.Module):
        if example_input is None and kwargs is None:
            example_input = fitting_input(model_or_graph)
        found = graph(model_or_graph, example_input, kwargs=kwargs)
        shapes = {
            name: tuple(parameter.shape)
            for name, parameter in model_or_graph.named_parameters()
        }
        found = replace(found, frozen=(*found.frozen, *_by_counts(model_or_graph)))
        stored = stored_means(found, model_or_graph)
        found, offsets = (found, {}) if skips else without_skips(found)
        directed = directed_weights(model_or_graph)
        solved = solve(found, shapes=shapes, directed=directed, stored=stored)
        return replace(solved, offsets={**solved.offsets, **offsets})
    raise ArgumentTypeError(
        "laws are found in a torch.nn.Module or its graph, got "
        f"{type(model_or_graph).__name__}; pass the model and an example input"
    )


def _by_counts(model: nn.Module) -> tuple[str, ...]:
    """Tables in no law: their gradient, divided by counts, is that of no risk."""
    own = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        and module.scale_grad_by_freq
    }
    return tuple(
        name
        for name, parameter in model.named_parameters()
        if id(parameter) in own and parameter.requires_grad
    )


def _in_order(potentials: Potentials, laws: Sequence[Law]) -> list[Law]:
    """Laws by the first place at which a parameter of theirs is used."""
    first: dict[str, int] = {}
    for number, edge in enumerate(potentials.edges):
        first.setdefault(edge.parameter, number)
    return sorted(laws, key=lambda law: min(first[name] for name in law.parameters))


def _told_apart(laws: Sequence[Law]) -> tuple[Law, ...]:
    """Number the laws that would share a name, such as parts of one junction."""
    seen: dict[str, int] = {}
    found = []
    for law in laws:
        seen[law.name] = seen.get(law.name, 0) + 1
        again = seen[law.name]
        name = law.name if again == 1 else f"{law.name} ({again})"
        found.append(law if again == 1 else replace(law, name=name))
    return tuple(found)
