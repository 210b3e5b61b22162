"""apply_: what is left, what is refused whole, how it runs."""

import math

import numpy as np
import pytest
import torch
from init_models import Net, changed, generator, mlp, rows, stable_rank, state
from torch import nn
from torch.nn.utils import parametrizations

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.init import apply_


def test_parametrised_weights_are_left_with_a_reason():
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Linear(6, 6)
    )
    before = state(model)
    table = apply_(
        model, stable_rank=2, spectrum="flat", gain=1.0, generator=generator()
    )
    assert changed(model, before) == {"1.weight"}
    (row,) = rows(table, "stable_rank_init", "0.weight")
    assert "computed by a parametrisation" in row["reason"]
    with pytest.raises(DomainError, match=r"0\.weight \(computed by a parametr"):
        apply_(model, stable_rank={"0.weight": 2}, spectrum="flat", gain=1.0)


class Own(nn.Module):
    """A matrix that is a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(6, 5))

    def forward(self, x):
        return torch.tanh(x @ self.mix.T)


def test_a_parameter_of_its_own_is_filled_only_where_its_use_is_known():
    model = Own()
    with pytest.raises(DomainError, match=r"mix: .*use is not known"):
        apply_(model, stable_rank=2, spectrum="flat", gain=1.0)
    assert not bool(model.mix.any())
    x = torch.randn(3, 5)
    apply_(
        model, stable_rank=2, spectrum="flat", example_input=x, generator=generator()
    )
    assert stable_rank(model.mix) == pytest.approx(2.0, rel=1e-5)
    assert float(model.mix.detach().norm()) == pytest.approx(5 / 3 * math.sqrt(6))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Linear(4, 4, device="meta"), "meta device"),
        (lambda: nn.LSTM(4, 4, device="meta"), "meta device"),
        (lambda: nn.LazyConvTranspose2d(4, 3), r"\(lazy\)|lazy"),
        (lambda: nn.Embedding(5, 4), "embedding"),
        (lambda: nn.Linear(4, 4).to(torch.float8_e5m2), "float8_e5m2"),
    ],
)
def test_a_model_without_a_weight_to_fill_is_refused(make, words):
    with pytest.raises(DomainError, match=f"got none in .*{words}"):
        apply_(make(), stable_rank=2, spectrum="flat", gain=1.0)


def test_a_model_without_tensors_is_refused():
    with pytest.raises(
        DomainError, match="have a weight to look at, Sequential has no"
    ):
        apply_(nn.Sequential(), stable_rank=2)


def test_ways_out_of_an_unknown_graph_are_arguments_of_the_function():
    wrong = torch.zeros(3, 5)
    for model, options, words in (
        (mlp(), {"example_input": wrong}, "^gain='auto' is read.*reduction dim"),
        (mlp(), {"example_input": wrong, "gain": 1.0}, "^an example_input is what"),
        (Own(), {}, "^gain='auto' is read.*got Own; pass an example_input"),
        (nn.Sequential(nn.LazyLinear(4)), {}, r"got 0\.weight, which is lazy; run"),
    ):
        with pytest.raises(DomainError, match=words) as caught:
            apply_(model, stable_rank=2, spectrum="flat", **options)
        assert "wiring" not in str(caught.value)


REQUESTS = [
    ({"stable_rank": 40}, DomainError, r"0\.weight: .*lie in \[1, 20\].*got 40"),
    ({"stable_rank": 0.5}, DomainError, "got 0.5"),
    ({"stable_rank": math.nan}, DomainError, "finite number of at least 1, got nan"),
    ({"stable_rank": math.inf}, DomainError, "finite number of at least 1, got inf"),
    ({"stable_rank": True}, ArgumentTypeError, "got True"),
    ({"stable_rank": None}, DomainError, "stated once"),
    ({"fraction": 0.5}, DomainError, "stated once"),
    ({"stable_rank": None, "fraction": 1.5}, DomainError, "got 1.5"),
    ({"stable_rank": {}}, DomainError, "empty mapping"),
    ({"stable_rank": {"2.weight": 17}}, DomainError, r"2\.weight: .*got 17"),
    ({"stable_rank": {"2.weight": "3"}}, ArgumentTypeError, r"2\.weight: .*got '3'"),
    ({"stable_rank": {"3.weight": 2}}, DomainError, "'3.weight' matches none"),
    ({"stable_rank": {"2.b*": 2}}, DomainError, r"matches none but 2\.bias \(bias"),
    ({"spectrum": "flta"}, UnknownNameError, r"mean 'flat'\? any.*stable_rank_\("),
    ({"stable_rank": [1, 2, 3]}, ArgumentTypeError, "or a mapping from names to"),
    ({"select": []}, DomainError, r"at least one pattern, got \[\]; leave it out"),
    ({"sigma": "dc", "norm": "spectral"}, UnknownNameError, "number or 'depth-crit"),
    ({"spectrum": "gaussian"}, DomainError, "rank of its own, got stable_rank=2"),
    ({"gain": "swoosh"}, UnknownNameError, "one of auto, linear"),
    ({"gain": -1.0}, DomainError, "gain must be positive"),
    ({"norm": "nuclear"}, UnknownNameError, "got 'nuclear'"),
    ({"sigma": 2.0}, DomainError, "norm='frobenius'"),
    ({"sigma": 2.0, "norm": "spectral", "gain": 1.0}, DomainError, "gain=1.0"),
    ({"sigma": 1e-400 + 1e-320, "norm": "spectral"}, DomainError, "0.weight: a spec"),
    ({"select": "5.*"}, DomainError, "'5.*' matches none"),
    ({"select": 3}, ArgumentTypeError, "select is a pattern"),
    ({"generator": 3}, ArgumentTypeError, "got int"),
]


@pytest.mark.parametrize(("options", "kind", "message"), REQUESTS)
def test_a_bad_request_changes_nothing(options, kind, message):
    model = mlp()
    before = state(model)
    g = generator(3)
    numbers = g.get_state()
    request = {"stable_rank": 2, "spectrum": "flat", "generator": g} | options
    with pytest.raises(kind, match=message):
        apply_(model, **request)
    assert changed(model, before) == set()
    assert torch.equal(g.get_state(), numbers)


def test_the_last_weight_is_checked_before_the_first_is_written():
    model = mlp(widths=(20, 32, 16, 4))
    before = state(model)
    asked = {"0.weight": 2, "2.weight": 2, "4.weight": 4.5}
    with pytest.raises(DomainError, match=r"4\.weight: .*got 4.5"):
        apply_(model, stable_rank=asked, spectrum="flat", generator=generator())
    assert changed(model, before) == set()


def test_a_refused_draw_leaves_every_weight_as_it_was():
    # 12 x 12 at its limit: every fifth draw is refused, so of ten some one is.
    model = nn.Sequential(*[nn.Linear(12, 12) for _ in range(10)])
    before = state(model)
    asked = {f"{i}.weight": 2 if i == 0 else 4 for i in range(10)}
    with pytest.raises(DomainError, match="bulk below its spike"):
        apply_(model, stable_rank=asked, generator=generator())
    assert changed(model, before) == set()


@pytest.mark.parametrize("model", [torch.zeros(3, 3), {"w": torch.zeros(3, 3)}])
def test_only_a_module_is_taken(model):
    with pytest.raises(ArgumentTypeError, match=r"torch\.nn\.Module, got"):
        apply_(model, stable_rank=2)


def test_a_model_without_a_known_graph_needs_an_input_or_a_gain():
    with pytest.raises(DomainError, match=r"example_input.*needs no graph"):
        apply_(Net(), stable_rank=2, spectrum="flat")
    model = Net().double()
    apply_(model, stable_rank=2, spectrum="flat", gain="relu", generator=generator())
    sigma = {"norm": "spectral", "sigma": 0.5}
    table = apply_(
        model, stable_rank=2, spectrum="flat", generator=generator(), **sigma
    )
    top = float(torch.linalg.matrix_norm(model.head.weight.detach(), 2))
    assert top == pytest.approx(0.5, rel=1e-10)
    assert rows(table, "gain") == []


def test_the_same_state_gives_the_same_model():
    a, b, c = mlp(), mlp(), mlp()
    before = torch.get_rng_state()
    for model, seed in ((a, 1), (b, 1), (c, 2)):
        apply_(model, fraction=0.2, generator=generator(seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a[0].weight, b[0].weight)
    assert torch.equal(a[2].weight, b[2].weight)
    assert not torch.allclose(a[0].weight, c[0].weight)


def test_the_model_is_left_otherwise_as_it_was():
    model = Net().double().train()
    model.head.eval()
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    ids = {name: id(p) for name, p in model.named_parameters()}
    apply_(
        model, stable_rank=2, spectrum="flat", example_input=x, generator=generator()
    )
    assert model.training
    assert not model.head.training
    assert bool((model.stem.weight.grad == 1.0).all())
    assert {name: id(p) for name, p in model.named_parameters()} == ids
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    assert len(model._forward_hooks) == 1


def test_the_request_stands_in_the_provenance():
    table = apply_(
        mlp(),
        stable_rank={"0.*": np.int64(2)},
        spectrum="flat",
        generator=generator(),
    )
    settings = table.provenance["settings"]
    assert settings["stable_rank"] == {"0.*": 2}
    assert (settings["spectrum"], settings["gain"]) == ("flat", "auto")
    assert set(table.provenance["columns"]) >= {"part", "target", "tolerance"}
    assert "stable_rank" in str(table.provenance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_cuda_is_filled_there():
    model = mlp(torch.bfloat16, widths=(64, 96, 32, 8)).to("cuda")
    table = apply_(model, fraction=0.25, spectrum="flat", generator=generator())
    for row in rows(table, "stable_rank"):
        assert row["value"] == pytest.approx(row["target"], rel=2e-2)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
