"""Layouts: how several matrices are stacked in one tensor, by the names of the field.

A layout is written as ``name`` or ``name:option=value:...``, such as ``lstm`` or
``qkv-interleaved:heads=12``. It cuts one stored tensor into parts, each a matrix
(outputs, inputs) with a view of its own: ``qkv.q``, ``lstm.gate.f``, ``expert.3.up``.
A name that ends in ``-transposed`` means a tensor stored (inputs, outputs).

Heads of width d = rows / heads. Which library stores what:

    qkv                      q | k | v: torch in_proj_weight, GPT-2 c_attn (transposed)
    qkv-interleaved          per head q, k, v: GPT-NeoX, BLOOM, Falcon-RW, GPT-BigCode
    qkv-grouped              all q | kv_heads k | kv_heads v: Phi-3, Falcon-7B
    qkv-grouped-interleaved  per kv head its q, then k, v: Falcon-40B, InternLM2
    kv                       k | v: fused cross attention
    gate-up                  gate | up: Phi-3, GLM
    gate-up-interleaved      gate, up row by row: gpt-oss
    lstm, gru                i | f | g | o, r | z | n: torch; gru-zrn: Keras
    *-directions             per direction i | o | f | g, z | r | n: ONNX
    experts-*                one matrix, or gate and up, per expert: Mixtral, Qwen-MoE
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.implicit import Operand

Shape = tuple[int, ...]
Options = Mapping[str, str]


@final
@dataclass(frozen=True)
class Part:
    """One matrix of a stored tensor.

    Attributes:
        view: Name of the matrix, as it stands in the ``view`` column.
        shape: (m, n) = (outputs, inputs).
        take: Stored tensor to matrix; shares memory where the strides allow it.
        stored: Number of stored entries that it is made of; None for m n.
    """

    view: str
    shape: tuple[int, int]
    take: Callable[[Tensor], Operand]
    stored: int | None = None


@final
@dataclass(frozen=True)
class Rows:
    """Cuts rows, or every so many rows, out of a stored tensor.

    Attributes:
        first: First row of a group.
        last: One past the last row of a group.
        groups: The rows are so many groups of equal height; the same rows are taken
            of each.
        expert: Index along the first of three axes.
        transposed: The tensor is stored (inputs, outputs).
        columns: The rows counted are those of the transpose: inputs, not outputs.
    """

    first: int
    last: int
    groups: int = 1
    expert: int | None = None
    transposed: bool = False
    columns: bool = False

    def __call__(self, weight: Tensor) -> Tensor:
        """Cut the matrix (m, n) out.

        Args:
            weight: As stored.

        Returns:
            The matrix; no copy but for interleaved groups of several rows.
        """
        if self.expert is not None:
            weight = weight[self.expert]
        if self.transposed != self.columns:
            weight = weight.mT
        height = weight.shape[0] // self.groups
        # A split axis is a view whatever the strides.
        groups = weight.view(self.groups, height, weight.shape[1])
        matrix = groups[:, self.first : self.last].flatten(0, 1)
        return matrix.mT if self.columns else matrix


@final
@dataclass(frozen=True)
class Layout:
    """One way to stack matrices in a tensor.

    Attributes:
        name: As written before the options.
        description: The convention in one line.
        options: Names of the options.
        parts: Shape and options to the parts; raises ShapeError where they do not fit.
        needs: Those of the options that have to be written.
        first: The option that may be written without its name; None for none.
    """

    name: str
    description: str
    options: tuple[str, ...]
    parts: Callable[[Shape, Options], tuple[Part, ...]]
    needs: tuple[str, ...] = ()
    first: str | None = None


def count_option(options: Options, name: str) -> int:
    """A whole number of at least 1 among the options.

    Args:
        options: As written.
        name: Of the option.

    Returns:
        The number.

    Raises:
        DomainError: It is missing or no such number.
    """
    text = options.get(name)
    if text is None or not text.isdecimal() or int(text) < 1:
        raise DomainError(
            f"a layout needs {name} as a whole number of at least 1, got {text!r}; "
            f"write e.g. 'qkv-interleaved:{name}=12'"
        )
    return int(text)


def _divided(rows: int, by: int, what: str) -> int:
    if rows % by:
        raise ShapeError(f"{rows} rows are not {by} {what} of equal height")
    return rows // by


@final
@dataclass(frozen=True)
class Stack:
    """Rows of a 2-D tensor, named, in order, repeated in groups."""

    prefix: str
    names: tuple[str, ...]
    transposed: bool = False
    interleaved: bool = False

    def __call__(self, shape: Shape, options: Options) -> tuple[Part, ...]:
        """The parts of a tensor of some shape; ShapeError where it cannot be cut."""
        m, n = _sides(shape, self.transposed)
        height = _divided(m, len(self.names), f"parts ({', '.join(self.names)})")
        groups = height if self.interleaved else 1
        width = height // groups if groups else 0
        return tuple(
            Part(
                f"{self.prefix}{name}",
                (height, n),
                Rows(
                    i * width,
                    (i + 1) * width,
                    groups or 1,
                    transposed=self.transposed,
                ),
            )
            for i, name in enumerate(self.names)
        )


@final
@dataclass(frozen=True)
class Attention:
    """Query, key and value, whole or head by head."""

    interleaved: bool
    grouped: bool
    transposed: bool = False

    def __call__(self, shape: Shape, options: Options) -> tuple[Part, ...]:
        """The parts of a tensor of some shape; ShapeError where it cannot be cut."""
        m, n = _sides(shape, self.transposed)
        each = "each" in options
        if not (self.interleaved or self.grouped or each):
            return Stack("qkv.", ("q", "k", "v"), self.transposed)(shape, options)
        heads = count_option(options, "heads")
        kv_heads = count_option(options, "kv_heads") if self.grouped else heads
        if heads % kv_heads:
            raise ShapeError(f"{heads} heads are not groups of {kv_heads} key heads")
        d = _divided(m, heads + 2 * kv_heads, "heads of q, k and v")
        groups = kv_heads if self.interleaved else 1
        sizes = [heads // groups, kv_heads // groups, kv_heads // groups]
        found: list[Part] = []
        start = 0
        for name, size in zip("qkv", sizes, strict=True):
            rows = Rows(start * d, (start + size) * d, groups, None, self.transposed)
            if each:
                found += _by_head(f"qkv.{name}", rows, size, d, n, m)
            else:
                found.append(Part(f"qkv.{name}", (groups * size * d, n), rows))
            start += size
        return tuple(found)


def _by_head(view: str, rows: Rows, size: int, d: int, n: int, m: int) -> list[Part]:
    """Every head of one of q, k, v: its rows counted in the whole tensor."""
    height = m // rows.groups
    return [
        Part(
            f"{view}.head.{group * size + i}",
            (d, n),
            Rows(
                group * height + rows.first + i * d,
                group * height + rows.first + (i + 1) * d,
                transposed=rows.transposed,
            ),
        )
        for group in range(rows.groups)
        for i in range(size)
    ]


def heads_of(columns: bool, transposed: bool) -> Callable[..., tuple[Part, ...]]:
    """The heads of one projection, by its outputs or by its inputs.

    Args:
        columns: Whether the heads are inputs.
        transposed: The tensor is stored (inputs, outputs).

    Returns:
        Shape and options to the parts.
    """

    def parts(shape: Shape, options: Options) -> tuple[Part, ...]:
        m, n = _sides(shape, transposed)
        heads = count_option(options, "heads")
        d = _divided(n if columns else m, heads, "heads")
        size = (m, d) if columns else (d, n)
        return tuple(
            Part(
                f"head.{i}",
                size,
                Rows(i * d, (i + 1) * d, 1, None, transposed, columns),
            )
            for i in range(heads)
        )

    return parts


@final
@dataclass(frozen=True)
class Experts:
    """Matrices of several experts along the first of three axes."""

    names: tuple[str, ...]
    interleaved: bool = False
    transposed: bool = False

    def __call__(self, shape: Shape, options: Options) -> tuple[Part, ...]:
        """The parts of a tensor of some shape; ShapeError where it cannot be cut."""
        if len(shape) != 3:
            raise ShapeError(
                f"experts are stacked along 3 axes, the tensor has {len(shape)}"
            )
        number, *sides = shape
        if not self.names:
            m, n = _sides(sides, self.transposed)
            return tuple(
                Part(f"expert.{e}", (m, n), Rows(0, m, 1, e, self.transposed))
                for e in range(number)
            )
        stack = Stack("", self.names, self.transposed, self.interleaved)
        inner = stack(tuple(sides), options)
        found = []
        for e in range(number):
            for part in inner:
                assert isinstance(part.take, Rows)
                rows = part.take
                take = Rows(rows.first, rows.last, rows.groups, e, rows.transposed)
                found.append(Part(f"expert.{e}.{part.view}", part.shape, take))
        return tuple(found)


def _sides(shape: Sequence[int], transposed: bool) -> tuple[int, int]:
    if len(shape) != 2:
        raise ShapeError(f"a stack of matrices has 2 axes, the tensor has {len(shape)}")
    first, second = shape
    return (second, first) if transposed else (first, second)
