"""Convolution layers as linear maps of their input, against autograd's Jacobian."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg import spectrum
from spectrank.model import Skip, WeightMatrix, iter_matrices, iter_weights

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv1d(2, 3, 4, stride=2, dilation=2), (2, 11)),
    (nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 2), groups=2), (4, 5, 6)),
    (nn.Conv2d(3, 3, (3, 5), padding="same", groups=3), (3, 5, 6)),
    (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 4, 5)),
    (nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="circular"), (2, 4, 6)),
    (nn.Conv1d(2, 3, 3, dilation=2, padding=2, padding_mode="circular"), (2, 8)),
    (nn.Conv3d(1, 2, 2), (1, 3, 3, 4)),
    (nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1), (2, 5)),
    (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (4, 3, 4),
    ),
    (nn.ConvTranspose2d(2, 2, 3, dilation=2), (2, 3, 3)),
]


def jacobian_of(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    x = torch.zeros(1, *shape, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(layer, x)
    assert isinstance(found, Tensor)
    return found.reshape(-1, x.numel())


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_the_operator_of_a_layer_has_the_values_of_its_jacobian(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    layer = layer.double()
    jacobian = jacobian_of(layer, shape)
    x = torch.zeros(1, *shape, dtype=torch.float64)
    (row,) = iter_matrices(layer, views="conv-operator", example_input=x)
    size = "x".join(map(str, shape[1:]))
    (same,) = iter_matrices(layer, views={"weight": f"conv-operator:{size}"})
    assert (row.view, row.inferred) == ("conv-operator", False)
    assert row.shape == same.shape == tuple(jacobian.shape)
    assert row.num_entries == layer.weight.numel()
    truth = torch.linalg.svdvals(jacobian)
    for found in (row, same):
        s = spectrum(found.operand(), ["small_end"])
        assert s.sigma is not None
        assert torch.allclose(s.sigma, truth, rtol=1e-9, atol=1e-9 * float(truth[0]))


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(4 * 4 * 5, 2),
    )


def test_sizes_come_of_an_example_and_linear_layers_keep_their_view() -> None:
    model = net()
    x = torch.randn(2, 3, 8, 10)
    rows = {
        row.name: row
        for row in iter_matrices(model, views="conv-operator", example_input=x)
    }
    assert {name: row.shape for name, row in rows.items()} == {
        "0.weight": (4 * 80, 3 * 80),
        "4.weight": (4 * 20, 4 * 20),
        "6.weight": (2, 80),
    }
    assert rows["6.weight"].view == "linear"


def test_an_example_leaves_the_model_and_the_random_state_alone() -> None:
    model = net().train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    versions = [b._version for b in model.buffers()]
    x = torch.randn(2, 3, 8, 10)
    random = torch.get_rng_state()
    list(iter_weights(model, views="conv-operator", example_input=(x,)))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert [b._version for b in model.buffers()] == versions
    assert all(m.training for m in model.modules())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_an_example_is_run_only_for_operators() -> None:
    model = net()
    before = list(iter_weights(model))
    # Of a shape that the model does not take.
    after = list(iter_weights(model, example_input=torch.ones(1)))
    assert [row.name for row in before] == [row.name for row in after]
    with pytest.raises(DomainError, match="must run on the example input"):
        iter_weights(model, views="conv-operator", example_input=torch.ones(1))
    with pytest.raises(ArgumentTypeError, match="an example input needs a module"):
        iter_weights(
            model.state_dict(), views="conv-operator", example_input=torch.ones(1)
        )


def test_keyword_inputs_and_inputs_without_a_batch_are_understood() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 3)

        def forward(self, *, signal: Tensor) -> Tensor:
            result: Tensor = self.conv(signal)
            return result

    (row,) = iter_matrices(
        Named(), views="conv-operator", example_input={"signal": torch.ones(2, 7)}
    )
    assert row.shape == (3 * 5, 2 * 7)


def reason(model: Any, view: str, **options: Any) -> str:
    row = next(iter(iter_weights(model, views={"*weight": view}, **options)))
    assert isinstance(row, Skip), row
    return row.reason


def test_what_is_not_known_of_an_operator_is_a_skip_with_the_way_out() -> None:
    state = {"conv.weight": torch.ones(4, 3, 3, 3)}
    assert "write e.g. 'conv-operator:32x32'" in reason(state, "conv-operator")
    padding = reason(state, "conv-operator:8x8")
    assert "the padding of a convolution is not known of a file" in padding
    assert "'conv-operator:SIZE:padding=circular'" in padding
    assert "2 axes, the kernel has 1" in reason(
        {"conv.weight": torch.ones(4, 3, 3)}, "conv-operator:8x8:padding=1"
    )
    assert "needs 3 to 5 dimensions" in reason(
        {"fc.weight": torch.ones(4, 3)}, "conv-operator:8x8:padding=1"
    )
    assert "must fit into the padded input" in reason(
        {"conv.weight": torch.ones(4, 3, 3)}, "conv-operator:2:padding=0"
    )


def test_what_a_file_does_not_tell_can_be_written() -> None:
    kernel = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    layer = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False).double()
    layer.weight = nn.Parameter(kernel)
    view = "conv-operator:5x6:padding=1:stride=2:groups=2"
    (row,) = iter_matrices({"c.weight": kernel}, views={"*": view})
    s = spectrum(row.operand())
    truth = torch.linalg.svdvals(jacobian_of(layer, (4, 5, 6)))
    assert s.sigma is not None
    assert torch.allclose(s.sigma, truth, rtol=1e-7)
    pairs = "conv-operator:5x6:padding=1-1x1-1:stride=2:groups=2"
    (other,) = iter_matrices({"c.weight": kernel}, views={"*": pairs})
    assert torch.equal(row.tensor(), other.tensor())


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_other_paddings_are_refused_by_name(mode: Any) -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)
    words = f"the layer pads by '{mode}'"
    assert words in reason(layer, "conv-operator:8x8")
    row = next(
        iter(iter_weights(layer, views={"weight": "conv-operator:8x8:padding=1"}))
    )
    assert isinstance(row, WeightMatrix)


def test_circular_padding_that_is_no_torus_is_refused() -> None:
    wide = nn.Conv1d(2, 3, 3, padding=2, padding_mode="circular")
    assert "not one convolution of a torus" in reason(wide, "conv-operator:8")
    uneven = nn.Conv1d(2, 3, 3, stride=2, padding=1, padding_mode="circular")
    assert "strides that divide its size" in reason(uneven, "conv-operator:7")


def test_a_layer_used_at_two_sizes_has_no_size() -> None:
    layer = nn.Conv1d(2, 2, 3, padding=1)
    model = nn.Sequential(layer, nn.MaxPool1d(2), layer)
    row = next(
        iter_weights(model, views="conv-operator", example_input=torch.ones(1, 2, 8))
    )
    assert isinstance(row, Skip)
    assert "the size of the input is not known" in row.reason


def test_the_operator_of_a_parametrised_kernel_is_that_of_its_value() -> None:
    layer = parametrizations.spectral_norm(nn.Conv2d(2, 3, 3, padding=1)).eval()
    (row,) = iter_matrices(layer.double(), views="conv-operator:5x5")
    truth = torch.linalg.svdvals(jacobian_of(layer, (2, 5, 5)))
    s = spectrum(row.operand())
    assert s.sigma is not None
    assert torch.allclose(s.sigma, truth, rtol=1e-7)


@pytest.mark.parametrize(
    ("view", "told"),
    [
        ("conv-operator:ax3", "size of conv-operator .* got 'ax3'; e.g. size=32x32"),
        ("conv-operator:8:stride=two", "stride .* got 'two'"),
        ("conv-operator:0x8:padding=0", "numbers of at least 1 .* got '0x8'"),
        ("conv-operator:8:padding=reflect", "between, or circular, got 'reflect'"),
        ("conv-operator:8:padding=1-", "padding .* got '1-'"),
        ("conv-operator:8:dilation=-1", "dilation .* got '-1'"),
    ],
)
def test_options_that_no_kernel_could_take_are_refused_before_any_is_read(
    view: str, told: str
) -> None:
    layer = nn.Linear(2, 2)
    for views in (view, {"*": view}):
        with pytest.raises(DomainError, match=told):
            iter_weights(layer, views=views)


@pytest.mark.parametrize(
    ("layer", "note"),
    [
        (nn.Conv1d(2, 3, 4, stride=2, dilation=3), "padding 0, stride 2, dilation 3"),
        (nn.Conv1d(1, 2, 4, padding="same"), "padding 1-2"),
        (nn.Conv1d(2, 2, 3, padding=1, groups=2), "padding 1, groups 2"),
        (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), "padding circular"),
        (
            nn.ConvTranspose1d(2, 2, 3, stride=2, padding=1, output_padding=1),
            "padding 1, stride 2, output padding 1",
        ),
    ],
)
def test_the_rows_of_an_operator_tell_what_its_shape_does_not(
    layer: nn.Module, note: str
) -> None:
    (matrix,) = iter_matrices(layer, views="conv-operator:24")
    assert matrix.note == f"input 24, {note}"
