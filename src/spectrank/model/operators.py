"""The view ``conv-operator``: a kernel as the linear map it is on a grid of inputs.

Written ``conv-operator:32x32`` with the size of the layer's input; of a module the
stride, the padding and the rest are those of the layer, and the size may come of an
example input. Of a file they are written too: ``conv-operator:32x32:padding=circular``
or ``conv-operator:32x32:padding=1:stride=2``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.implicit import (
    CircularConvolution,
    Implicit,
    PaddedConvolution,
)
from spectrank.model.splits import Layout, Options, Part, Shape

VIEW = "conv-operator"
_AXES = re.compile(r"\d{1,9}(x\d{1,9})*")
_PAIRS = re.compile(r"\d{1,9}-\d{1,9}(x\d{1,9}-\d{1,9})*")
_EXAMPLES = {"size": "32x32", "groups": "4", "transposed": "1"}
# What goes without saying in a note.
_USUAL = {"stride": {"1"}, "dilation": {"1"}, "groups": {"1"}, "output_padding": {"0"}}


@final
@dataclass(frozen=True)
class Operator:
    """Takes a kernel as a convolution of a stated size.

    Attributes:
        options: Complete: size, padding, stride, dilation, groups, ...
        kernel: Shape of the kernel.
    """

    options: Mapping[str, str] = field(hash=False)
    kernel: Shape

    @property
    def outline(self) -> Implicit:
        """The operator of a kernel without values: its shape and what it will cost."""
        return self(torch.empty(self.kernel, device="meta"))

    @property
    def note(self) -> str:
        """What its rows say of it: the size, the padding and what else is not usual."""
        parts = [f"input {self.options.get('size')}"]
        parts.append(f"padding {_shortened(self.options.get('padding', 'unknown'))}")
        for name, usual in _USUAL.items():
            text = self.options.get(name)
            if text is not None and not set(text.split("x")) <= usual:
                parts.append(f"{name.replace('_', ' ')} {text}")
        return ", ".join(parts)

    def __call__(self, weight: Tensor) -> Implicit:
        """The convolution, not formed.

        Args:
            weight: (out, in / groups, *taps); (in, out / groups, *taps) transposed.

        Returns:
            The operator.

        Raises:
            ShapeError: What is known does not make an operator of this kernel.
        """
        d = weight.ndim - 2
        size = _axes(self.options, "size", d)
        if size is None:
            raise ShapeError(
                "the size of the input is not known; write e.g. "
                f"'{VIEW}:{'x'.join(['32'] * d)}', or pass an example input with a "
                "module"
            )
        stride = _axes(self.options, "stride", d) or (1,) * d
        dilation = _axes(self.options, "dilation", d) or (1,) * d
        groups = int(self.options.get("groups", "1"))
        padding = self._padding(d)
        if "transposed" in self.options:
            return self._transposed(weight, size, stride, dilation, groups, padding)
        if padding is not None:
            return PaddedConvolution(weight, size, padding, stride, dilation, groups)
        operator = CircularConvolution(weight, size, stride, dilation, groups)
        self._check_wrap(weight, operator)
        return operator

    def _padding(self, d: int) -> tuple[tuple[int, int], ...] | None:
        """Zeros before and after each axis; None on a torus."""
        text = self.options.get("padding")
        if text is None:
            raise ShapeError(
                "the padding of a convolution is not known of a file; write e.g. "
                f"'{VIEW}:SIZE:padding=circular' or '{VIEW}:SIZE:padding=1'"
            )
        if text == "circular":
            return None
        if _PAIRS.fullmatch(text):
            pairs = _pairs(text)
        elif not _AXES.fullmatch(text):
            raise ShapeError(
                f"the operator is defined for zeros and circular padding, the layer "
                f"pads by {text!r}; write padding=circular or padding=1 to have another"
            )
        else:
            axes = _axes(self.options, "padding", d)
            assert axes is not None
            pairs = tuple((x, x) for x in axes)
        if len(pairs) != d:
            raise ShapeError(
                f"padding {text!r} has {len(pairs)} axes, the kernel has {d}"
            )
        return pairs

    def _check_wrap(self, weight: Tensor, operator: CircularConvolution) -> None:
        """Circular padding that is not one full turn makes another operator."""
        around = self.options.get("around")
        if around is None:
            return
        asked = PaddedConvolution(
            weight,
            operator.grid.size,
            _pairs(around),
            operator.grid.stride,
            operator.grid.dilation,
            operator.groups,
        )
        if asked.outputs != operator.outputs:
            raise ShapeError(
                f"circular padding of {around} gives outputs {asked.outputs}, a torus "
                f"of {operator.grid.size} has {operator.outputs}: not one convolution "
                "of a torus"
            )

    def _transposed(
        self,
        weight: Tensor,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        padding: tuple[tuple[int, int], ...] | None,
    ) -> Implicit:
        if padding is None:
            raise ShapeError("a transposed convolution has no circular padding")
        more = _axes(self.options, "output_padding", len(size)) or (0,) * len(size)
        outputs = tuple(
            (side - 1) * step - sum(pad) + gap * (taps - 1) + extra + 1
            for side, step, pad, gap, taps, extra in zip(
                size, stride, padding, dilation, weight.shape[2:], more, strict=True
            )
        )
        if min(outputs) < 1:
            raise ShapeError(f"an input of {size} makes no output; write a larger size")
        return PaddedConvolution(
            weight, outputs, padding, stride, dilation, groups, transposed=True
        )


def _axes(options: Options, name: str, d: int) -> tuple[int, ...] | None:
    text = options.get(name)
    if text is None:
        return None
    numbers = tuple(int(x) for x in text.split("x"))
    numbers = numbers * d if len(numbers) == 1 else numbers
    if len(numbers) != d:
        raise ShapeError(f"{name} {text!r} has {len(numbers)} axes, the kernel has {d}")
    return numbers


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (pair.split("-") for pair in text.split("x"))
    return tuple((int(before), int(after)) for before, after in pairs)


def _shortened(text: str) -> str:
    """Padding that is the same before and after is one number an axis."""
    if not _PAIRS.fullmatch(text):
        return text
    pairs = _pairs(text)
    if any(before != after for before, after in pairs):
        return text
    return "x".join(str(before) for before, _ in pairs)


def check_operator(options: Options) -> None:
    """Refuse options that no kernel of any shape could take.

    Args:
        options: As written after ``conv-operator``.

    Raises:
        DomainError: One is not written as numbers.
    """
    for name, text in options.items():
        pairs = name in {"padding", "around"} and _PAIRS.fullmatch(text)
        counts = "0" not in text.split("x") or "padding" in name
        plain = counts and _AXES.fullmatch(text)
        if pairs or plain or (name, text) == ("padding", "circular"):
            continue
        also = ", or circular" if name == "padding" else ""
        least = "" if "padding" in name else " of at least 1"
        raise DomainError(
            f"{name} of {VIEW} is written as numbers{least} with x between{also}, got "
            f"{text!r}; e.g. {name}={_EXAMPLES.get(name, '1x1')}"
        )


def _parts(shape: Shape, options: Options) -> tuple[Part, ...]:
    if not 3 <= len(shape) <= 5:
        raise ShapeError(
            f"view {VIEW!r} needs 3 to 5 dimensions, the tensor has {len(shape)}"
        )
    take = Operator(dict(options), shape)
    try:
        operator = take.outline
    except DomainError as error:
        raise ShapeError(str(error)) from error
    return (Part(VIEW, operator.shape, take, operator.num_entries),)


OPERATOR = Layout(
    VIEW,
    "a kernel as the linear map of a whole input, (out * outputs) x (in * inputs)",
    (
        "size",
        "padding",
        "stride",
        "dilation",
        "groups",
        "around",
        "transposed",
        "output_padding",
    ),
    _parts,
    first="size",
)
"""The layout of operators."""


def geometry(module: nn.Module) -> dict[str, str] | None:
    """What a convolution layer tells of its operator, as options of the layout.

    Args:
        module: Any layer.

    Returns:
        Options; None where it is no convolution of torch.
    """
    if not isinstance(module, _ConvNd):
        return None
    known = {
        "stride": _text(module.stride),
        "dilation": _text(module.dilation),
        "groups": str(module.groups),
    }
    around = "x".join(f"{before}-{after}" for before, after in _around(module))
    if module.padding_mode == "circular":
        known |= {"padding": "circular", "around": around}
    elif module.padding_mode == "zeros":
        known["padding"] = around
    else:
        known["padding"] = str(module.padding_mode)
    if isinstance(module, _ConvTransposeNd):
        known |= {"transposed": "1", "output_padding": _text(module.output_padding)}
    return known


def _around(module: _ConvNd) -> Iterator[tuple[int, int]]:
    # padding='same' of an even kernel puts the odd one after.
    flat = list(module._reversed_padding_repeated_twice)
    for axis in reversed(range(len(module.kernel_size))):
        yield flat[2 * axis], flat[2 * axis + 1]


def _text(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
