"""The graph whose links a user states, for a model that cannot be traced."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn
from torch.nn.utils import parametrize

from spectrank.errors import DomainError, UnknownNameError
from spectrank.model.graph.graph import Graph
from spectrank.model.graph.names import Names
from spectrank.model.graph.nodes import Link, MatrixView, Node
from spectrank.model.iterate import iter_matrices

Stated = Sequence[tuple[str, str] | tuple[str, str, Sequence[str]]]
_OPS = {
    "Linear": "linear",
    "Embedding": "embedding",
    "Conv1d": "conv1d",
    "Conv2d": "conv2d",
    "Conv3d": "conv3d",
    "ConvTranspose1d": "conv_transpose1d",
    "ConvTranspose2d": "conv_transpose2d",
    "ConvTranspose3d": "conv_transpose3d",
    "LSTM": "lstm",
    "GRU": "gru",
    "Bilinear": "bilinear",
}


def stated_graph(model: nn.Module, wiring: Stated) -> Graph:
    """Make the graph of stated links.

    Args:
        model: Any module; not run.
        wiring: (source, target) or (source, target, [steps]): paths of modules with
            parameters, names of parameters, ``output`` or ``output.NAME``, and as
            sources the arguments of forward or ``input``.

    Returns:
        The graph, its links as stated.

    Raises:
        DomainError: There is no link, one is malformed, or they form a circle.
        UnknownNameError: A name is none of these.
    """  # noqa: DOC502 - raised where the nodes are made
    items = [_item(item) for item in wiring]
    if not items:
        raise DomainError(
            "a wiring must state at least one link, got none; "
            "write wiring=[(source layer, target layer, [steps]), ...]"
        )
    names = Names.of(model)
    maker = _Maker(model, names)
    made: dict[str, Node] = {}
    for source, target, _ in items:
        for end, name in (("source", source), ("target", target)):
            if name not in made:
                made[name] = maker.node(name, end)
    ids = {name: f"n{i}" for i, name in enumerate(_ordered(made, items))}
    nodes = tuple(
        replace(
            made[name],
            id=id_,
            inputs=tuple(dict.fromkeys(ids[s] for s, t, _ in items if t == name)),
        )
        for name, id_ in ids.items()
    )
    held = {name for node in nodes for name in node.parameters.values()}
    return Graph(
        label=type(model).__name__,
        nodes=nodes,
        tied={name: all_ for name, all_ in names.aliases.items() if len(all_) > 1},
        frozen=names.frozen,
        unused=tuple(name for name in names.aliases if name not in held),
        stated=tuple(
            Link(ids[source], ids[target], through, reason="stated, not traced")
            for source, target, through in items
        ),
    )


def _item(
    item: tuple[str, str] | tuple[str, str, Sequence[str]],
) -> tuple[str, str, tuple[str, ...]]:
    parts = tuple(item) if isinstance(item, tuple | list) else (item,)
    steps = parts[2] if len(parts) == 3 else ()
    named = len(parts) in {2, 3} and all(isinstance(part, str) for part in parts[:2])
    if not named or isinstance(steps, str):
        raise DomainError(
            "a link is stated as (source layer, target layer, [steps]), "
            f"got {item!r}; the steps are a list of names"
        )
    return str(parts[0]), str(parts[1]), tuple(str(step) for step in steps)


def _ordered(
    made: Mapping[str, Node], items: Iterable[tuple[str, str, tuple[str, ...]]]
) -> list[str]:
    """Names with sources before targets."""
    waiting = {name: {s for s, t, _ in items if t == name} for name in made}
    found: list[str] = []
    while waiting:
        ready = [name for name, before in waiting.items() if before <= set(found)]
        if not ready:
            raise DomainError(
                "stated links lead from inputs to outputs without a circle, "
                f"got one among {', '.join(sorted(waiting))}; leave out the link "
                "that leads back"
            )
        found += ready
        for name in ready:
            del waiting[name]
    return found


class _Maker:
    """Nodes for the names of a model."""

    def __init__(self, model: nn.Module, names: Names) -> None:
        self._names = names
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._matrices = {matrix.name: matrix for matrix in iter_matrices(model)}
        self._arguments = {"input", *inspect.signature(model.forward).parameters}

    def node(self, name: str, end: str) -> Node:
        """The node of a name.

        Args:
            name: As stated.
            end: ``source`` or ``target``.

        Returns:
            A node without id and inputs.

        Raises:
            UnknownNameError: The model has no such layer, parameter or argument.
        """
        module = self._modules.get(name)
        if name and module is not None and self._local(name, module):
            return self._layer(name, module)
        if name in self._names.first:
            return self._bare(name)
        if end == "source" and name in self._arguments:
            return Node("", "input", "input", name)
        if end == "target" and name.split(".")[0] == "output":
            return Node("", "output", "output", name)
        known = [path for path, item in self._modules.items() if path and item]
        known += [*self._names.first, *sorted(self._arguments), "output"]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownNameError(
            "a link joins layers with parameters of their own, parameters, arguments "
            f"of forward and 'output', got {name!r} as {end}; {hint}"
            "model.named_modules() lists the layers"
        )

    def _local(self, path: str, module: nn.Module) -> dict[str, str]:
        """Role to first name of a module's own parameters, the computed included."""
        found = {
            role: self._names.first[f"{path}.{role}"]
            for role, item in module._parameters.items()
            if item is not None
        }
        made = [n for n in self._names.computed if n.rpartition(".")[0] == path]
        factors = {f for name in made for f in self._names.computed[name]}
        found = {role: name for role, name in found.items() if name not in factors}
        return {name.rpartition(".")[2]: name for name in made} | found

    def _layer(self, path: str, module: nn.Module) -> Node:
        parameters = self._local(path, module)
        kind = parametrize.type_before_parametrizations(module).__name__
        return Node(
            id="",
            kind="layer",
            op=_OPS.get(kind, kind),
            name=path,
            parameters=parameters,
            matrices=self._views(parameters.values()),
        )

    def _bare(self, name: str) -> Node:
        first = self._names.first[name]
        return Node(
            id="",
            kind="layer",
            op="linear",
            name=name,
            parameters={"weight": first},
            matrices=self._views([first]),
        )

    def _views(self, names: Iterable[str]) -> tuple[MatrixView, ...]:
        found = [self._matrices[name] for name in names if name in self._matrices]
        return tuple(MatrixView(item.name, item.view, item.shape) for item in found)
