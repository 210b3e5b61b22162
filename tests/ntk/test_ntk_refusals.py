"""What is refused, and that it is refused before anything long is computed."""

import numpy as np
import pytest
import torch
from ntk_models import make
from torch import nn

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    SpectrankError,
    UnknownNameError,
)
from spectrank.ntk.empirical import empirical
from spectrank.ntk.operator import operator
from spectrank.ntk.plan import plan

X = torch.ones(3, 4)


class Counted(nn.Module):
    """Counts the samples that went through it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return self.inner(x)


def linear(**options):
    return nn.Linear(4, 2, **options)


class Narrowing(nn.Module):
    """As many outputs as inputs."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x


class Tokens(nn.Module):
    def forward(self, x):
        return x.argmax(1, keepdim=True)


BAD = {
    "no module": (lambda x: x, X, {}, ArgumentTypeError, "torch.nn.Module"),
    "a list": (linear(), [X], {}, ArgumentTypeError, "axis 0, got list"),
    "no sample": (linear(), X[:0], {}, ShapeError, "at least one sample"),
    "a scalar": (linear(), X[0, 0], {}, ShapeError, "at least one sample"),
    "sequence outputs": (
        linear(),
        X[:, None],
        {},
        ShapeError,
        r"\(batch, classes\).*shape \(2, 1, 2\)",
    ),
    "outputs without classes": (
        nn.Sequential(linear(), nn.Flatten(0)),
        X,
        {},
        ShapeError,
        r"shape \(4,\) for 2 samples",
    ),
    "several outputs": (nn.LSTM(4, 2), X, {}, ShapeError, "got tuple for 2 samples"),
    "integer outputs": (
        nn.Sequential(linear(), Tokens()),
        X,
        {},
        DomainError,
        "float32 or float64, the model gives torch.int64",
    ),
    "half precision": (
        linear(dtype=torch.bfloat16),
        X.bfloat16(),
        {},
        DomainError,
        "the model gives torch.bfloat16",
    ),
    "another dtype": (linear(), X.double(), {}, DomainError, "must have one dtype"),
    "another device": (
        linear(device="meta"),
        X,
        {},
        DomainError,
        "x1 on cpu and parameters on meta",
    ),
    "batch norm": (
        nn.Sequential(linear(), nn.BatchNorm1d(2)),
        X,
        {},
        DomainError,
        r"1 \(BatchNorm1d\) normalises by the batch",
    ),
    "batch norm without averages": (
        nn.Sequential(linear(), nn.BatchNorm1d(2, track_running_stats=False)).eval(),
        X,
        {},
        DomainError,
        "couples the samples",
    ),
    "dropout": (
        nn.Sequential(linear(), nn.Dropout(0.1)),
        X,
        {},
        DomainError,
        "drops at random in train mode",
    ),
    "attention dropout": (
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1),
        X[:, None],
        {},
        DomainError,
        "drops at random",
    ),
    "random slopes": (
        nn.Sequential(linear(), nn.RReLU()),
        X,
        {},
        DomainError,
        "draws its slopes",
    ),
    "power iteration": (
        nn.utils.parametrizations.spectral_norm(linear()),
        X,
        {},
        DomainError,
        "power iteration at every call",
    ),
    "old power iteration": (
        nn.utils.spectral_norm(linear()),
        X,
        {},
        DomainError,
        "power iteration at every call",
    ),
    "lazy": (nn.LazyLinear(2), X, {}, DomainError, "weight is uninitialised"),
    "all frozen": (
        linear().requires_grad_(False),
        X,
        {},
        DomainError,
        r"has none among 2.*params='\*'",
    ),
    "nothing to train": (nn.Flatten(), X, {}, DomainError, "has none among 0"),
    "no such parameter": (
        linear(),
        X,
        {"params": ["weight", "head.*"]},
        UnknownNameError,
        r"'head\.\*' matches none of weight, bias",
    ),
    "params of numbers": (
        linear(),
        X,
        {"params": [3]},
        ArgumentTypeError,
        "glob patterns",
    ),
    "no params": (linear(), X, {"params": []}, ArgumentTypeError, "glob patterns"),
    "no such form": (
        linear(),
        X,
        {"outputs": "diagonal"},
        UnknownNameError,
        "outputs must be one of full, trace, sum_logits",
    ),
    "block of zero": (linear(), X, {"block": 0}, DomainError, "block must be at least"),
    "block of text": (
        linear(),
        X,
        {"block": "2"},
        ArgumentTypeError,
        "block must be an integer",
    ),
    "negative memory": (
        linear(),
        X,
        {"memory": -1},
        DomainError,
        "memory must be at least 1",
    ),
    "memory below two rows": (
        nn.Linear(4, 2000),
        X[:1],
        {"memory": 20_000, "outputs": "sum_logits", "method": "jacobian"},
        DomainError,
        "two rows of a Jacobian must fit",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_kernel_is_refused_with_the_reason(case):
    model, x, options, error, match = BAD[case]
    with pytest.raises(error, match=match) as caught:
        empirical(model, x, **options)
    assert isinstance(caught.value, SpectrankError)
    with pytest.raises(error, match=match):
        plan(model, x, **options)
    options.pop("method", None)
    with pytest.raises(error, match=match):
        operator(model, x, **options)


def test_an_unknown_method_is_refused():
    for function in (empirical, plan):
        with pytest.raises(UnknownNameError, match="method must be one of auto"):
            function(linear(), X, method="fast")


def test_a_second_set_is_checked_as_the_first():
    with pytest.raises(DomainError, match="x2 on meta"):
        empirical(linear(), X, X.to("meta"))
    with pytest.raises(ShapeError, match=r"3 of torch\.float32 for x1 and 2"):
        empirical(Narrowing(), X[:, :3], X[:, :2])


def test_a_kernel_above_the_ceiling_is_refused_before_more_than_a_few_samples_run():
    model = Counted(linear())
    seen = model.seen
    x = torch.ones(40, 4)
    size = 40 * 40 * 2 * 2 * 4
    with pytest.raises(DomainError, match=f"this one takes {size:,}; pass out="):
        empirical(model, x, memory=size - 1)
    assert sum(seen) <= 3


def test_a_kernel_above_the_ceiling_is_computed_with_blocks_or_a_file(tmp_path):
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    model = linear()
    truth = empirical(model, x, method="jacobian")
    options = {"memory": 8_000, "method": "jacobian"}
    assert torch.equal(empirical(model, x, block=40, **options), truth)
    kept = empirical(model, x, out=tmp_path / "k.npy", **options)
    torch.testing.assert_close(kept, truth)


def test_a_layerwise_request_names_the_parameters_without_a_rule():
    model, x, _ = make("encoder")
    with pytest.raises(DomainError, match="in_proj_weight"):
        empirical(model, x, method="layerwise")


@pytest.mark.parametrize(
    ("out", "error", "match"),
    [
        (3, ArgumentTypeError, "path of a file, got int"),
        ("kernel.pt", DomainError, r"must be a \.npy file"),
        ("missing/kernel.npy", DomainError, "existing folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(out, error, match, tmp_path):
    if isinstance(out, str):
        out = tmp_path / out
    with pytest.raises(error, match=match):
        empirical(linear(), X, out=out)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_leaves_an_older_file_alone(tmp_path):
    path = tmp_path / "kernel.npy"
    np.save(path, np.arange(3.0))

    def stop(route, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        empirical(linear(), X, out=path, progress=stop, method="jacobian")
    assert [p.name for p in tmp_path.iterdir()] == ["kernel.npy"]
    assert np.array_equal(np.load(path), np.arange(3.0))
