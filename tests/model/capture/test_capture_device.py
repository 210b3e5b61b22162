"""Autocast, half precision and CUDA."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrank.model.capture import capture

N, D, C = 8, 16, 3
LOSS = {"gradients": "loss", "loss": "cross_entropy"}
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device here"
)


def draw(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def build():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Linear(D, D), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(D, C)
        )


Y = torch.arange(N) % C


def first_batch(model, batch, **options):
    with capture(model, **options) as taps:
        return next(taps.over([batch]))


def test_autocast_runs_layers_in_bfloat16_and_the_loss_in_float32():
    model, x = build().eval(), draw(N, D)
    batch = first_batch(model, (x, Y), autocast=torch.bfloat16, **LOSS)
    first, last = batch["0"], batch["3"]
    assert first.inputs.dtype == torch.float32
    assert {first.outputs.dtype, last.inputs.dtype} == {torch.bfloat16}
    assert last.output_gradients.dtype == torch.bfloat16
    assert batch.loss.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
    assert torch.equal(batch.outputs, expected)
    # softmax in float32 of bfloat16 logits, rounded once.
    delta = torch.softmax(expected.float(), 1) - F.one_hot(Y, C)
    assert torch.equal(last.output_gradients, delta.bfloat16())
    plain = first_batch(model, (x, Y), **LOSS)["0"]
    error = (first.output_gradients.float() - plain.output_gradients).abs().max()
    # bfloat16 has 8 bits; a few operations in a row.
    assert 0.0 < float(error) < 2**-5
    assert not torch.is_autocast_enabled("cpu")


def test_a_model_in_bfloat16_takes_batches_in_its_dtype():
    model, x = build().bfloat16(), draw(N, D)
    batch = first_batch(model, (x, Y), dtype=torch.bfloat16, **LOSS)
    assert batch["0"].outputs.dtype == torch.bfloat16
    assert batch["0"].gradient_rows().dtype == torch.bfloat16


@needs_cuda
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("gradients", ["loss", "logits"])
def test_batches_are_moved_to_the_model_on_cuda(gradients, autocast):
    model, x = build(), draw(N, D)
    options = {"gradients": gradients, "loss": "cross_entropy", "autocast": autocast}
    on_cpu = first_batch(model, (x, Y), **options)
    on_cuda = first_batch(model.cuda(), (x, Y), **options)
    atol = 1e-4 if autocast is None else 5e-2
    for name in ("0", "3"):
        a, b = on_cpu[name], on_cuda[name]
        assert b.outputs.device.type == b.row_labels().device.type == "cuda"
        assert torch.allclose(a.outputs, b.outputs.cpu(), atol=atol)
        assert torch.allclose(a.output_gradients, b.output_gradients.cpu(), atol=atol)


@needs_cuda
def test_the_random_state_of_cuda_stays_where_it_was():
    model, x = build().cuda(), draw(N, D)
    before = torch.cuda.get_rng_state_all()
    with capture(model, mode="train", **LOSS) as taps:
        a, b = (batch["3"].inputs for batch in taps.over([(x, Y), (x, Y)]))
        (c,) = (batch["3"].inputs for batch in taps.over([(x, Y)]))
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), before))
    assert torch.equal(a, c)
    assert not torch.equal(a, b)
