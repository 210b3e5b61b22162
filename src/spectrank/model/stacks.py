"""The layouts of stacked matrices by name; who stores what is told in `splits`."""

from __future__ import annotations

from collections.abc import Callable

from spectrank.model.splits import (
    Attention,
    Experts,
    Layout,
    Options,
    Part,
    Shape,
    Stack,
    heads_of,
)


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
    Layout(
        "lstm",
        "gates i, f, g, o stacked, as torch stores them",
        (),
        Stack("lstm.gate.", ("i", "f", "g", "o")),
    ),
    Layout(
        "gru",
        "gates r, z, n stacked, as torch stores them",
        (),
        Stack("gru.gate.", ("r", "z", "n")),
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
