"""Which weights of a model an initialiser fills, as which matrices, and which not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from spectrank.errors import DomainError
from spectrank.init.blocks import Block, cut, unwritable
from spectrank.model import Skip, WeightMatrix, iter_weights
from spectrank.model.graph import Graph, MatrixView
from spectrank.model.weights import known_shape, tensor_refusal

# In the order in which torch stacks them.
_GATES = {nn.LSTM: "ifgo", nn.LSTMCell: "ifgo", nn.GRU: "rzn", nn.GRUCell: "rzn"}
_PROJECTIONS = ("query", "key", "value")


@final
@dataclass(frozen=True, eq=False)
class Site:
    """A weight that can be filled.

    Attributes:
        name: Of the weight; of tied ones the first selected.
        tied_to: Its other names.
        tensor: The parameter.
        view: Name of the convention that makes the matrix.
        layer_type: Class name of the layer.
        blocks: Its matrices; those of equal shape next to each other.
    """

    name: str
    tied_to: tuple[str, ...]
    tensor: Tensor = field(repr=False)
    view: str
    layer_type: str | None
    blocks: tuple[Block, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the weight."""
        return (self.name, *self.tied_to)


def find_sites(
    model: nn.Module, select: str | Sequence[str] | None, graph: Graph | None
) -> list[Site | Skip]:
    """Every selected tensor of a model, as a site or a skip with its reason.

    Gates of LSTM and GRU, and query, key and value of a packed projection, are
    matrices of their own; of a projection in a layer of another kind only where the
    graph shows them. Groups of a convolution too.

    Args:
        model: Any module; only read.
        select: Glob pattern(s) of names; None for all.
        graph: Of the model, where it is known.

    Returns:
        In the order of the model, at least one site.

    Raises:
        DomainError: There is no weight that can be filled, or two of them share a part
            of their memory.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: list[Site | Skip] = []
    for item in iter_weights(model, select=select, split=False):
        parameter = parameters.get(item.name)
        if parameter is None:
            found.append(_no_parameter(item))
        else:
            found.append(_decided(item, parameter, model, graph))
    sites = [site for site in found if isinstance(site, Site)]
    if not sites:
        reasons = [f"{s.name}: {s.reason}" for s in found if isinstance(s, Skip)]
        raise DomainError(
            "a model is initialised from one weight matrix on, got none in "
            f"{len(found)} tensors ({'; '.join(reasons[:2]) or 'no tensors'}); "
            "sr.scan(model) gives the reason for each"
        )
    _check_apart(sites)
    return found


def _no_parameter(item: WeightMatrix | Skip) -> Skip:
    if isinstance(item, Skip):
        return item
    reason = (
        "computed by a parametrisation or a hook, which would undo what is written; "
        "initialise first, parametrise afterwards"
    )
    return Skip(item.name, reason, item.shape, item.dtype, item.layer_type)


def _decided(
    item: WeightMatrix | Skip, tensor: Tensor, model: nn.Module, graph: Graph | None
) -> Site | Skip:
    path, _, local = item.name.rpartition(".")
    module = model.get_submodule(path)
    shape = known_shape(tensor)
    tied: tuple[str, ...]
    if isinstance(item, Skip):
        if item.reason.startswith("tied to") or tensor_refusal(tensor) is not None:
            return item
        stacked = _stacked(module, local, shape)
        if isinstance(module, _ConvTransposeNd) and local == "weight":
            reason = "a transposed convolution: no view gives its matrix; left"
            return _left(item, shape, reason)
        if stacked is None:
            return item
        same = model.named_parameters(remove_duplicate=False)
        tied = tuple(n for n, p in same if p is tensor and n != item.name)
        site = Site(item.name, tied, tensor, "linear", item.layer_type, stacked)
    elif item.view == "embedding":
        reason = "an embedding: a table of vectors, not a map of a signal; left"
        return _left(item, shape, reason)
    elif item.inferred and not _multiplies(graph, (item.name, *item.tied_to)):
        reason = (
            "a parameter of its own whose use is not known; left. With an "
            "example_input the graph tells whether it multiplies"
        )
        return _left(item, shape, reason)
    else:
        blocks = _whole(item, module, graph, shape)
        tied = item.tied_to
        site = Site(item.name, tied, tensor, item.view, item.layer_type, blocks)
    refusal = unwritable(tensor)
    return site if refusal is None else _left(item, shape, refusal)


def _left(item: WeightMatrix | Skip, shape: tuple[int, ...], reason: str) -> Skip:
    return Skip(item.name, reason, shape, item.dtype, item.layer_type)


def _stacked(
    module: nn.Module, local: str, shape: tuple[int, ...]
) -> tuple[Block, ...] | None:
    """Matrices of a weight that torch stacks; None where it does not."""
    if isinstance(module, nn.MultiheadAttention) and local == "in_proj_weight":
        return _rows(shape, _PROJECTIONS)
    if isinstance(module, nn.RNN | nn.RNNCell) and local.startswith("weight_"):
        return cut(shape)
    gates = next((g for kind, g in _GATES.items() if isinstance(module, kind)), None)
    if gates is not None and local.startswith(("weight_ih", "weight_hh")):
        return _rows(shape, [f"gate.{gate}" for gate in gates])
    return None


def _rows(shape: tuple[int, ...], parts: Sequence[str]) -> tuple[Block, ...]:
    m, n = shape[0] // len(parts), shape[1]
    return tuple(
        Block((i * m, (i + 1) * m), m, n, part=part) for i, part in enumerate(parts)
    )


def _whole(
    item: WeightMatrix, module: nn.Module, graph: Graph | None, shape: tuple[int, ...]
) -> tuple[Block, ...]:
    if item.view == "conv-unfolded":
        return cut(shape, groups=module.groups if isinstance(module, _ConvNd) else 1)
    m, n = item.shape
    swapped = item.view == "linear-transposed"
    parts = [view for view in _views(graph, (item.name, *item.tied_to)) if view.part]
    # Rows of the traced view, which for a stored transpose may be the other one.
    if parts and all(view.view == item.view for view in parts):
        blocks = [
            Block(view.rows, view.shape[0], n, part=view.part, transposed=swapped)
            for view in parts
            if view.rows is not None
        ]
        if sum(block.m for block in blocks) == m:
            return tuple(blocks)
    return (replace(cut((m, n))[0], transposed=swapped),)


def _views(graph: Graph | None, names: Sequence[str]) -> Iterator[MatrixView]:
    """Views of a weight in the first layer that uses it."""
    for node in () if graph is None else graph.layers:
        views = [view for view in node.matrices if view.parameter in names]
        if views:
            yield from views
            return


def _multiplies(graph: Graph | None, names: Sequence[str]) -> bool:
    views = list(_views(graph, names))
    return any(view.part is None and view.rows is None for view in views)


def _check_apart(sites: Sequence[Site]) -> None:
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for site in sites:
        tensor = site.tensor
        size = tensor.element_size()
        first = int(tensor.storage_offset()) * size
        reach = zip(tensor.shape, tensor.stride(), strict=True)
        last = first + size * (1 + sum((side - 1) * step for side, step in reach))
        key = tensor.untyped_storage().data_ptr()
        for start, end, name in spans.get(key, []):
            if first < end and start < last:
                raise DomainError(
                    "each weight that is filled has memory of its own, got "
                    f"{site.name} and {name}, which share a part of theirs; leave one "
                    "out by select="
                )
        spans.setdefault(key, []).append((first, last, site.name))
