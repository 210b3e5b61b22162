"""BERT and GPT-2 of the transformers package, from their own batches."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from spectrank.errors import DomainError
from spectrank.model.capture import capture

C = 3
LOSS = {"gradients": "loss", "loss": "cross_entropy"}


def first_batch(batch, model, **options):
    with capture(model, **options) as taps:
        return next(taps.over([batch]))


def tiny(name, **options):
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(5)
        if name == "bert":
            config = transformers.BertConfig(
                vocab_size=20, hidden_size=8, num_hidden_layers=2,
                num_attention_heads=2, intermediate_size=16, num_labels=C,
            )  # fmt: skip
            return transformers.BertForSequenceClassification(config).double()
        config = transformers.GPT2Config(
            vocab_size=20, n_embd=8, n_layer=2, n_head=2, n_positions=12,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config).double()


def sentences():
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(20, (4, 7), generator=generator)
    mask = torch.ones(4, 7, dtype=torch.long)
    mask[1, 4:] = mask[3, 2:] = 0
    return ids, mask


def test_bert_is_captured_from_its_own_batches():
    model = tiny("bert").eval()
    ids, mask = sentences()
    y = torch.tensor([0, 2, 1, 0])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": y}
    seen = first_batch(batch, model, **LOSS)
    loss = F.cross_entropy(model(ids, mask).logits, y, reduction="sum")
    for name in ("bert.encoder.layer.0.intermediate.dense", "classifier"):
        weight = model.get_submodule(name).weight
        expected = torch.autograd.grad(loss, weight, retain_graph=True)[0]
        deltas = seen[name].gradient_rows(select="all")
        outer = deltas.T @ seen[name].input_rows(select="all")
        assert torch.allclose(outer, expected, rtol=0, atol=1e-12)
    rows = seen["bert.encoder.layer.1.output.dense"]
    assert len(rows.output_rows()) == int(mask.sum())
    assert torch.equal(rows.row_labels(), y.repeat_interleave(mask.sum(1)))
    assert seen["bert.embeddings.word_embeddings"].input_rows().dtype == torch.int64


def test_gpt2_is_captured_with_the_shifted_loss_and_refused_without():
    model = tiny("gpt2").eval()
    ids, mask = sentences()
    labels = ids.masked_fill(mask == 0, -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    with pytest.raises(DomainError, match="pass loss='causal_cross_entropy'"):
        capture(model, **LOSS)
    seen = first_batch(batch, model, gradients="loss", loss="causal_cross_entropy")
    # The library's own loss is the mean over shifted labels, in float32.
    own = model(**batch).loss * (labels[:, 1:] != -100).sum()
    assert torch.allclose(seen.loss, own.double(), rtol=1e-5)
    layer = model.transformer.h[0].mlp.c_fc
    record = seen["transformer.h.0.mlp.c_fc"]
    outer = record.input_rows(select="all").T @ record.gradient_rows(select="all")
    expected = torch.autograd.grad(seen_sum(model, batch), layer.weight)[0]
    assert torch.allclose(outer, expected, rtol=0, atol=1e-12)
    assert seen["lm_head"].tied_to == ("transformer.wte",)
    # A callable may let the model read its labels.
    other = first_batch(
        batch,
        model,
        gradients="loss",
        loss=lambda out, b: out.loss * (b["labels"][:, 1:] != -100).sum(),
    )
    again = other["transformer.h.0.mlp.c_fc"].output_gradients
    assert torch.allclose(again, record.output_gradients, rtol=0, atol=1e-6)


def seen_sum(model, batch):
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    logits = model(**inputs).logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), reduction="sum")
