"""Graph: the nodes of a model, the links between its layers, and questions to both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult

from spectrank.errors import DomainError, UnknownNameError
from spectrank.model.graph.flow import columns
from spectrank.model.graph.junctions import Junction, junctions
from spectrank.model.graph.links import links
from spectrank.model.graph.nodes import Link, Node
from spectrank.model.graph.normalised import Normalisation, norms_after
from spectrank.model.graph.plain import as_dict, from_dict
from spectrank.model.graph.sharing import reused
from spectrank.model.graph.show import layer_list
from spectrank.model.graph.signature import signature

if TYPE_CHECKING:
    from spectrank.table import Table


@dataclass(frozen=True, repr=False)
class Graph:
    """Which layer of a model feeds which, and through what.

    Attributes:
        label: Class name of the model.
        nodes: Every step of the dataflow, inputs first.
        tied: First name of each parameter with several names, to all of them.
        frozen: Names of the parameters that need no gradient.
        unused: Names of the parameters that no output depends on.
        dropped: Outputs of the model that are no tensors, such as a cache.
        stated: Links that the user stated instead of a trace; None where they are
            derived from the nodes.

    Example:
        >>> from torch import nn
        >>> from spectrank.model.graph import graph
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = graph(net)
        >>> [(link.source, link.target, link.through) for link in found.links]
        [('n0', 'n1', ()), ('n1', 'n3', ('relu',)), ('n3', 'n4', ())]
        >>> found.layers[1].parameters["weight"], found.layers[1].matrix_shape
        ('2.weight', (2, 8))
    """

    label: str
    nodes: tuple[Node, ...]
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    frozen: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    stated: tuple[Link, ...] | None = None

    def __getitem__(self, id_: str) -> Node:
        """Return the node of an id.

        Args:
            id_: Such as ``n0``.

        Returns:
            The node.

        Raises:
            UnknownNameError: No node has it.
        """
        node = self._by_id.get(id_)
        if node is None:
            raise UnknownNameError(
                f"a node is asked for by its id, got {id_!r}; ids are n0 to "
                f"n{len(self.nodes) - 1}, and find(name) gives the nodes of a name"
            )
        return node

    @cached_property
    def _by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """Which layer's outputs feed which layer's inputs, through which steps."""
        return links(self.nodes) if self.stated is None else self.stated

    @cached_property
    def junctions(self) -> tuple[Junction, ...]:
        """Every sum of branches, each branch with its kind of skip."""
        return junctions(self.nodes)

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes that multiply by a learned matrix, in order."""
        return tuple(node for node in self.nodes if node.kind == "layer")

    @property
    def unknowns(self) -> tuple[Node, ...]:
        """The nodes that are not understood; ``note`` says why."""
        return tuple(node for node in self.nodes if node.kind == "unknown")

    @property
    def reused(self) -> dict[str, tuple[str, ...]]:
        """Name of each parameter that several nodes hold, to their ids.

        Nodes that hold different rows of one parameter do not share it.
        """
        return reused(self.nodes)

    def find(self, name: str) -> tuple[Node, ...]:
        """Nodes of a name, or that hold a parameter of that name.

        Args:
            name: Such as ``fc1``, ``fc1.weight`` or the name of an input.

        Returns:
            Layers, norms and other nodes with parameters first, in order; empty where
            there is none.
        """
        first = next((k for k, names in self.tied.items() if name in names), name)
        found = [
            node
            for node in self.nodes
            if node.name == name or first in node.parameters.values()
        ]
        return tuple(sorted(found, key=lambda node: not node.learned))

    def into(self, layer: Node | str) -> tuple[Link, ...]:
        """Links that end at a node.

        Args:
            layer: The node or its id.

        Returns:
            The links.
        """
        id_ = layer if isinstance(layer, str) else layer.id
        return tuple(link for link in self.links if link.target == id_)

    def out_of(self, layer: Node | str) -> tuple[Link, ...]:
        """Links that start at a node.

        Args:
            layer: The node or its id.

        Returns:
            The links.
        """
        id_ = layer if isinstance(layer, str) else layer.id
        return tuple(link for link in self.links if link.source == id_)

    def norms_after(self, layer: Node | str) -> tuple[Normalisation, ...]:
        """Norms that read a layer's outputs through nothing but linear steps.

        Args:
            layer: The node or its id.

        Returns:
            One per norm and way; ``alone`` says whether the norm takes the scale of
            the layer away entirely.

        Raises:
            DomainError: The links are stated, so the steps between are not known.
        """
        if self.stated is not None:
            raise DomainError(
                "norms_after follows traced steps, this graph has stated links; "
                "make it with an example_input"
            )
        id_ = layer if isinstance(layer, str) else layer.id
        return norms_after(self.nodes, self[id_].id)

    def columns(self, link: Link) -> tuple[int, ...] | None:
        """For each input feature of a link's target, the source's output feature.

        A convolution's features are its channels. Flattened channels, slices,
        concatenations and heads of attention are followed exactly.

        Args:
            link: One of ``links``.

        Returns:
            One number per input feature of the target, -1 where another source
            stands; None where features mix, or where that is not known.
        """
        return columns(self._by_id, link)

    def signature(self) -> str:
        """Hexadecimal digest of the structure: names and wrapping do not count.

        Equal for a net written as modules, with functions on bare parameters, or
        wrapped; different where a skip, an activation, an order or a size differs.

        Returns:
            64 characters.

        Raises:
            DomainError: The links are stated, so the structure is not known.
        """
        if self.stated is not None:
            raise DomainError(
                "a signature covers every step, this graph has stated links only; "
                "make it with an example_input"
            )
        return signature(self.nodes)

    def show(self) -> None:
        """Print the layers, one after the other, with what feeds each of them."""
        Console().print(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the graph as plain JSON.

        ``nodes`` and ``links`` are the condensed form: inputs, learned constants,
        layers, outputs and unknowns. ``full`` holds the rest, losslessly.

        Returns:
            A dictionary that ``from_dict`` reads.
        """
        return as_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Graph:
        """Read what ``as_dict`` returned.

        Args:
            data: The dictionary, also after a trip through JSON.

        Returns:
            An equal graph.

        Raises:
            DomainError: It is of another version or lacks a part.
        """  # noqa: DOC502 - raised by the function called
        return cls(**from_dict(data))

    def table(self) -> Table:
        """Rows for what is not understood; the graph itself is in the provenance.

        Returns:
            One row of kind ``skip`` per unknown, with its reason, and
            ``provenance["graph"]``, from which a report draws.
        """
        from spectrank.table import Table

        rows = [
            {
                "kind": "skip",
                "subject": node.name or node.id,
                "metric": "graph",
                "variant": node.op,
                "status": "skipped",
                "reason": node.note,
            }
            for node in self.unknowns
        ]
        return Table.from_rows(rows, provenance={"graph": self.as_dict()})

    def __repr__(self) -> str:
        counts = f"{len(self.layers)} layers, {len(self.links)} links"
        unknown = len(self.unknowns)
        return f"Graph({self.label}: {counts}, {unknown} unknown)"

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        yield from layer_list(self.label, self.nodes, self.links, self.unused)
