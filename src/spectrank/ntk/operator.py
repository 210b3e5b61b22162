"""The kernel as a linear operator: products with vectors, never the kernel itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError
from spectrank.model.differentiation import differentiable
from spectrank.ntk.jacobian.blocks import slices
from spectrank.ntk.jacobian.products import Direction, VectorProducts
from spectrank.ntk.jacobian.rows import Rows
from spectrank.ntk.memory import check_memory, working_bytes
from spectrank.ntk.request import Outputs, Request, make_request


def operator(
    model: nn.Module,
    x: Tensor,
    *,
    outputs: Outputs = "full",
    params: str | Sequence[str] | None = None,
    block: int | None = None,
    memory: int | None = None,
) -> KernelOperator:
    r"""Matrix-free empirical kernel: :math:`K v = J (J^T v)`.

    One backward and one forward-mode pass over the samples for each vector. Memory is
    that of a few copies of the parameters and of the activations of a block of samples:
    neither K nor J is formed. It reads the parameters at each product: after a training
    step it is the operator of the new ones.

    For ``trace`` one product is c of them, :math:`\sum_i J_i J_i^T v`: use
    ``sum_logits`` or ``full`` where they serve as well.

    Args:
        model: As for ``empirical``.
        x: (n, ...).
        outputs: ``full``: (n c, n c), entry a * c + i for sample a and output i;
            ``trace`` and ``sum_logits``: (n, n).
        params: Glob pattern(s); None for all that require a gradient.
        block: Samples per block; None for what fits.
        memory: Ceiling in bytes of the working arrays; 4 GiB by default, of which
            256 MiB are taken where that suffices.

    Returns:
        A symmetric ``scipy.sparse.linalg.LinearOperator`` of float64. Vectors are cast
        to the dtype of the model and results back: with a float32 model they are good
        to float32 rounding, so give ``eigsh`` a ``tol`` no smaller.

    Raises:
        ArgumentTypeError: An argument is of another type.
        ShapeError: The outputs are not (batch, classes), or there is no sample.
        DomainError: The model or its inputs are refused by ``empirical``, or the
            ceiling is too low.
        UnknownNameError: A form or parameter of that name does not exist.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> K = operator(model, torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        >>> K @ np.array([1.0, 0.0])
        array([5., 1.])
    """  # noqa: DOC502 - raised by the functions called
    request = make_request(model, x, None, outputs, params)
    check_memory(0, memory, block, None)
    row = sum(request.numel(n) for n in request.params) * request.probe.dtype.itemsize
    row += request.probe.activation_bytes
    return KernelOperator(request, working_bytes(memory, 0, row), row, block)


@final
class KernelOperator(LinearOperator):  # type: ignore[misc]
    """A symmetric operator; see ``operator``.

    Args:
        request: What it is the kernel of.
        working: Bytes that working arrays may take.
        row: Bytes of one direction in the space of parameters.
        block: Samples per block, or None.
    """

    def __init__(
        self, request: Request, working: int, row: int, block: int | None
    ) -> None:
        self._request = request
        per = request.probe.num_outputs if request.outputs == "full" else 1
        size = len(request.x1) * per
        # A vector takes its image in parameter space twice (made and added up), and
        # what a block of samples keeps. More than 64 at once buy nothing.
        self._vectors = min(64, max(1, working // (4 * row)))
        self._working, self._block = working, block
        self._products: VectorProducts | None = None
        self._checked = False
        super().__init__(np.dtype(np.float64), (size, size))

    def _matvec(self, v: NDArray[Any]) -> NDArray[Any]:
        return self._matmat(v.reshape(-1, 1))[:, 0]

    def _rmatvec(self, v: NDArray[Any]) -> NDArray[Any]:
        return self._matvec(v)

    def _rmatmat(self, v: NDArray[Any]) -> NDArray[Any]:
        return self._matmat(v)

    def _adjoint(self) -> KernelOperator:
        return self

    def _transpose(self) -> KernelOperator:
        return self

    def _matmat(self, v: NDArray[Any]) -> NDArray[Any]:
        if np.iscomplexobj(v):
            raise ArgumentTypeError(
                "a kernel operator takes real vectors, got complex ones; apply it to "
                "the real and the imaginary part"
            )
        if v.shape[1] == 0:
            return np.zeros((self.shape[0], 0))
        dtype, device = self._request.probe.dtype, self._request.x1.device
        columns = torch.as_tensor(v.T, dtype=dtype, device=device)
        with differentiable(self._request.model):
            rows = Rows(self._request.model, self._request.params)
            if self._products is None:
                self._products = VectorProducts(rows)
            self._products.renew(rows)
            found = [
                self._apply(self._products, columns[part])
                for part in slices(len(columns), self._vectors)
            ]
        return torch.cat(found).T.to("cpu", torch.float64).numpy()

    def _apply(self, products: VectorProducts, v: Tensor) -> Tensor:
        """K v for rows v (r, size)."""
        n, c = len(self._request.x1), self._request.probe.num_outputs
        form = self._request.outputs
        if form == "full":
            return self._through(products, v.reshape(-1, n, c)).flatten(1)
        if form == "sum_logits":
            return self._through(products, v[:, :, None].expand(-1, n, c)).sum(2)
        total = torch.zeros_like(v)
        for i in range(c):
            cotangent = v.new_zeros(len(v), n, c)
            cotangent[:, :, i] = v
            total += self._through(products, cotangent)[:, :, i]
        return total

    def _through(self, products: VectorProducts, u: Tensor) -> Tensor:
        """J J^T u for u (r, n, c)."""
        x = self._request.x1
        kept = 8 * max(1, self._request.probe.activation_bytes) * len(u)
        fit = max(1, self._working // kept) if self._block is None else self._block
        parts = slices(len(x), fit)
        total: Direction = {}
        for part in parts:
            for name, found in products.pull(x[part], u[:, part]).items():
                total[name] = total[name] + found if name in total else found
        # Every block once: what is wrong for one vector is wrong for the next.
        check, self._checked = not self._checked, self._checked or bool(u.any())
        pushed = [products.push(x[part], total, check=check) for part in parts]
        return torch.cat(pushed, dim=1)
