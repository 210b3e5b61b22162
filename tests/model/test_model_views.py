"""The named conventions: which matrix each makes, and that none copies."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrank.errors import ShapeError, UnknownNameError
from spectrank.model import VIEWS, WeightMatrix, get_view

SHAPES = st.lists(st.integers(0, 4), min_size=2, max_size=6).map(tuple)


def counted(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(shape=SHAPES, name=st.sampled_from(sorted(VIEWS)))
def test_shape_is_known_without_values_and_nothing_is_lost(
    shape: tuple[int, ...], name: str
) -> None:
    view, weight = VIEWS[name], counted(shape)
    if view.misfit(len(shape)) is None:
        matrix = view.apply(weight)
        assert tuple(matrix.shape) == view.matrix_shape(shape)
        assert sorted(matrix.flatten().tolist()) == weight.flatten().tolist()
    else:
        with pytest.raises(ShapeError, match=f"view '{name}' needs .* dimensions"):
            view.apply(weight)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("linear", (3, 5)),
        ("linear-transposed", (3, 5)),
        ("conv-unfolded", (3, 5, 2, 2)),
        ("embedding", (3, 5)),
        ("embedding", (1, 3, 5)),
    ],
)
def test_a_view_of_a_contiguous_weight_shares_its_memory(
    name: str, shape: tuple[int, ...]
) -> None:
    weight = counted(shape)
    assert get_view(name).apply(weight).data_ptr() == weight.data_ptr()


def test_linear_keeps_rows_and_transposed_swaps_them() -> None:
    weight = counted((2, 3))
    assert torch.equal(get_view("linear").apply(weight), weight)
    swapped = get_view("linear-transposed").apply(weight)
    assert swapped.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_an_unfolded_kernel_acts_on_a_patch_as_the_convolution_does() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(6, 3, 2, 2, dtype=torch.float64, generator=generator)
    patch = torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=generator)
    by_matrix = get_view("conv-unfolded").apply(kernel) @ patch.flatten()
    by_torch = torch.nn.functional.conv2d(patch, kernel).flatten()
    assert torch.allclose(by_matrix, by_torch, rtol=1e-14, atol=1e-14)


def test_an_embedding_with_leading_axes_has_one_row_per_entry() -> None:
    table = counted((1, 4, 3))
    assert torch.equal(get_view("embedding").apply(table), table[0])


def test_an_unknown_view_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'conv-unfolded'\?"):
        get_view("conv_unfold")
    with pytest.raises(UnknownNameError, match=r"the views are linear, linear-tr"):
        get_view("linaer")


def test_an_unknown_view_far_from_all_suggests_none() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_view("q")
    assert "did you mean" not in str(caught.value)


def test_every_view_describes_its_convention_in_one_line() -> None:
    for name, view in VIEWS.items():
        assert view.name == name
        assert 20 < len(view.description) <= 88
        assert "\n" not in view.description


def test_the_registry_is_read_only() -> None:
    with pytest.raises(TypeError):
        VIEWS["mine"] = VIEWS["linear"]  # type: ignore[index]


def test_a_weight_that_changed_its_shape_is_an_error_not_a_number() -> None:
    weight = WeightMatrix(
        "a.weight",
        "linear",
        (2, 3),
        torch.float32,
        None,
        (),
        False,
        load=lambda: torch.zeros(3, 3),
    )
    with pytest.raises(OSError, match=r"a\.weight was \(2, 3\) and is now \(3, 3\)"):
        weight.tensor()
