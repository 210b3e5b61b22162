"""The module route: layer types, ties, buffers, and what is skipped with a reason."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from spectrank.model import Skip, WeightMatrix, describe, iter_matrices, iter_weights


def rows(model: nn.Module, **options: object) -> dict[str, WeightMatrix | Skip]:
    # One row a tensor; tensors of several matrices are in test_model_splits.py.
    options = {"split": False, **options}
    found = list(iter_weights(model, **options))  # type: ignore[arg-type]
    by_name = {row.name: row for row in found}
    assert len(by_name) == len(found)
    return by_name


def matrix(model: nn.Module, name: str, **options: object) -> WeightMatrix:
    row = rows(model, **options)[name]
    assert isinstance(row, WeightMatrix), row
    return row


def reason(model: nn.Module, name: str, **options: object) -> str:
    row = rows(model, **options)[name]
    assert isinstance(row, Skip), row
    return row.reason


class Conv1D(nn.Module):
    """Same name, attribute and storage as transformers' layer."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


@pytest.mark.parametrize(
    ("layer", "view", "shape"),
    [
        (nn.Linear(3, 5), "linear", (5, 3)),
        (nn.Conv1d(4, 6, 3), "conv-unfolded", (6, 12)),
        (nn.Conv2d(4, 6, (3, 2)), "conv-unfolded", (6, 24)),
        (nn.Conv2d(4, 6, 3, groups=2), "conv-unfolded", (6, 18)),
        (nn.Conv2d(4, 4, 3, groups=4), "conv-unfolded", (4, 9)),
        (nn.Conv3d(2, 3, 2), "conv-unfolded", (3, 16)),
        (nn.Embedding(7, 3), "embedding", (7, 3)),
        (nn.EmbeddingBag(7, 3), "embedding", (7, 3)),
        (Conv1D(6, 2), "linear-transposed", (6, 2)),
    ],
)
def test_a_known_layer_has_its_view(
    layer: nn.Module, view: str, shape: tuple[int, int]
) -> None:
    row = matrix(nn.Sequential(layer), "0.weight")
    assert (row.view, row.shape, row.inferred) == (view, shape, False)
    assert row.layer_type == type(layer).__name__
    assert row.tied_to == ()
    value = row.tensor()
    assert tuple(value.shape) == shape
    assert not value.requires_grad
    assert value.data_ptr() == layer.weight.data_ptr()


def test_a_conv1d_without_nf_is_not_taken_for_that_of_transformers() -> None:
    layer = Conv1D(6, 2)
    del layer.nf
    row = matrix(layer, "weight")
    assert (row.view, row.shape, row.inferred) == ("linear", (2, 6), True)


def test_a_subclass_of_linear_is_linear() -> None:
    class Mine(nn.Linear):
        pass

    row = matrix(nn.Sequential(Mine(3, 5)), "0.weight")
    assert (row.view, row.layer_type, row.inferred) == ("linear", "Mine", False)


@pytest.mark.parametrize(
    ("layer", "name", "words"),
    [
        (nn.Linear(3, 5), "bias", "bias or scale vector"),
        (nn.BatchNorm2d(3), "weight", "scale or shift of a normalisation"),
        (nn.LayerNorm((3, 4)), "weight", "scale or shift of a normalisation"),
        (nn.RMSNorm((3, 4)), "weight", "scale or shift of a normalisation"),
        (nn.BatchNorm2d(3), "running_mean", "buffer, not a parameter"),
        (nn.BatchNorm2d(3), "num_batches_tracked", "integer buffer"),
        (nn.LSTM(3, 4), "weight_ih_l0", "recurrent gates stacked in one matrix"),
        (nn.GRU(3, 4), "weight_hh_l0", "recurrent gates stacked in one matrix"),
        (nn.RNN(3, 4), "weight_hh_l0", "recurrent weight; pass views="),
        (nn.LSTMCell(3, 4), "weight_hh", "recurrent gates stacked"),
        (nn.LSTM(3, 4), "bias_ih_l0", "bias or scale vector"),
        (nn.MultiheadAttention(4, 2), "in_proj_weight", "query, key and value stacked"),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), "bias_k", "bias or scale"),
        (nn.ConvTranspose2d(3, 4, 2), "weight", "transposed convolution, one tensor"),
        (nn.LazyLinear(5), "weight", r"uninitialised (lazy)"),
        (nn.Linear(3, 5, device="meta"), "weight", "on the meta device"),
        (nn.Linear(3, 5, dtype=torch.complex64), "weight", "complex tensor"),
    ],
)
def test_what_is_not_measured_says_why(layer: nn.Module, name: str, words: str) -> None:
    assert words in reason(layer, name)


@pytest.mark.parametrize(
    ("layer", "name", "view", "shape"),
    [
        (nn.LSTM(3, 4), "weight_ih_l0", "linear", (16, 3)),
        (nn.MultiheadAttention(4, 2), "in_proj_weight", "linear", (12, 4)),
        (nn.ConvTranspose2d(3, 4, 2), "weight", "conv-unfolded", (3, 16)),
    ],
)
def test_the_hint_of_a_skip_works(
    layer: nn.Module, name: str, view: str, shape: tuple[int, int]
) -> None:
    model = nn.ModuleDict({"part": layer})
    full = f"part.{name}"
    assert f"views={{'{full}': '{view}'}}" in reason(model, full)
    row = matrix(model, full, views={full: view})
    assert (row.view, row.shape, row.inferred) == (view, shape, False)


def test_attention_with_its_own_key_size_has_three_matrices() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    shapes = {row.name: row.shape for row in iter_matrices(attention)}
    assert shapes == {
        "q_proj_weight": (4, 4),
        "k_proj_weight": (4, 3),
        "v_proj_weight": (4, 5),
        "out_proj.weight": (4, 4),
    }


def test_a_projection_of_an_lstm_is_a_plain_matrix() -> None:
    row = matrix(nn.LSTM(3, 4, proj_size=2), "weight_hr_l0")
    assert (row.view, row.shape, row.inferred) == ("linear", (2, 4), False)


def test_bare_parameters_of_unknown_modules_are_inferred() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixing = nn.Parameter(torch.randn(3, 4))
            self.kernel = nn.Parameter(torch.randn(3, 4, 5))
            self.gain = nn.Parameter(torch.randn(()))

    found = rows(nn.ModuleDict({"part": Mine()}))
    mixing, kernel = found["part.mixing"], found["part.kernel"]
    assert isinstance(mixing, WeightMatrix)
    assert isinstance(kernel, WeightMatrix)
    assert (mixing.view, mixing.inferred, mixing.layer_type) == ("linear", True, "Mine")
    assert (kernel.view, kernel.shape, kernel.inferred) == (
        "conv-unfolded",
        (3, 20),
        True,
    )
    assert reason(Mine(), "gain") == "scalar"


def test_parameters_tied_by_identity_are_measured_once() -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(7, 3), "head": nn.Linear(3, 7)})
    model["head"].weight = model["wte"].weight
    assert matrix(model, "wte.weight").tied_to == ("head.weight",)
    assert reason(model, "head.weight") == "tied to wte.weight"


def test_parameters_tied_by_storage_are_measured_once() -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(7, 3), "head": nn.Linear(3, 7)})
    model["head"].weight = nn.Parameter(model["wte"].weight.data)
    assert model["head"].weight is not model["wte"].weight
    assert reason(model, "head.weight") == "tied to wte.weight"


def test_parts_of_one_buffer_are_not_tied() -> None:
    whole = torch.randn(6, 3)
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["a"].weight = nn.Parameter(whole[:3])
    model["b"].weight = nn.Parameter(whole[3:])
    assert matrix(model, "a.weight").tied_to == ()
    assert torch.equal(matrix(model, "b.weight").tensor(), whole[3:])


def test_empty_weights_share_no_memory() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zero-element initialisation
        model = nn.Sequential(nn.Linear(0, 3), nn.Linear(0, 3))
    assert matrix(model, "1.weight").shape == (3, 0)
    assert matrix(model, "0.weight").tied_to == ()


def test_a_module_registered_twice_is_measured_once_under_its_first_name() -> None:
    layer = nn.Linear(3, 4)
    model = nn.ModuleDict({"a": layer, "b": layer})
    assert matrix(model, "a.weight").tied_to == ("b.weight",)
    assert reason(model, "b.weight") == "tied to a.weight"
    assert reason(model, "b.bias") == "tied to a.bias"


def test_a_selection_that_leaves_out_the_first_name_measures_the_second() -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(7, 3), "head": nn.Linear(3, 7)})
    model["head"].weight = model["wte"].weight
    found = rows(model, select="head*")
    assert set(found) == {"head.weight", "head.bias"}
    row = found["head.weight"]
    assert isinstance(row, WeightMatrix)
    assert (row.view, row.tied_to) == ("linear", ("wte.weight",))


def test_a_quantised_linear_is_skipped_not_misread() -> None:
    class Packed(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.weight = nn.Parameter(
                torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False
            )

    assert reason(Packed(), "weight") == (
        "integer tensor: quantised weights are not decoded; pass the state_dict() of a "
        "module, or save the model dequantised"
    )


def test_a_linear_whose_weight_is_flat_is_judged_by_its_shape() -> None:
    layer = nn.Linear(3, 4)
    layer.weight = nn.Parameter(layer.weight.detach().flatten())
    assert reason(layer, "weight") == "bias or scale vector, not a matrix"


def test_an_override_replaces_the_type_of_the_layer() -> None:
    row = matrix(nn.Linear(3, 4), "weight", views={"*": "linear-transposed"})
    assert (row.view, row.shape, row.inferred) == ("linear-transposed", (3, 4), False)


def test_values_follow_the_model_after_a_change() -> None:
    layer = nn.Linear(3, 4)
    row = matrix(layer, "weight")
    with torch.no_grad():
        layer.weight.fill_(2.0)
    assert row.tensor().eq(2.0).all()


def test_dtype_is_kept_as_stored() -> None:
    row = matrix(nn.Linear(3, 4, dtype=torch.bfloat16), "weight")
    assert row.dtype == row.tensor().dtype == torch.bfloat16


def test_description_counts_parameters_once_and_names_all() -> None:
    model = nn.ModuleDict(
        {
            "wte": nn.Embedding(7, 3),
            "head": nn.Linear(3, 7),
            "norm": nn.BatchNorm1d(3),
        }
    )
    model["head"].weight = model["wte"].weight
    info = describe(model)
    assert info.kind == "module"
    assert info.label == "ModuleDict"
    assert info.files == ()
    assert info.num_parameters == sum(p.numel() for p in model.parameters())
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert info.num_tensors == len(names) + len(list(model.buffers()))


BUILDERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU()),
    lambda: nn.Sequential(nn.LSTM(3, 4, bidirectional=True), nn.Bilinear(3, 4, 5)),
]


@pytest.mark.parametrize("build", BUILDERS)
def test_every_tensor_is_one_matrix_or_one_skip(build: Callable[[], nn.Module]) -> None:
    model = build()
    found = rows(model)
    assert set(found) == set(model.state_dict(keep_vars=True))
