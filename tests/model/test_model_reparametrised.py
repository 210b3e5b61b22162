"""Factors in a checkpoint: the weight is the one that the module multiplies with."""

import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from spectrank.model import Skip, WeightMatrix, describe, iter_weights


def old(wrap):
    def wrapped(layer, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return wrap(layer, **options)

    return wrapped


OLD_NORM = old(nn.utils.weight_norm)
NEW_NORM = parametrizations.weight_norm
OLD_SPECTRAL = old(nn.utils.spectral_norm)
NEW_SPECTRAL = parametrizations.spectral_norm


def pruned(layer):
    return prune.random_unstructured(layer, "weight", amount=0.5)


CASES = [
    *((wrap, layer, {}) for wrap in (OLD_NORM, NEW_NORM) for layer in range(5)),
    *((wrap, 1, {"dim": 1}) for wrap in (OLD_NORM, NEW_NORM)),
    *((wrap, 2, {"dim": None}) for wrap in (OLD_NORM, NEW_NORM)),
    (OLD_NORM, 5, {"name": "weight_hh_l0"}),
    (NEW_NORM, 5, {"name": "weight_hh_l0"}),
    *((wrap, layer, {}) for wrap in (OLD_SPECTRAL, NEW_SPECTRAL) for layer in range(5)),
    *((pruned, layer, {}) for layer in range(5)),
]


def layers():
    return [
        nn.Linear(4, 5),
        nn.Linear(4, 4),
        nn.Conv2d(2, 3, 2),
        nn.ConvTranspose2d(2, 3, 2),
        nn.Embedding(6, 4),
        nn.LSTM(3, 4),
    ]


def model_of(wrap, number, options):
    torch.manual_seed(number)
    model = nn.Sequential(wrap(layers()[number], **options), nn.Linear(2, 2))
    # The stored u and v have seen other weights: the value is the module's own.
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    return model.eval()


def value_of(model, name):
    layer = model[0]
    if parametrize.is_parametrized(layer):
        return getattr(layer, name).detach()
    for hook in layer._forward_pre_hooks.values():
        hook(layer, None)
    return getattr(layer, name).detach()


@pytest.mark.parametrize(("wrap", "number", "options"), CASES)
def test_the_weight_of_a_file_is_the_one_of_the_module(wrap, number, options, tmp_path):
    model = model_of(wrap, number, options)
    name = options.get("name", "weight")
    truth = value_of(model, name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "m.safetensors"
    save_file(state, path)
    for source in (state, path):
        rows = [r for r in iter_weights(source) if r.name == f"0.{name}"]
        assert rows, [r.name for r in iter_weights(source)]
        assert all(isinstance(row, WeightMatrix) for row in rows)
        assert torch.allclose(rows[0].load(), truth, rtol=1e-5, atol=1e-7)
        assert rows[0].dtype == torch.float32
    # Its factors are there and are no matrices.
    skipped = {r.name: r.reason for r in iter_weights(path) if isinstance(r, Skip)}
    main = [k for k in state if k.endswith(("weight_orig", "weight_v", "original1"))]
    for key in main:
        if state[key].ndim >= 2:
            assert skipped[key] == f"factor of the parametrised weight 0.{name}"
    # Counted once: the factors are the parameters.
    floats = sum(v.numel() for v in state.values() if v.is_floating_point())
    assert describe(path).num_parameters == floats


def test_gates_of_a_recurrent_weight_are_those_of_the_product():
    model = model_of(NEW_NORM, 5, {"name": "weight_hh_l0"})
    rows = [r for r in iter_weights(model.state_dict()) if r.name == "0.weight_hh_l0"]
    assert [r.view for r in rows] == [f"lstm.gate.{g}" for g in "ifgo"]
    truth = model[0].weight_hh_l0.detach().chunk(4)
    for row, gate in zip(rows, truth, strict=True):
        assert torch.allclose(row.tensor(), gate, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_directions_of_any_length_are_normed(scale):
    v = torch.randn(
        3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    g = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    state = {"a.weight_v": v * scale, "a.weight_g": g}
    (row,) = [r for r in iter_weights(state) if isinstance(r, WeightMatrix)]
    assert torch.allclose(row.tensor(), g * v / v.norm(dim=1, keepdim=True), rtol=1e-12)


@pytest.mark.parametrize(
    "state",
    [
        # Two axes have the length of u: which is that of the rows?
        {"weight_orig": (3, 3, 2), "weight_u": (3,), "weight_v": (6,)},
        {"weight_orig": (3, 4), "weight_u": (4,), "weight_v": (3,)},
        {"weight_orig": (3, 4), "weight_u": (3,)},
        {"weight_orig": (3, 4), "weight_mask": (3, 5)},
        {"weight_v": (3, 4), "weight_g": (3, 4)},
        {"weight_v": (3, 4), "weight_g": (4, 1)},
        {"weight_v": (3, 4), "weight_g": (3,)},
        {
            "parametrizations.weight.original": (3, 3),
            "parametrizations.weight.0.base": 2,
        },
        # A second map after the norm.
        {
            "parametrizations.weight.original0": (3, 1),
            "parametrizations.weight.original1": (3, 4),
            "parametrizations.weight.1.scale": (1,),
        },
    ],
    ids=str,
)
def test_what_the_names_leave_open_stays_a_skip(state):
    tensors = {f"a.{name}": torch.ones(shape) for name, shape in state.items()}
    rows = list(iter_weights(tensors))
    assert {row.name for row in rows} == set(tensors)
    factors = [r for r in rows if "factor of the parametrised" in r.reason]
    assert factors
    assert not any(isinstance(row, WeightMatrix) for row in rows)


def test_a_weight_that_is_stored_itself_is_taken_as_it_is():
    state = {"weight_v": torch.randn(3, 4), "weight_g": torch.ones(3, 1)}
    state["weight"] = torch.zeros(3, 4)
    rows = [r for r in iter_weights(state) if r.name == "weight"]
    assert [r.tensor().sum() for r in rows] == [0]
