"""One accumulator from those of all processes."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.linalg.moments._accumulator import Accumulator
from spectrank.linalg.moments._rows import plain_arithmetic

AnyMoments = TypeVar("AnyMoments", bound=Accumulator)


def all_reduce(
    moments: AnyMoments, group: dist.ProcessGroup | None = None
) -> AnyMoments:
    """Merge the accumulators of all processes; each gets the same bits.

    A collective: every process of the group must call it. States pass one after the
    other to the group's first process, which merges them in the order of ranks and
    sends the result to all, so that nothing depends on the processes' own arithmetic
    and memory is that of four states however many processes there are. A process
    without rows, or without some class, takes part like any other.

    Args:
        moments: This process's accumulator; unchanged.
        group: Processes to merge over; all by default.

    Returns:
        A new accumulator on the device of ``moments``.

    Raises:
        DomainError: No process group is initialised, or the processes' settings differ.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise DomainError(
            "all_reduce merges over an initialised process group, got none; call "
            "torch.distributed.init_process_group first, or leave all_reduce out in "
            "a single process"
        )
    mine = moments.state_dict()
    # NCCL moves nothing that lies in host memory.
    device = moments.device
    if dist.get_backend(group) == "nccl" and device.type != "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    with plain_arithmetic(device):
        _check_settings(mine["settings"].to(device), group)
        ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
        first = ranks[0]
        merged = (
            type(moments).from_state_dict(mine) if dist.get_rank() == first else None
        )
        for rank in ranks[1:]:
            theirs = _broadcast(mine, rank, device, group)
            if merged is not None:
                merged.merge(
                    type(moments).from_state_dict(theirs, device=moments.device)
                )
        result = mine if merged is None else merged.state_dict()
        result = _broadcast(result, first, device, group)
    return type(moments).from_state_dict(result, device=moments.device)


def _check_settings(settings: Tensor, group: dist.ProcessGroup | None) -> None:
    """Raise on every process alike if settings differ, so that none waits forever."""
    size = dist.get_world_size(group)
    # Types differ in the number of their settings.
    padded = settings.new_zeros(16)
    padded[: len(settings)] = settings
    padded[-1] = len(settings)
    everyone = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(everyone, padded, group=group)
    for index, theirs in enumerate(everyone):
        if not torch.equal(theirs, everyone[0]):
            raise DomainError(
                "all processes must reduce accumulators of equal type and settings, "
                f"got {theirs.tolist()} on process {index} of the group and "
                f"{everyone[0].tolist()} on its first; construct all alike"
            )


def _broadcast(
    state: dict[str, Tensor],
    source: int,
    device: torch.device,
    group: dist.ProcessGroup | None,
) -> dict[str, Tensor]:
    """Return the state of ``source``; ``state`` gives names, shapes and dtypes."""
    received = {}
    for name in sorted(state):
        tensor = state[name].to(device, copy=True).contiguous()
        dist.broadcast(tensor, src=source, group=group)
        received[name] = tensor
    return received
