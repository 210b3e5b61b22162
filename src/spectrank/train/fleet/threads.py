"""Groups on threads of their own, each operation on one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_threaded(device: torch.device) -> Iterator[None]:
    """One thread an operation inside, as before outside.

    A batched product of 64 x 64 matrices ends before a second thread has woken up, and
    one thread rounds the same way however many groups run beside it.

    Args:
        device: Of the fleet; nothing is done for other devices than the CPU.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
