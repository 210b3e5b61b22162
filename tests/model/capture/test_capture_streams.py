"""Random streams of a pass, and what it keeps in memory."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spectrank.errors import DomainError
from spectrank.model.capture import capture

N, C = 6, 3


def build():
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, C)
    )


def data(count=3 * N):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(count, 5, generator=generator)
    return x, torch.randint(C, (count,), generator=generator)


def loader():
    x, y = data()
    return list(zip(x.split(N), y.split(N), strict=True))


def test_a_pass_is_repeatable_and_its_batches_differ():
    x = torch.ones(2, 5)
    dropout = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 40))
    with capture(dropout, mode="train") as taps:
        first = [b["1"].inputs for b in taps.over([x, x])]
        second = [b["1"].inputs for b in taps.over([x, x])]
    # Dropout draws anew for every batch, from one stream.
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.manual_seed(99)
    with capture(dropout, mode="train") as taps:
        third = [b["1"].inputs for b in taps.over([x, x])]
    assert not torch.equal(first[0], third[0])


def test_a_shuffled_loader_does_not_move_the_callers_random_state():
    model = nn.Linear(5, C)
    x, y = data()
    shuffled = DataLoader(TensorDataset(x, y), batch_size=N, shuffle=True)
    before = torch.get_rng_state()
    with capture(model, "") as taps:
        seen = torch.cat([b[""].inputs for b in taps.over(shuffled)])
        assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(seen, x)
    assert torch.equal(seen.sort(0).values, x.sort(0).values)


def test_records_are_dropped_when_the_next_batch_begins():
    model, batches = build(), loader()
    gc.disable()
    try:
        with capture(model, gradients="loss", loss="cross_entropy") as taps:
            refs, kept = [], []
            for batch in taps.over(batches):
                # No cycle may keep them: reference counts alone free the last batch.
                assert all(ref() is None for ref in refs)
                seen = batch["0"]
                refs = [
                    weakref.ref(t)
                    for t in (seen.inputs, seen.outputs, seen.output_gradients)
                ]
                kept.append(batch)
                del seen
        for index, batch in enumerate(kept):
            with pytest.raises(DomainError, match=f"those of batch {index} are"):
                batch["0"]
            with pytest.raises(DomainError, match="read inside the loop"):
                batch.layers  # noqa: B018
    finally:
        gc.enable()


def test_nothing_keeps_the_graph_alive():
    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark = mark = Mark()
            alive.append(weakref.ref(mark))
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    class Mark:
        pass

    class Marking(nn.Module):
        def forward(self, x):
            return Marked.apply(x)

    alive = []
    model = nn.Sequential(nn.Linear(5, 4), Marking(), nn.Linear(4, C))
    gc.disable()
    try:
        with capture(model, gradients="loss", loss="cross_entropy") as taps:
            for batch in taps.over(loader()):
                assert alive[-1]() is None
                assert not batch["0"].outputs.requires_grad
                assert not batch.loss.requires_grad
                assert not batch.outputs.requires_grad
    finally:
        gc.enable()
    assert len(alive) == 3
