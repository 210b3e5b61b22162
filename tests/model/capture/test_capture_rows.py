"""Rows, their labels and their masks, against loops over samples and positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.errors import DomainError
from spectrank.model.capture import ModelCall, capture
from spectrank.model.capture.rows import patches

N, T, D, C = 4, 5, 6, 3


def draw(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def first_batch(model, batch, layers=None, **options):
    with capture(model, layers, **options) as taps:
        return next(taps.over([batch]))


class Tagger(nn.Module):
    """Token model with a mask; positions meet by a mean over the real ones."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.embed = nn.Embedding(9, D)
            self.mix = nn.Linear(D, D)
            self.head = nn.Linear(D, C)
        self.double()

    def forward(self, input_ids, attention_mask=None):
        h = self.embed(input_ids)
        weight = torch.ones_like(h[..., :1])
        if attention_mask is not None:
            weight = attention_mask[..., None].to(h.dtype)
        mean = (weight * h).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        return self.head(torch.tanh(self.mix(h + mean)))


def tokens():
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(9, (N, T), generator=generator)
    mask = torch.tensor([[1] * k + [0] * (T - k) for k in (5, 2, 3, 1)])
    labels = torch.randint(C, (N, T), generator=generator)
    labels[mask == 0] = -100
    labels[0, 1] = labels[2, 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


LOSS = {"gradients": "loss", "loss": "cross_entropy"}


def test_rows_of_tokens_are_those_of_a_loop_with_their_labels():
    batch = tokens()
    # Padding stays padding, whatever label it was given.
    batch["labels"][1, 4] = 1
    found = first_batch(Tagger(), batch, **LOSS)
    ids, mask, labels = batch.values()
    wanted = {
        "all": [(n, t) for n in range(N) for t in range(T)],
        "unmasked": [(n, t) for n in range(N) for t in range(T) if mask[n, t]],
        "labelled": [
            (n, t)
            for n in range(N)
            for t in range(T)
            if mask[n, t] and labels[n, t] != -100
        ],
    }
    assert len(wanted["labelled"]) == 9
    for select, places in wanted.items():
        n, t = (list(axis) for axis in zip(*places, strict=True))
        for name in ("mix", "head"):
            seen = found[name]
            for rows, tensor in (
                (seen.output_rows(select=select), seen.outputs),
                (seen.input_rows(select=select), seen.inputs),
                (seen.gradient_rows(select=select), seen.output_gradients),
            ):
                assert torch.equal(rows, tensor[n, t])
        assert torch.equal(seen.row_labels(select=select), labels[n, t])
        assert seen.row_samples(select=select).tolist() == n
        # An embedding reads indices.
        assert torch.equal(found["embed"].input_rows(select=select), ids[n, t])
        inputs = found["embed"].row_labels(select=select, of="inputs")
        assert torch.equal(inputs, labels[n, t])
    default = found["mix"].output_rows()
    assert torch.equal(default, found["mix"].output_rows(select="labelled"))
    with pytest.raises(
        DomainError, match="'labelled', 'unmasked' or 'all', got 'some'"
    ):
        found["mix"].output_rows(select="some")


def test_only_all_rows_add_up_to_the_weight_gradient():
    model, batch = Tagger(), tokens()
    seen = first_batch(model, batch, **LOSS)["mix"]
    logits = model(batch["input_ids"], batch["attention_mask"])
    loss = F.cross_entropy(logits.mT, batch["labels"], reduction="sum")
    expected = torch.autograd.grad(loss, model.mix.weight)[0]

    def outer(select):
        return seen.gradient_rows(select=select).T @ seen.input_rows(select=select)

    assert torch.allclose(outer("all"), expected, rtol=0, atol=FLOAT64)
    # Padding is not read by anybody, unlabelled tokens might be.
    assert torch.allclose(outer("unmasked"), expected, rtol=0, atol=FLOAT64)


def test_a_token_without_label_may_carry_gradient_to_a_layer_below():
    # The false friend of the test above: dropping unlabelled rows loses gradient.
    model, batch = Tagger(), tokens()
    seen = first_batch(model, batch, **LOSS)["embed"]
    logits = model(batch["input_ids"], batch["attention_mask"])
    loss = F.cross_entropy(logits.mT, batch["labels"], reduction="sum")
    expected = torch.autograd.grad(loss, model.embed.weight)[0]

    def table(select):
        rows = seen.input_rows(select=select), seen.gradient_rows(select=select)
        return torch.zeros(9, D, dtype=torch.float64).index_add(0, *rows)

    assert torch.allclose(table("all"), expected, rtol=0, atol=FLOAT64)
    assert not torch.allclose(table("labelled"), expected, rtol=0, atol=1e-3)


def test_a_label_per_sample_is_repeated_over_its_real_tokens():
    class Classifier(Tagger):
        def forward(self, input_ids, attention_mask=None):
            return super().forward(input_ids, attention_mask)[:, 0]

    batch = tokens() | {"labels": torch.tensor([2, 0, 1, 2])}
    found = first_batch(Classifier(), batch, **LOSS)
    assert found["mix"].row_labels().tolist() == [2] * 5 + [0] * 2 + [1] * 3 + [2]
    assert found.num_samples == N
    assert found.labels.tolist() == [2, 0, 1, 2]
    assert torch.equal(found.mask, batch["attention_mask"] == 1)


def test_an_ignored_sample_is_dropped_with_all_its_rows():
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(12, C)).double()
    y = torch.tensor([0, -100, 2, 1])
    found = first_batch(model, (draw(N, 2, T), y), **LOSS)
    assert found["0"].row_labels().tolist() == [0] * 4 + [2] * 4 + [1] * 4
    other = nn.CrossEntropyLoss(ignore_index=2)
    y = torch.tensor([0, 1, 2, 1])
    found = first_batch(model, (draw(N, 2, T), y), gradients="loss", loss=other)
    assert found["2"].row_labels().tolist() == [0, 1, 1]
    assert len(found["2"].output_rows()) == 3
    # Without a loss the usual index is taken; a class 2 is then a class.
    assert len(first_batch(model, (draw(N, 2, T), y))["2"].output_rows()) == 4


def test_a_loss_that_ignores_no_number_keeps_the_target_minus_100():
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)).double()
    y = torch.tensor([0, -100, 2, 1])
    found = first_batch(model, (draw(N, 2), y), gradients="loss", loss="mse")
    assert len(found["0"].gradient_rows()) == 4


def test_causal_labels_are_those_that_a_position_is_compared_with():
    batch = tokens()
    model = Tagger()
    found = first_batch(model, batch, gradients="loss", loss="causal_cross_entropy")
    labels = batch["labels"]
    kept = [
        (n, t)
        for n in range(N)
        for t in range(T - 1)
        if labels[n, t + 1] != -100 and batch["attention_mask"][n, t]
    ]
    seen = found["head"]
    assert seen.row_labels().tolist() == [int(labels[n, t + 1]) for n, t in kept]
    # delta of a logit is p - onehot of exactly that label.
    p = torch.softmax(seen.output_rows(), 1)
    onehot = F.one_hot(seen.row_labels(), C)
    assert torch.allclose(seen.gradient_rows(), p - onehot, rtol=0, atol=FLOAT64)


def test_channel_vectors_of_images_carry_the_label_of_their_image():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 2 * 3, C)
    ).double()
    x, y = draw(N, 2, 3, 4), torch.tensor([2, 0, 1, 1])
    found = first_batch(model, (x, y), ["0", "1", "3"], **LOSS)
    for name in ("0", "1"):
        seen = found[name]
        rows, places = seen.output_rows(), [
            (n, i, j) for n in range(N) for i in range(2) for j in range(3)
        ]  # fmt: skip
        for row, label, (n, i, j) in zip(rows, seen.row_labels(), places, strict=True):
            assert torch.equal(row, seen.outputs[n, :, i, j])
            assert label == y[n]
    # Rows of the inputs have positions of their own.
    seen = found["0"]
    assert torch.equal(seen.input_rows()[5], x[0, :, 1, 1])
    assert torch.equal(seen.row_labels(of="inputs"), y.repeat_interleave(12))


def test_dense_labels_belong_to_positions():
    model = nn.Conv2d(2, C, 1).double()
    x = draw(N, 2, 3, 4)
    y = torch.randint(C, (N, 3, 4), generator=torch.Generator().manual_seed(3))
    seen = first_batch(model, (x, y), "", **LOSS)[""]
    assert torch.equal(seen.row_labels(), y.flatten())
    pooled = nn.Sequential(nn.Conv2d(2, C, 2), nn.Upsample((3, 4))).double()
    seen = first_batch(pooled, (x, y), "0", **LOSS)["0"]
    with pytest.raises(DomainError, match="must belong to one sample"):
        seen.row_labels()
    assert torch.equal(seen.row_samples(), torch.arange(N).repeat_interleave(6))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    dims=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    data=st.data(),
)
def test_a_convolution_is_its_patches_times_its_unfolded_kernel(dims, groups, data):
    def pick(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(dims))

    mode = data.draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"]))
    kernel, stride, dilation, padding = pick(1, 3), pick(1, 2), pick(1, 2), pick(0, 2)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    conv = kind(
        2 * groups, 3 * groups, kernel, stride, padding, dilation, groups,
        padding_mode=mode, bias=False,
    ).double()  # fmt: skip
    x = draw(2, 2 * groups, *(5,) * dims)
    z = conv(x).detach().movedim(1, -1)
    blocks = patches(conv, x).chunk(groups, dim=-1)
    kernels = conv.weight.detach().flatten(1).chunk(groups)
    product = torch.cat([p @ k.T for p, k in zip(blocks, kernels, strict=True)], -1)
    assert torch.allclose(product, z, rtol=0, atol=10 * FLOAT64)


def test_time_first_sequences_are_told_by_sizes_or_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(D, D), nn.Linear(D, C)

        def forward(self, x):
            return self.head(self.rnn(x)[0]).mean(0)

    model, y = Net().double(), torch.tensor([2, 0, 1, 1])
    seen = first_batch(model, (draw(T, N, D), y), **LOSS)["head"]
    assert torch.equal(seen.row_labels(), y.repeat(T))
    # N = T: a guess would be right half of the time.
    seen = first_batch(model, (draw(N, N, D), y), **LOSS)["head"]
    with pytest.raises(DomainError, match="a batch size that differs from the length"):
        seen.row_labels()
    # The recurrence itself tells its order.
    seen = first_batch(model, (draw(N, N, D), y), **LOSS)["rnn"]
    assert torch.equal(seen.row_labels(), y.repeat(N))


def test_time_first_targets_are_read_with_batch_axis():
    model = nn.Sequential(nn.Linear(D, D), nn.Linear(D, C)).double()
    x = draw(T, N, D)
    y = torch.randint(C, (T, N), generator=torch.Generator().manual_seed(3))
    y[1, 2] = -100
    seen = first_batch(model, (x, y), batch_axis=1, **LOSS)["1"]
    flat = y.flatten()
    assert torch.equal(seen.row_labels(), flat[flat != -100])
    samples = torch.arange(N).repeat(T)
    assert torch.equal(seen.row_samples(), samples[flat != -100])
    # Without it the first axis counts, as everywhere in torch.
    seen = first_batch(model, (x, y), **LOSS)["1"]
    assert torch.equal(
        seen.row_samples(select="all"), torch.arange(T).repeat_interleave(N)
    )


def test_rows_that_a_model_flattens_are_not_given_labels_by_luck():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(D, D), nn.Linear(D, C)

        def forward(self, x):
            h = self.fc(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.head(h.mean(1))

    y = torch.tensor([2, 0, 1, 1])
    found = first_batch(Flat().double(), (draw(N, T, D), y), **LOSS)
    assert found["fc"].output_rows().shape == (N * T, D)
    with pytest.raises(
        DomainError, match=r"positions \(20,\) do not fit values \(4,\)"
    ):
        found["fc"].row_labels()


def test_a_second_axis_of_n_entries_is_not_taken_for_the_samples():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(D, D), nn.Linear(D, C)

        def forward(self, x):
            # (N, 2 N, d) cut to (2 N, N, d), as windowed attention does.
            h = self.fc(x.reshape(2 * N, N, D)).reshape(N, 2 * N, D)
            return self.head(h.mean(1))

    y = torch.tensor([2, 0, 1, 1])
    seen = first_batch(Windows().double(), (draw(N, 2 * N, D), y), **LOSS)["fc"]
    with pytest.raises(DomainError, match=r"positions \(8, 4\) do not fit"):
        seen.row_samples()


def test_the_features_of_an_unknown_layer_must_be_named():
    model = nn.Sequential(nn.Linear(D, D), nn.GELU()).double()
    seen = first_batch(model, draw(N, T, D), "1")["1"]
    with pytest.raises(DomainError, match="GELU does not tell on which of 3 axes"):
        seen.output_rows()
    assert torch.equal(seen.output_rows(feature_axis=-1), seen.outputs.flatten(0, 1))
    by_axis_1 = seen.output_rows(feature_axis=1)
    assert torch.equal(by_axis_1, seen.outputs.mT.flatten(0, 1))
    assert len(seen.row_samples(feature_axis=1)) == len(by_axis_1)
    assert first_batch(model, draw(N, D), "1")["1"].output_rows().shape == (N, D)


def test_what_has_no_rows_or_labels_says_so():
    bags = nn.Sequential(nn.EmbeddingBag(9, D), nn.Linear(D, C)).double()
    found = first_batch(bags, (tokens()["input_ids"], torch.zeros(N, C).double()))
    with pytest.raises(DomainError, match="sums bags of entries"):
        found["0"].input_rows()
    with pytest.raises(DomainError, match="rows have labels where the targets are int"):
        found["1"].row_labels()
    with pytest.raises(DomainError, match="must have been captured, there are none"):
        found["1"].gradient_rows()
    with pytest.raises(DomainError, match="inputs unfold for Conv1d"):
        found["1"].input_rows(unfold=True)
    with pytest.raises(DomainError, match="inputs unfold for Conv1d"):
        patches(nn.ConvTranspose1d(2, 3, 2), draw(N, 2, T))


def test_logit_gradients_have_rows_per_logit():
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(12, C)).double()
    seen = first_batch(model, draw(N, 2, T), gradients="logits")["0"]
    rows = seen.gradient_rows()
    assert rows.shape == (C, N * 4, 3)
    weight = model[2].weight.detach().reshape(C, 3, 4)
    for k in range(C):
        expected = weight[k].T.repeat(N, 1)
        assert torch.allclose(rows[k], expected, rtol=0, atol=FLOAT64)


def test_the_number_of_samples_may_be_stated():
    model = nn.Linear(D, C).double()

    def unpack(batch):
        return ModelCall(args=(batch,), num_samples=N)

    seen = first_batch(model, draw(N, T, D), "", unpack=unpack)[""]
    assert seen.num_samples == N
    assert torch.equal(seen.row_samples(), torch.arange(N).repeat_interleave(T))
