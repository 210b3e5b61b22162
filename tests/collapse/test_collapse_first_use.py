"""What a first user meets: nothing is left out in silence, refusals name the way."""

import pytest
import torch
from torch import nn

from spectrank.collapse import forecast, measure, nc1
from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.model import iter_matrices


class Mixed(nn.Module):
    """Attention, gates, a bare matrix: matrices that no module call shows alone."""

    def __init__(self):
        super().__init__()
        self.att = nn.MultiheadAttention(16, 2, batch_first=True)
        self.gates = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 3)
        self.w = nn.Parameter(torch.randn(16, 16) / 4.0)

    def forward(self, x):
        x = self.gates(x @ self.w.T)[0]
        return self.head(self.att(x, x, x, need_weights=False)[0].mean(1))


def skips(table):
    return {r["subject"]: r["reason"] for r in table if r["kind"] == "skip"}


def test_every_matrix_is_measured_or_skipped_with_its_reason():
    torch.manual_seed(0)
    model = Mixed()
    data = [(torch.randn(30, 5, 16), torch.arange(30) % 3)]
    table = measure(model, data, loss="cross_entropy", weight_decay=1e-2)
    told = skips(table)
    measured = {r["subject"] for r in table if r["metric"] == "wcv"} - {"outputs"}
    assert measured == {"att.out_proj.weight", "head.weight"}
    assert told.keys() == {
        "w",
        "att.in_proj_weight",
        "gates.weight_ih_l0",
        "gates.weight_hh_l0",
    }
    assert {w.name for w in iter_matrices(model)} <= measured | told.keys()
    assert "query, key and value" in told["att.in_proj_weight"]
    assert "nn.Linear" in told["w"]
    assert "GRU" in told["gates.weight_hh_l0"]
    # Of chosen layers their own matrices only.
    some = measure(
        model, data, loss="cross_entropy", weight_decay=1e-2, layers=["head", "gates"]
    )
    assert skips(some).keys() == {"gates.weight_ih_l0", "gates.weight_hh_l0"}


def test_a_matrix_under_two_names_is_no_skip_once_measured():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model.first = model[0].weight
    data = [(torch.randn(8, 4), torch.arange(8) % 4)]
    assert not skips(measure(model, data, loss="cross_entropy", weight_decay=0.1))


def test_a_forecast_says_which_stacks_it_leaves_out():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gates, self.head = nn.GRUCell(3, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.gates(x))

    data = [(2.0 * torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4))]
    table = forecast(Gated(), data, weight_decay=1e-1, seeds=1, max_iterations=20)
    ranked = {r["subject"] for r in table if r["metric"] == "numerical_rank"}
    told = skips(table)
    assert ranked | told.keys() == {"gates.weight_ih", "gates.weight_hh", "head.weight"}
    assert told.keys() == {"gates.weight_ih", "gates.weight_hh"}
    assert "gates stacked" in told["gates.weight_hh"]


@pytest.mark.parametrize("keep", [{}, {"keep_bytes": 0}])
def test_float32_targets_of_rank_two_have_two_directions(keep):
    torch.manual_seed(0)
    y = torch.randn(64, 2) @ torch.randn(2, 3)
    s = torch.linalg.svdvals((y - y.mean(0)).double())
    assert 1e-16 < float(s[2] / s[0]) < 1e-6
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    data = [(torch.randn(64, 4), y)]
    table = measure(model, data, loss="mse", weight_decay=0.1, **keep)
    assert {r["index"] for r in table if r["metric"] == "nrc1"} == {2}
    if keep:
        # A covariance of float64 does not tell squares so small from its rounding.
        return
    # The same numbers said to be of float64 have three.
    double = [(x.double(), t.double()) for x, t in data]
    table = measure(model.double(), double, loss="mse", weight_decay=0.1, **keep)
    assert {r["index"] for r in table if r["metric"] == "nrc1"} == {3}


@pytest.mark.parametrize(
    "loss", ["mse", "l1", "huber", "bce_with_logits", nn.MSELoss(), nn.SmoothL1Loss()]
)
def test_a_column_of_outputs_beside_a_row_of_targets_is_refused(loss):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Sigmoid())
    x, y = torch.randn(12, 4), (torch.arange(12) % 2).float()
    match = r"shape \(12, 1\), got \(12,\): .* pass targets.unsqueeze\(-1\)"
    with pytest.raises(ShapeError, match=match):
        measure(model, [(x, y)], loss=loss, weight_decay=0.1)
    with pytest.raises(ShapeError, match=r"pass targets.unsqueeze\(-1\)"):
        forecast(model, [(x, y)], loss=loss, weight_decay=0.1, seeds=1)
    flat = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    with pytest.raises(ShapeError, match=r"pass targets.squeeze\(-1\)"):
        measure(flat, [(x, y[:, None])], loss=loss, weight_decay=0.1)
    # In one shape the two models have one loss, that of torch.
    column = measure(model, [(x, y[:, None])], loss=loss, weight_decay=0.1)
    named = {"mse": nn.MSELoss(), "l1": nn.L1Loss(), "huber": nn.HuberLoss()}
    plain = named.get(loss, nn.BCEWithLogitsLoss()) if isinstance(loss, str) else loss
    told = next(r["value"] for r in column if r["metric"] == "loss")
    with torch.no_grad():
        wanted = float(plain(model(x), y[:, None]))
    assert told == pytest.approx(wanted, rel=1e-5)


def test_a_margin_loss_takes_either_shape():
    # It is none of torch's, and is defined sample by sample.
    model = nn.Linear(4, 1)
    x, y = torch.randn(12, 4), (torch.arange(12) % 2 * 2 - 1).float()
    losses = [
        next(
            r["value"]
            for r in measure(model, [(x, t)], loss="logistic", weight_decay=0.1)
            if r["metric"] == "loss"
        )
        for t in (y, y[:, None])
    ]
    assert losses[0] == losses[1]


def one(table, subject, metric, variant):
    wanted = (subject, metric, variant)
    found = [r for r in table if (r["subject"], r["metric"], r["variant"]) == wanted]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("balanced", "most"), [(True, 1), (False, 3)])
def test_outputs_of_many_classes_are_decomposed_once_a_centring(
    balanced, most, monkeypatch
):
    torch.manual_seed(0)
    num = 40
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, num)).double()
    y = torch.arange(4 * num) % num
    if not balanced:
        y[:30] = 0
    x = torch.randn(len(y), 5).double() + 0.1 * y[:, None]
    shapes, svd = [], torch.linalg.svd

    def counted(a, *args, **kwargs):
        shapes.append(tuple(a.shape))
        return svd(a, *args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    table = measure(model, [(x, y)], loss="cross_entropy", weight_decay=0.1)
    num_present = len(y.unique())
    assert 1 <= shapes.count((num_present, num)) <= most
    # Each is still its own variant: those of functions that share nothing.
    with torch.no_grad():
        logits = model(x)
    for variant in ("papyan", "zhu", "pinv", "he-su"):
        row = one(table, "outputs", "nc1", variant)
        told = nc1(logits, y, variant, num_classes=num)
        assert row["value"] == pytest.approx(told.value, rel=1e-9)
    mean, spread = logits.mean(0), logits.new_zeros(num, num)
    within = spread.clone()
    for c in y.unique():
        rows = logits[y == c]
        d = rows.mean(0) - mean
        spread += len(rows) / len(y) * torch.outer(d, d)
        within += (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / len(y)
    # Eight hidden units: the outputs lie in eight dimensions.
    inverse = torch.linalg.pinv(spread, rtol=1e-10, hermitian=True)
    he_su = float((within @ inverse).trace())
    assert one(table, "outputs", "nc1", "he-su")["value"] == pytest.approx(
        he_su, rel=1e-6
    )


def test_a_scatter_that_is_too_large_says_so_and_so_does_the_law(monkeypatch):
    monkeypatch.setattr("spectrank.collapse.statistics.outputs._MAX_FULL", 5)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6))
    data = [(torch.randn(24, 4), torch.arange(24) % 6)]
    table = measure(model, data, loss="cross_entropy", weight_decay=0.1)
    for variant in ("papyan", "he-su"):
        row = one(table, "outputs", "nc1", variant)
        assert row["status"] == "skipped"
        assert "at most 5 outputs: these have 6" in row["reason"]
    for variant in ("rate", "correlation"):
        row = one(table, "model", "layer_law", variant)
        assert (row["status"], row["kind"]) == ("skipped", "measurement")
        assert "of outputs: needs the full scatter" in row["reason"]
        assert "these have 6" in row["reason"]
    # Where the trace alone was asked for, that is the reason.
    thin = measure(model, data, loss="cross_entropy", weight_decay=0.1, scatter="trace")
    reason = one(thin, "outputs", "nc1", "papyan")["reason"]
    assert "only trace was kept" in reason


def small(num=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, num))


X, Y = torch.linspace(-1, 1, 48).reshape(12, 4).sin(), torch.arange(12) % 3


@pytest.mark.parametrize("loss", ["cross_entropy", None])
@pytest.mark.parametrize(
    ("labels", "kind"), [(Y.numpy(), "ndarray"), (list("abcabcabcabc"), "list")]
)
def test_labels_that_are_no_tensor_are_told_from_missing_ones(loss, labels, kind):
    with pytest.raises(DomainError, match=f"a tensor, .* {kind}; .*torch.as_tensor"):
        measure(small(), [(X, labels)], loss=loss, weight_decay=0.1)
    with pytest.raises(DomainError, match=r"needs? targets, the batch has none"):
        measure(small(), [X], loss=loss, weight_decay=0.1)
    with pytest.raises(ArgumentTypeError, match=f"targets .* {kind}; .*as_tensor"):
        forecast(small(), [(X, labels)], weight_decay=0.1)


def test_a_loader_in_which_no_sample_counts_is_told_so():
    ignored = torch.full((12,), -100)
    match = r"a sample that counts, got none in 2 batches: .*ignored \(-100\)"
    for x, y in ((X[:0], Y[:0]), (X, ignored)):
        with pytest.raises(DomainError, match=match):
            measure(small(), [(x, y)] * 2, loss="cross_entropy", weight_decay=0.1)
    # One that counts is enough.
    data = [(X, ignored), (X, Y)]
    measure(small(), data, loss="cross_entropy", weight_decay=0.1)


def test_layers_are_named_as_their_rows_are_or_as_modules():
    model, found = small(), []
    for layers in ("2.weight", ["2.weight"], ["2"]):
        table = measure(
            model, [(X, Y)], loss="cross_entropy", weight_decay=0.1, layers=layers
        )
        found.append({r["subject"] for r in table if r["metric"] == "wcv"})
    assert found == [{"2.weight", "outputs"}] * 3
    for wrong in ("2.bias", "1.weight", "3.weight"):
        with pytest.raises(UnknownNameError, match="must name modules"):
            measure(
                model, [(X, Y)], loss="cross_entropy", weight_decay=0.1, layers=wrong
            )


@pytest.mark.parametrize("decay_biases", [False, True])
def test_a_forecast_reads_an_optimizer(decay_biases):
    model = small()
    names = [n for n, _ in model.named_parameters()]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {
            "params": [p for p in model.parameters() if p.ndim < 2],
            "weight_decay": 0.05 if decay_biases else 0.0,
        },
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.05)
    assert len(names) == 4
    read = forecast(model, [(X, Y)], weight_decay=optimizer, seeds=1)
    given = forecast(
        model, [(X, Y)], weight_decay=0.05, decay_biases=decay_biases, seeds=1
    )
    for table in (read, given):
        assert table.provenance["decay_biases"] is decay_biases
        assert table.provenance["weight_decays"] == [0.05]
    values = [
        [r["values"] for r in t if r["metric"] == "singular_values"]
        for t in (read, given)
    ]
    assert values[0] == values[1]


def test_a_forecast_refuses_decay_that_is_not_one_of_the_loss():
    model, data = small(), [(X, Y)]
    p = list(model.parameters())
    refused = {
        "part of the loss.*AdamW": torch.optim.AdamW(p, weight_decay=0.1),
        "one weight decay.*0.1, 0.2": torch.optim.SGD(
            [{"params": p[:2], "weight_decay": 0.1}, {"params": p[2:]}],
            lr=0.1,
            weight_decay=0.2,
        ),
        "as weights or not at all.*0.3 and 0.1": torch.optim.SGD(
            [{"params": p[1::2], "weight_decay": 0.3}, {"params": p[::2]}],
            lr=0.1,
            weight_decay=0.1,
        ),
        "every parameter .* 2.weight": torch.optim.SGD(p[:2], 0.1, weight_decay=0.1),
        "positive finite weight decay": torch.optim.SGD(p, lr=0.1),
    }
    for match, optimizer in refused.items():
        with pytest.raises(DomainError, match=match):
            forecast(model, data, weight_decay=optimizer)
    with pytest.raises(ArgumentTypeError, match="a number or an optimizer, got str"):
        forecast(model, data, weight_decay="0.1")


def test_inputs_of_another_kind_than_the_model_are_told_the_way_out():
    def run(model, x, **options):
        return measure(
            model, [(x, Y)], loss="cross_entropy", weight_decay=0.1, **options
        )

    with pytest.raises(ArgumentTypeError, match=r"ndarray.*torch.as_tensor\(inputs\)"):
        run(small(), X.numpy())
    with pytest.raises(ArgumentTypeError, match=r"ndarray.*torch.as_tensor\(inputs\)"):
        forecast(small(), [(X.numpy(), Y)], weight_decay=0.1)
    for model, x, way in (
        (small().double(), X, torch.float64),
        (small().to(torch.bfloat16), X, torch.bfloat16),
        (small(), X.double(), torch.float32),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2)).double(), X, 0),
    ):
        way = way or torch.float64
        with pytest.raises(DomainError, match=f"pass dtype={way}, or cast"):
            run(model, x)
    # The way out is one.
    assert len(run(small().double(), X, dtype=torch.float64))
    # Other errors of the model stay as they are.
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(small(), X[:, :3])


def test_samples_of_tokens_are_the_labels_that_count():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 7))
    ids = torch.randint(7, (4, 9))
    labels = ids.roll(-1, 1)
    labels[:, -1], labels[2, 3:6] = -100, -100
    table = measure(model, [(ids, labels)], loss="cross_entropy", weight_decay=0.1)
    assert table.provenance["num_samples"] == 4 * 8 - 3
    told = {r["num_samples"] for r in table if r["subject"] == "1.weight"}
    assert told == {int((labels != -100).sum())} == {table.provenance["num_samples"]}
    # One label a sample: those without are none.
    y = Y.clone()
    y[:5] = -100
    table = measure(small(), [(X, y)] * 2, loss="cross_entropy", weight_decay=0.1)
    assert table.provenance["num_samples"] == 14


WEIGHTS = torch.tensor([0.3, 1.0, 2.7, 1.1, 0.6])


@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy",
        nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="sum"),
        "mse",
    ],
)
def test_batches_do_not_change_the_loss_of_a_float32_model(loss):
    g = torch.Generator().manual_seed(0)
    x = 3.0 * torch.randn(997, 5, generator=g)
    y = torch.randint(5, (997,), generator=g)
    y = torch.randn(997, 5, generator=g) if loss == "mse" else y
    # A model that rounds nothing, so that what differs is the sum.
    model = nn.Linear(5, 5)
    with torch.no_grad():
        model.weight.copy_(torch.eye(5))
        model.bias.zero_()
    summed = isinstance(loss, nn.Module) and loss.reduction == "sum"

    def told(size):
        data = list(zip(x.split(size), y.split(size), strict=True))
        rows = measure(model, data, loss=loss, weight_decay=0.1)
        value = next(r["value"] for r in rows if r["metric"] == "loss")
        return value * len(data) if summed else value

    named = {"cross_entropy": nn.CrossEntropyLoss(), "mse": nn.MSELoss()}
    plain = named[loss] if isinstance(loss, str) else loss
    wide = type(plain)(reduction=plain.reduction)
    if getattr(plain, "weight", None) is not None:
        wide = nn.CrossEntropyLoss(WEIGHTS.double(), label_smoothing=0.1)
    wanted = float(wide(x.double(), y.double() if loss == "mse" else y))
    for size in (997, 64, 10):
        assert told(size) == pytest.approx(wanted, rel=1e-12, abs=0.0)
    # The user's own loss keeps its weights.
    if getattr(plain, "weight", None) is not None:
        assert plain.weight.dtype == torch.float32


def test_rows_of_data_with_nan_agree_that_nothing_is_known():
    x = X.clone()
    x[3, 1] = torch.nan
    table = measure(small(), [(x, Y)], loss="cross_entropy", weight_decay=0.1)
    accuracy, loss = (
        one(table, "model", "accuracy", None),
        one(table, "model", "loss", "without penalty"),
    )
    for row in (accuracy, loss):
        assert row["status"] == "nonfinite"
        assert row["value"] != row["value"]
    assert accuracy["reason"] == "1 of 12 outputs are not finite"
    verdicts = {r["verdict"] for r in table if r["kind"] == "check"}
    assert verdicts == {"not_applicable"}
    # Finite data have an accuracy, and the layers that a bound applies to hold.
    table = measure(small(), [(X, Y)], loss="cross_entropy", weight_decay=0.1)
    with torch.no_grad():
        share = float((small()(X).argmax(1) == Y).double().mean())
    assert one(table, "model", "accuracy", None)["value"] == share
    assert one(table, "0.weight", "applicability", "data")["verdict"] == "holds"


def test_no_layer_without_decay_is_said_to_be_applicable():
    table = measure(small(), [(X, Y)], loss="cross_entropy", weight_decay=0.0)
    found = {r["verdict"] for r in table if r["metric"] == "applicability"}
    assert found == {"not_applicable"}


def test_the_papyan_variant_is_not_divided_by_the_number_of_classes():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(30, 4, generator=g, dtype=torch.float64)
    y = torch.arange(30) % 3
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    between = (means - means.mean(0)).T @ (means - means.mean(0)) / 3
    within = (x - means[y]).T @ (x - means[y]) / 30
    whole = float((within @ torch.linalg.pinv(between, hermitian=True)).trace())
    assert nc1(x, y, "papyan").value == pytest.approx(whole, rel=1e-9)
    assert nc1(x, y, "pinv").value == pytest.approx(whole / 3, rel=1e-9)
    assert "not divided by C" in nc1.__doc__


def test_attention_is_forecast_and_its_stack_is_a_skip():
    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.att = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.att(x, x, x, need_weights=False)[0].mean(1))

    torch.manual_seed(0)
    data = [(torch.randn(12, 2, 4), Y)]
    # Newton steps follow the few iterations: fused attention would raise there.
    table = forecast(Attentive(), data, weight_decay=0.1, seeds=1, max_iterations=20)
    assert skips(table).keys() == {"att.in_proj_weight"}
    ranked = {r["subject"] for r in table if r["metric"] == "numerical_rank"}
    assert ranked == {"att.out_proj.weight", "head.weight"}
