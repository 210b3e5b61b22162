"""The layouts of stacked matrices by name; who stores what is told in `splits`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from spectrank.errors import ShapeError
from spectrank.model.splits import (
    Attention,
    Experts,
    Layout,
    Options,
    Part,
    Rows,
    Shape,
    Stack,
    heads_of,
)


@final
@dataclass(frozen=True)
class Directions:
    """One stack of gates per direction along the first of three axes."""

    gates: Stack

    def __call__(self, shape: Shape, options: Options) -> tuple[Part, ...]:
        """The parts of a tensor of some shape; ShapeError where it cannot be cut."""
        if len(shape) != 3 or shape[0] not in {1, 2}:
            raise ShapeError(
                "gates of directions are stacked along 3 axes, the first of 1 or 2, "
                f"the tensor has the shape {shape}"
            )
        found = []
        for direction, suffix in zip(range(shape[0]), ("", ".reverse"), strict=False):
            for part in self.gates(shape[1:], options):
                assert isinstance(part.take, Rows)
                take = replace(part.take, expert=direction)
                found.append(Part(part.view + suffix, part.shape, take))
        return tuple(found)


def _both(
    name: str,
    description: str,
    options: tuple[str, ...],
    needs: tuple[str, ...],
    make: Callable[[bool], Callable[[Shape, Options], tuple[Part, ...]]],
) -> list[Layout]:
    return [
        Layout(name, description, options, make(False), needs),
        Layout(
            f"{name}-transposed",
            f"{description}; stored (inputs, outputs)",
            options,
            make(True),
            needs,
        ),
    ]


STACKS: tuple[Layout, ...] = (
    *_both(
        "qkv",
        "query, key and value stacked",
        ("heads", "each"),
        (),
        lambda t: Attention(False, False, t),
    ),
    *_both(
        "qkv-interleaved",
        "query, key and value of one head after the other",
        ("heads", "each"),
        ("heads",),
        lambda t: Attention(True, False, t),
    ),
    *_both(
        "qkv-grouped",
        "all queries, then fewer keys, then as few values",
        ("heads", "kv_heads", "each"),
        ("heads", "kv_heads"),
        lambda t: Attention(False, True, t),
    ),
    *_both(
        "qkv-grouped-interleaved",
        "per key head its queries, the key and the value",
        ("heads", "kv_heads", "each"),
        ("heads", "kv_heads"),
        lambda t: Attention(True, True, t),
    ),
    *_both(
        "kv", "key and value stacked", (), (), lambda t: Stack("kv.", ("k", "v"), t)
    ),
    *_both(
        "gate-up",
        "gate and up projection stacked",
        (),
        (),
        lambda t: Stack("gate-up.", ("gate", "up"), t),
    ),
    *_both(
        "gate-up-interleaved",
        "gate and up projection row by row",
        (),
        (),
        lambda t: Stack("gate-up.", ("gate", "up"), t, interleaved=True),
    ),
    *_both(
        "lstm",
        "gates i, f, g, o stacked, as torch and Keras store them",
        (),
        (),
        lambda t: Stack("lstm.gate.", ("i", "f", "g", "o"), t),
    ),
    *_both(
        "gru",
        "gates r, z, n stacked, as torch stores them",
        (),
        (),
        lambda t: Stack("gru.gate.", ("r", "z", "n"), t),
    ),
    *_both(
        "gru-zrn",
        "gates z, r, n stacked, as Keras stores them",
        (),
        (),
        lambda t: Stack("gru.gate.", ("z", "r", "n"), t),
    ),
    Layout(
        "lstm-directions",
        "per direction gates i, o, f, g stacked, as ONNX stores them",
        (),
        Directions(Stack("lstm.gate.", ("i", "o", "f", "g"))),
    ),
    Layout(
        "gru-directions",
        "per direction gates z, r, n stacked, as ONNX stores them",
        (),
        Directions(Stack("gru.gate.", ("z", "r", "n"))),
    ),
    Layout(
        "rnn-directions",
        "one matrix per direction, as ONNX stores a plain recurrent layer",
        (),
        Directions(Stack("", ("linear",))),
    ),
    *_both(
        "heads",
        "the outputs of each head of one projection",
        ("heads",),
        ("heads",),
        lambda t: heads_of(False, t),
    ),
    *_both(
        "heads-in",
        "the inputs from each head of an output projection",
        ("heads",),
        ("heads",),
        lambda t: heads_of(True, t),
    ),
    *_both(
        "experts",
        "one matrix per expert, (experts, outputs, inputs)",
        (),
        (),
        lambda t: Experts((), transposed=t),
    ),
    *_both(
        "experts-gate-up",
        "gate and up stacked per expert",
        (),
        (),
        lambda t: Experts(("gate", "up"), transposed=t),
    ),
    *_both(
        "experts-gate-up-interleaved",
        "gate and up row by row per expert",
        (),
        (),
        lambda t: Experts(("gate", "up"), interleaved=True, transposed=t),
    ),
)
"""Every layout of 2-D and 3-D stacks."""
