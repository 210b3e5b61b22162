"""Statistics of all processes from those of each."""

from __future__ import annotations

import torch
import torch.distributed as dist

from spectrank.collapse.statistics.accumulate import LayerAccumulator
from spectrank.collapse.statistics.keep import Parts, RowKeeper
from spectrank.collapse.statistics.state import Pass
from spectrank.linalg.moments import all_reduce

# What a keeper may hold, and the dtypes of it, by number: tensors travel, not objects.
_NAMES = ("rows", "labels", "predictions", "targets", "gradients", "keys", "order")
_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
)


def reduce_pass(state: Pass, group: dist.ProcessGroup) -> None:
    """Merge a pass over processes, in place; each ends with the same sums.

    A collective: every process must have had at least one batch of the same kind.

    Args:
        state: Of this process.
        group: Processes to merge over.
    """
    for layer in state.layers:
        _reduce_layer(layer, group)
    outputs = state.outputs
    if outputs.logits is not None:
        outputs.logits = all_reduce(outputs.logits, group)
    if outputs.targets is not None:
        outputs.targets = all_reduce(outputs.targets, group)
    outputs.keeper = _reduced_rows(outputs.keeper, state.device, group)
    counts = [state.num_samples, state.num_batches, outputs.num_labelled]
    counts += [outputs.num_agreeing, outputs.num_nonfinite]
    whole = torch.tensor(counts, device=state.device)
    dist.all_reduce(whole, group=group)
    (
        state.num_samples,
        state.num_batches,
        outputs.num_labelled,
        outputs.num_agreeing,
        outputs.num_nonfinite,
    ) = (int(x) for x in whole.tolist())
    sums = torch.tensor(
        [state.divisor, state.loss], dtype=torch.float64, device=state.device
    )
    dist.all_reduce(sums, group=group)
    state.divisor, state.loss = sums.tolist()


def _reduce_layer(layer: LayerAccumulator, group: dist.ProcessGroup) -> None:
    # One process may have met the layer, or rows without a label, alone.
    ran, positions, rest = _largest(
        [layer.cells is not None, layer.cells_per_class, layer.rest is not None],
        layer.device,
        group,
    )
    if ran:
        layer.open(positions)
        assert layer.cells is not None
        layer.cells = all_reduce(layer.cells, group)
        if layer.inputs is not None:
            layer.inputs = all_reduce(layer.inputs, group)
    if rest:
        own = layer.make_moments(1) if layer.rest is None else layer.rest
        layer.rest = all_reduce(own, group)
    layer.keeper = _reduced_rows(layer.keeper, layer.device, group)


def _reduced_rows(
    keeper: RowKeeper, device: torch.device, group: dist.ProcessGroup
) -> RowKeeper:
    """Return a keeper of the rows of all processes, in the order of ranks."""
    held = keeper.state()
    whole = RowKeeper(keeper.capacity, seed=0)
    for rank in dist.get_process_group_ranks(group):
        layout = torch.zeros(2 + 3 * len(_NAMES), dtype=torch.int64, device=device)
        if dist.get_rank() == rank:
            layout.copy_(torch.tensor([keeper.num_seen, *_layout(held)]))
        dist.broadcast(layout, src=rank, group=group)
        num_seen, num_held, *described = (int(x) for x in layout.tolist())
        parts: Parts = {}
        for place, name in enumerate(_NAMES if num_held else ()):
            present, dtype, columns = described[3 * place : 3 * place + 3]
            if present:
                shape = (num_held, columns) if columns else (num_held,)
                part = torch.empty(shape, dtype=_DTYPES[dtype], device=device)
                if dist.get_rank() == rank:
                    part.copy_(held[name])
                dist.broadcast(part, src=rank, group=group)
                parts[name] = part.cpu() if name in {"keys", "order"} else part
        whole.absorb(parts, num_seen)
    return whole


def _layout(held: Parts) -> list[int]:
    """Return the number of rows, then presence, dtype and columns of each part."""
    found = [len(held["keys"]) if held else 0]
    for name in _NAMES:
        part = held.get(name)
        if part is None:
            found += [0, 0, 0]
        else:
            columns = part.shape[1] if part.ndim == 2 else 0
            found += [1, _DTYPES.index(part.dtype), columns]
    return found


def _largest(
    values: list[int], device: torch.device, group: dist.ProcessGroup
) -> list[int]:
    whole = torch.tensor([int(v) for v in values], device=device)
    dist.all_reduce(whole, op=dist.ReduceOp.MAX, group=group)
    return [int(x) for x in whole.tolist()]
