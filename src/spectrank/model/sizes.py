"""Sizes of the inputs of convolution layers, seen in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model.capture.undisturbed import (
    RandomStream,
    plain_execution,
    undisturbed,
)

Sizes = Mapping[str, tuple[tuple[int, ...], ...]]


def input_sizes(model: nn.Module, example_input: Any) -> Sizes:
    """Spatial sizes of what each convolution of a model takes, in evaluation mode.

    The model and the random state are left as they were.

    Args:
        model: Any module.
        example_input: A tensor, a tuple of arguments or a mapping of keyword
            arguments.

    Returns:
        Path of a layer to the different sizes it has met, in order; a layer that was
        not run is not in it.

    Raises:
        ArgumentTypeError: ``model`` is no module.
        DomainError: The model does not run on the input.
    """  # noqa: DOC502 - raised by the functions called
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            "an example input needs a module to run, got a source of type "
            f"{type(model).__name__}; write the size, e.g. 'conv-operator:32x32'"
        )
    layers = {
        path: module
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _ConvNd)
    }
    met: dict[int, list[tuple[int, ...]]] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            size = tuple(args[0].shape[2 - (args[0].ndim == _axes(module) + 1) :])
            seen = met.setdefault(id(module), [])
            if size not in seen:
                seen.append(size)

    handles = [
        module.register_forward_pre_hook(note) for module in set(layers.values())
    ]
    try:
        _run(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return {p: tuple(met[id(m)]) for p, m in layers.items() if id(m) in met}


def _axes(module: nn.Module) -> int:
    assert isinstance(module, _ConvNd)
    return len(module.kernel_size)


def _run(model: nn.Module, example_input: Any) -> None:
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    if isinstance(example_input, Mapping):
        kwargs = example_input
    elif isinstance(example_input, tuple):
        args = example_input
    else:
        args = (example_input,)
    with (
        RandomStream().active(),
        undisturbed(model, "eval"),
        plain_execution(model),
        torch.no_grad(),
    ):
        try:
            model(*args, **kwargs)
        except Exception as error:
            raise DomainError(
                "the model must run on the example input, it raised "
                f"{type(error).__name__}: {error}; pass what its forward takes"
            ) from error
