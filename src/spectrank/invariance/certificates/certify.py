"""``certify``: what the start of a training promises about the rank of its tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.invariance.certificates.blocks import block_rows
from spectrank.invariance.certificates.chain import not_finite, read_chain, tail_rows
from spectrank.invariance.certificates.checks import COLUMNS, not_applicable_row
from spectrank.invariance.certificates.tail import Tail, find_tail
from spectrank.model.graph import Graph, graph
from spectrank.model.optimizer import read_optimizer
from spectrank.model.weights import storage_key
from spectrank.table import Table

_MEASURE = "measure their change with drift=True"

Weights = nn.Module | Mapping[str, Tensor]


def certify(
    model_or_graph: nn.Module | Graph,
    *,
    start: Weights,
    now: Weights | None = None,
    drift: bool = True,
    example_input: Any = None,
    softmax: bool = False,
    blocks: Mapping[str, Sequence[Sequence[int]]] | None = None,
    optimizer: Optimizer | None = None,
) -> Table:
    r"""Certify the low-rank limit of the linear tail of a network from its start.

    The tail is found on the graph: consecutive linear layers, linear convolutions,
    x + W x and linear blocks U Y x + Z x up to the output, whatever the rest of the
    network is. For each of its matrices A the gaps at the start give E and kappa with
    ||A||_F^2 <= kappa ||A||_2^2 + E. With ``drift`` what the gaps have changed since
    is added, and the bound holds after any training; without it the bound is the one
    of gradient flow, and a violation says that the training was none.

    Rows of kind ``check``, one per matrix and metric, ``bound`` never an estimate:

    * ``stable_rank`` against kappa + E / ||A||_2^2; ``limit`` is kappa, the limit if
      the norm diverges, 2^N V_c at one output (ours; ``paper_limit`` has 8^N).
    * ``tail`` (matrices up to the output): the sum of all squared singular values but
      the first ``index``, against E; in the squared unit of the weights.
    * ``next_singular_value``: the first one that cannot grow, number ``index``.
    * ``alignment``: |<u, v>| of neighbouring matrices, a lower bound; of [W b] where
      there is a bias. Of ``index`` > 1 directions, ``subspace_alignment``: the
      smallest cosine between their spans.
    * ``block_tail``: the rows of a relu layer right below the tail whose units are
      active on the same samples, with their ``singular_values``.

    ``bound_at_start``, ``drift`` and ``bias_term`` are the parts of E. ``violated``
    with drift added would be an error of this computation or of the graph.
    Source (stated): Le & Jegelka (2022), arXiv:2201.11968, Theorem 2.
    Source (derived): tests/invariance/certificates/test_certify.py.

    Args:
        model_or_graph: The model, or its graph made with an example input.
        start: Weights at the start of the training, a copy: ``state_dict()`` alone
            holds the weights of the model, which the training changes.
        now: Weights now; None for those of the model. The same object as ``start``
            certifies the start itself.
        drift: Whether to add the measured change of the gaps.
        example_input: For the graph; not needed for a Sequential of matrices.
        softmax: Whether the loss depends on differences of logits only, as cross
            entropy does: one singular value less can grow.
        blocks: Name of the relu layer below the tail to sets of its units with one
            pattern each, such as the classes of ``activation_patterns``.
        optimizer: That trained the model; without ``drift``, bounds do not apply under
            Adam or weight decay.

    Returns:
        The rows; one ``not_applicable`` row says where and why the tail ends. Weights
        of the tail that are not finite leave ``not_applicable`` rows only.

    Raises:
        ArgumentTypeError: Neither a model nor a graph, or weights of a wrong type.
        UnknownNameError: Weights lack a parameter of the tail.
        ShapeError: Weights are not those of the graph.
        DomainError: The start shares memory with the model, which is trained.

    Example:
        >>> import copy, torch
        >>> from torch import nn
        >>> net = nn.Sequential(
        ...     nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 1)
        ... ).double()
        >>> start = copy.deepcopy(net.state_dict())
        >>> table = certify(net, start=start)
        >>> table.where(metric="tail", subject="2").frame["index"].to_list()
        [1]
    """  # noqa: DOC502 - raised by the functions called
    found = _graph(model_or_graph, example_input)
    latest = model_or_graph if now is None else now
    if isinstance(latest, Graph):
        raise ArgumentTypeError(
            "the weights to certify are those of `now`, got None and a graph, which "
            "holds no weights; pass now=model or a state dict"
        )
    before = _tensors(start, "start")
    after = _tensors(latest, "now")
    tail = find_tail(found)
    if start is not now:
        _check_apart(tail, before, (model_or_graph, latest), start)
    blocked = None if drift else _blocked(optimizer)
    if broken := not_finite(tail, before, after):
        rows = [not_applicable_row(name, why, "nonfinite") for name, why in broken]
        return Table.from_rows(rows, columns=COLUMNS)
    chain = read_chain(tail, before, after, drift=drift, softmax=softmax)
    rows = [] if chain is None else tail_rows(chain, blocked)
    rows += block_rows(chain, tail, (before, after), blocks or {}, blocked)
    rows.append(not_applicable_row(tail.at, f"the tail ends here: {tail.stopped}"))
    return Table.from_rows(rows, columns=COLUMNS, provenance={"drift_added": drift})


def _graph(given: nn.Module | Graph, example_input: Any) -> Graph:
    if isinstance(given, Graph):
        return given
    if not isinstance(given, nn.Module):
        raise ArgumentTypeError(
            "a tail is found in a torch.nn.Module or its graph, got "
            f"{type(given).__name__}; pass the model, or spectrank.model.graph of it"
        )
    return graph(given, example_input)


def _tensors(given: Weights, name: str) -> dict[str, Tensor]:
    if isinstance(given, nn.Module):
        return dict(given.named_parameters(remove_duplicate=False))
    if isinstance(given, Mapping):
        return {k: v for k, v in given.items() if isinstance(v, Tensor)}
    raise ArgumentTypeError(
        f"{name} is a state dict or a torch.nn.Module, got {type(given).__name__}; "
        "copy the state dict before training: copy.deepcopy(model.state_dict())"
    )


def _check_apart(
    tail: Tail, before: Mapping[str, Tensor], others: tuple[object, ...], start: Weights
) -> None:
    """Refuse a start that was no copy: it went along with the training.

    Tensors of two mappings may well be the same at the start of a training; those of a
    module change with it.

    Args:
        tail: Of which parameters.
        before: Weights at the start.
        others: The model and the weights now, of which modules count.
        start: As it was given.

    Raises:
        DomainError: Memory is shared.
    """
    live: list[Weights] = [one for one in others if isinstance(one, nn.Module)]
    if isinstance(start, nn.Module):
        live += [one for one in others if isinstance(one, Mapping)]
    for now in (_tensors(one, "now") for one in live):
        for name in (p for stage in tail.stages for p in stage.parameters):
            keys = [storage_key(held[name]) for held in (before, now) if name in held]
            if len(keys) == 2 and keys[0] == keys[1]:
                raise DomainError(
                    "the start of a training is a copy of its weights, got a start "
                    f"that shares the memory of {name!r} with the model; keep "
                    "copy.deepcopy(model.state_dict()) before training, or pass "
                    "now=start to certify a start itself"
                )


def _blocked(optimizer: Optimizer | None) -> str | None:
    """Why the gaps are not those of the start under an optimizer."""
    if optimizer is None:
        return None
    settings = read_optimizer(optimizer)
    for own in settings:
        if not own.known or own.adaptive:
            return f"{own.algorithm} does not conserve the gaps; {_MEASURE}"
        if own.weight_decay:
            return f"weight decay shrinks the gaps; {_MEASURE}"
    if len({own.learning_rate for own in settings}) > 1:
        return f"learning rates differ, so the gaps are not conserved; {_MEASURE}"
    return None
