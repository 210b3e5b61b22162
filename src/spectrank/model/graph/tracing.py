"""One trace of a model by torch.export, without a trace left in the model.

The forward pass runs once on tensors without values. Mode, parameters, buffers, hooks,
attributes, configuration and random state are put back bit for bit.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.exported_program import ExportedProgram
from torch.utils import _pytree as pytree

from spectrank.errors import ArgumentTypeError, DomainError

PREFIX = "model."


@dataclass(frozen=True)
class Trace:
    """What torch.export saw.

    Attributes:
        program: Its program; names of parameters start with ``PREFIX``.
        input_names: One per flattened input, tensors and constants alike.
        output_names: One per tensor that the model returns.
        dropped: Outputs that are neither tensors nor containers of tensors.
    """

    program: ExportedProgram
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dropped: tuple[str, ...]


class _Tensors(nn.Module):
    """The model with its outputs flattened to the tensors among them."""

    def __init__(self, model: nn.Module, names: list[str], dropped: list[str]) -> None:
        super().__init__()
        self.model = model
        self._names, self._dropped = names, dropped

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Run the model.

        Args:
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The tensors of its output, in order.
        """
        self._names.clear()
        self._dropped.clear()
        found = list(_leaves(self.model(*args, **kwargs), ""))
        for path, value in found:
            (self._names if isinstance(value, Tensor) else self._dropped).append(path)
        return tuple(value for _, value in found if isinstance(value, Tensor))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    items: list[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", range(len(value)))
        items = list(zip(names, value, strict=True))
    elif is_dataclass(value) and not isinstance(value, type):
        items = [(item.name, getattr(value, item.name)) for item in fields(value)]
    elif value is None or isinstance(value, bool | int | float | str):
        return
    else:
        yield path or "output", value
        return
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))


def trace(model: nn.Module, example_input: Any, kwargs: Mapping[str, Any]) -> Trace:
    """Export a model in the mode it is in.

    Args:
        model: Any module; left as it was.
        example_input: A tensor, a tuple of arguments or a mapping of keyword
            arguments.
        kwargs: Further keyword arguments.

    Returns:
        The program with names for its inputs and outputs.

    Raises:
        DomainError: torch.export refuses the model, or it returns no tensor.
    """
    args, keywords = _arguments(example_input, kwargs)
    names: list[str] = []
    dropped: list[str] = []
    try:
        with undisturbed(model), _quiet():
            program = torch.export.export(
                _Tensors(model, names, dropped), args, keywords, strict=False
            )
    except Exception as error:
        hint = (
            "if forward takes the mapping itself, pass ({...},); "
            if isinstance(example_input, Mapping)
            else ""
        )
        known = _known_cause(model)
        why, out = known or (
            _first_lines(error),
            f"{hint}trace the part without data-dependent control flow, pass another "
            "example_input, or state the links as "
            "wiring=[(source layer, target layer, [steps]), ...]",
        )
        raise DomainError(
            "a model graph is read from one trace by torch.export, which refused "
            f"{type(model).__name__}: {why}; {out}"
        ) from error
    if not names:
        raise DomainError(
            f"a model graph ends at the tensors the model returns, "
            f"{type(model).__name__} returned none; return them from forward"
        )
    return Trace(
        program, _input_names(model, args, keywords), tuple(names), tuple(dropped)
    )


def _known_cause(model: nn.Module) -> tuple[str, str] | None:
    """Why a model was refused, and the way out; None where it is not known."""
    for name, parameter in model.named_parameters():
        lazy: bool = nn.parameter.is_lazy(parameter)
        if lazy:
            return (
                f"{name!r} has no shape before the first batch",
                "run one batch through the model first",
            )
    for name, module in model.named_modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return (
                "its forward pass talks to other processes",
                "pass the model that it wraps, its .module",
            )
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.momentum is None
            and module.training
        ):
            return (
                f"{name!r} averages its statistics by a count of batches",
                "set its momentum to a number for the trace: no gradient depends on it",
            )
    return None


def _arguments(
    example_input: Any, kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_input, Tensor):
        return (example_input,), dict(kwargs)
    if isinstance(example_input, tuple):
        return example_input, dict(kwargs)
    if isinstance(example_input, Mapping):
        return (), {**example_input, **kwargs}
    raise ArgumentTypeError(
        "example_input must be a tensor, a tuple of arguments or a mapping of keyword "
        f"arguments, got {type(example_input).__name__}; for one argument of another "
        "type pass (argument,)"
    )


def _first_lines(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300].rstrip('.')}"


def _input_names(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, ...]:
    positional = [
        item.name
        for item in inspect.signature(model.forward).parameters.values()
        if item.kind in {item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD}
    ]
    first = [
        positional[i] if i < len(positional) else f"args.{i}" for i in range(len(args))
    ]
    paths, _ = pytree.tree_flatten_with_path((tuple(args), dict(kwargs)))
    names = []
    side: Any
    top: Any
    for (side, top, *rest), _ in paths:
        head = first[top.idx] if side.idx == 0 else str(top.key)
        tail = [str(getattr(key, "key", getattr(key, "idx", key))) for key in rest]
        names.append(".".join([head, *tail]))
    return tuple(names)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # On failure torch prints the partial program to stderr and logs it too.
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass can change of a model and of random state.

    The fused path of TransformerEncoder is off meanwhile: it would hide the layers.

    Args:
        model: Any module.

    Yields:
        Nothing.
    """
    saved = [_Saved.of(module) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = sorted(
        {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    )
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for item in saved:
            item.restore()


@dataclass(frozen=True)
class _Saved:
    """The attributes of one module, with the contents of its containers."""

    module: nn.Module
    attributes: Mapping[str, Any]
    containers: tuple[tuple[Any, Any], ...]

    @classmethod
    def of(cls, module: nn.Module) -> _Saved:
        attributes = dict(vars(module))
        containers = tuple(
            (value, value.copy())
            for value in attributes.values()
            if isinstance(value, list | dict | set)
        )
        return cls(module, attributes, containers)

    def restore(self) -> None:
        state = vars(self.module)
        state.clear()
        state.update(self.attributes)
        for value, copy in self.containers:
            value.clear()
            if isinstance(value, list):
                value.extend(copy)
            else:
                value.update(copy)
