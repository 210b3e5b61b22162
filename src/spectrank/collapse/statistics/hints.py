"""Batches of a pass, with the way out where torch refuses what a batch holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import Batch


def hinted(batches: Iterable[Batch], model: nn.Module) -> Iterator[Batch]:
    """Pass batches on; say what to do about inputs of another kind than the model's.

    Only what torch itself refused is told apart: a model may well cast its inputs.

    Args:
        batches: Of a pass; the model runs as they are drawn.
        model: That runs.

    Yields:
        The batches.

    Raises:
        ArgumentTypeError: An input is no tensor.
        DomainError: Inputs have another dtype than the parameters.
        RuntimeError: Whatever else the model raises.
        TypeError: Likewise.
    """
    drawn = iter(batches)
    while True:
        try:
            batch = next(drawn)
        except StopIteration:
            return
        except TypeError as error:
            if "must be Tensor, not" not in str(error):
                raise
            kind = str(error).rpartition("must be Tensor, not ")[2]
            raise ArgumentTypeError(
                f"inputs must be tensors, the model was given {kind} ({error}); "
                "convert them in the loader, e.g. torch.as_tensor(inputs)"
            ) from error
        except RuntimeError as error:
            if isinstance(error, DomainError) or not _of_dtypes(str(error)):
                raise
            found = {p.dtype for p in model.parameters() if p.is_floating_point()}
            names = " and ".join(sorted(str(dtype) for dtype in found))
            way = f"dtype={names}" if len(found) == 1 else "dtype= the input's own"
            raise DomainError(
                f"inputs must have the dtype of the model, whose parameters are {names}"
                f", and torch refused them ({error}); pass {way}, or cast the model"
            ) from error
        yield batch


def _of_dtypes(message: str) -> bool:
    return "same dtype" in message or ("Input type" in message and "same" in message)
