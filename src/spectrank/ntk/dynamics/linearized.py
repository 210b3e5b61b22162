r"""`linearize`: the model of first order in its parameters, as a module to train."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectrank.model.capture.undisturbed import plain_execution
from spectrank.model.differentiation import Tangent, load_forward_mode, twice_backward
from spectrank.ntk.checks import check_model
from spectrank.ntk.parameters import choose_parameters


@final
class Linearized(nn.Module):
    r""":math:`f_{lin}(x) = f(x; p_0) + J(x)(p - p_0)`, J at :math:`p_0`.

    Affine in its parameters p, exactly f at p = p_0, and with a constant tangent
    kernel, that of f at p_0. Its parameters are those of a copy of the model, under the
    same names with ``model.`` before; the ones that are not trained stay at p_0 and
    require no gradient. One forward-mode pass a call, no Jacobian; two backward passes
    where a step has no forward mode, or an embedding has a ``padding_idx``, whose row
    has a tangent but no gradient. J is that of forward mode also where a step has a
    backward pass of its own or runs under ``torch.no_grad``.

    Attributes:
        model: Copy of the user's model, whose trained parameters are p.
        trained: Names of the trained parameters in the user's model.
    """

    def __init__(self, model: nn.Module, trained: Sequence[str]) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.trained = tuple(trained)
        self._padded = any(
            isinstance(m, nn.Embedding) and m.padding_idx is not None
            for m in model.modules()
        )
        self._anchors: list[str] = []
        for i, (name, p) in enumerate(self.model.named_parameters()):
            p.requires_grad_(name in self.trained)
            p.grad = None
            if name in self.trained:
                # Names of buffers have no dots.
                self.register_buffer(f"anchor_{i}", p.detach().clone())
                self._anchors.append(f"anchor_{i}")

    def anchors(self) -> dict[str, Tensor]:
        """Return p_0 of the trained parameters by their names in the user's model.

        Returns:
            Name to tensor.
        """
        found = (self.get_buffer(name) for name in self._anchors)
        return dict(zip(self.trained, found, strict=True))

    def displacement(self) -> dict[str, Tensor]:
        """Return p - p_0 by name, with its graph.

        Returns:
            Name to tensor.
        """
        named = dict(self.model.named_parameters())
        return {name: named[name] - p for name, p in self.anchors().items()}

    def forward(self, *inputs: Any) -> Tensor:
        """Return the outputs of first order.

        Args:
            *inputs: What the model takes.

        Returns:
            What the model returns, one tensor.
        """
        load_forward_mode()
        fixed = {
            name: p.detach()
            for name, p in self.model.named_parameters()
            if name not in self.trained
        }

        def outputs(p: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(self.model, fixed | p, inputs)
            return found

        # Fused attention has no forward mode; an in-place scratch is not tracked.
        with (
            sdpa_kernel(SDPBackend.MATH),
            plain_execution(self.model),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message="There is a performance drop")
            way = twice_backward if self._padded else _first_order
            pair = way(outputs, self.anchors(), self.displacement())
        first_order: Tensor = pair[0] + pair[1]
        return first_order

    def extra_repr(self) -> str:
        """Return how many parameters are trained."""
        return f"{len(self.trained)} trained parameters, affine in them"


def _first_order(
    f: Callable[[Tangent], Tensor], at: Tangent, along: Tangent
) -> tuple[Tensor, Tensor]:
    try:
        pair = jvp(f, (at,), (along,))
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        # A step without forward mode; what is wrong otherwise fails here too.
        return twice_backward(f, at, along)
    return pair[0], pair[1]


def linearize(
    model: nn.Module, params: str | Sequence[str] | None = None
) -> Linearized:
    r"""Linearise a model in its parameters: :math:`f(x; p_0) + J(x)(p - p_0)`.

    A module of its own, to be trained by any optimizer with any loss; its training by
    gradient descent is that of `gradient_flow` with the empirical kernel of ``model``,
    and its distance from the training of ``model`` itself falls with the width. Exact
    at p_0. The model is copied and left as it was.
    Source (derived): tests/ntk/dynamics/test_dynamics_linearized.py.

    Args:
        model: Any module whose output is a function of one sample.
        params: Glob pattern(s) on the names of the parameters to be trained; None for
            those that require a gradient. The others stay fixed.

    Returns:
        The linearised model, in the mode that ``model`` is in.

    Raises:
        ArgumentTypeError: If ``model`` is no module or ``params`` no pattern.
        DomainError: If a layer couples samples or draws at random (BatchNorm and
            dropout in train mode), or nothing is to be trained.
        UnknownNameError: If a pattern matches nothing.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
        >>> linear = linearize(model)
        >>> x = torch.ones(2, 3)
        >>> bool(torch.equal(linear(x), model(x)))
        True
    """  # noqa: DOC502 - raised by the functions called
    check_model(model)
    return Linearized(model, choose_parameters(model, params))
