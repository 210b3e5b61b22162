"""Selection, overrides, ties and counts over state dicts."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrank.errors import DomainError, UnknownNameError
from spectrank.model import (
    VIEWS,
    Skip,
    WeightMatrix,
    describe,
    iter_matrices,
    iter_weights,
    unmatched_patterns,
    weight_names,
)

STATE = {
    "wte.weight": torch.randn(7, 3),
    "h.mlp.weight": torch.randn(4, 3),
    "h.mlp.bias": torch.randn(4),
    "conv.weight": torch.randn(4, 3, 2),
}


def names(**options: object) -> list[str]:
    return [row.name for row in iter_weights(STATE, **options)]  # type: ignore[arg-type]


def test_order_is_that_of_the_source() -> None:
    assert names() == list(STATE) == list(weight_names(STATE))


def test_matrices_are_the_weights_without_the_skips() -> None:
    matrices = [row.name for row in iter_matrices(STATE)]
    assert matrices == ["wte.weight", "h.mlp.weight", "conv.weight"]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("*.mlp.*", ["h.mlp.weight", "h.mlp.bias"]),
        (["wte*", "conv*"], ["wte.weight", "conv.weight"]),
        ("H.*", []),
        ([], []),
    ],
)
def test_unselected_tensors_are_not_yielded(
    select: str | list[str], expected: list[str]
) -> None:
    assert names(select=select) == expected


def test_patterns_that_match_nothing_can_be_found() -> None:
    known = weight_names(STATE)
    assert unmatched_patterns(known, ["*.mlp.*", "q*", "?x"]) == ("q*", "?x")
    assert unmatched_patterns(known, "q*") == ("q*",)
    assert unmatched_patterns(known, None) == ()


def test_an_override_replaces_inference_and_says_so() -> None:
    rows = {r.name: r for r in iter_matrices(STATE, views={"h.*": "linear-transposed"})}
    assert rows["h.mlp.weight"].view == "linear-transposed"
    assert rows["h.mlp.weight"].shape == (3, 4)
    assert rows["h.mlp.weight"].inferred is False
    assert rows["wte.weight"].inferred is True


def test_the_first_matching_override_wins() -> None:
    views = {"h.mlp.weight": "embedding", "*": "linear-transposed"}
    rows = {r.name: r.view for r in iter_matrices(STATE, views=views)}
    assert rows["h.mlp.weight"] == "embedding"
    assert rows["wte.weight"] == "linear-transposed"


def test_an_override_that_does_not_fit_is_a_skip() -> None:
    rows = {row.name: row for row in iter_weights(STATE, views={"*": "linear"})}
    for name, ndim in (("h.mlp.bias", 1), ("conv.weight", 3)):
        row = rows[name]
        assert isinstance(row, Skip)
        assert row.reason == f"view 'linear' needs 2 dimensions, the tensor has {ndim}"
    row = next(iter_weights({"a": torch.ones(2, 2)}, views={"a": "conv-unfolded"}))
    assert isinstance(row, Skip)
    assert row.reason == (
        "view 'conv-unfolded' needs 3 to 8 dimensions, the tensor has 2"
    )


def test_an_override_does_not_make_integers_a_weight() -> None:
    state = {"codes": torch.zeros(2, 2, dtype=torch.int8)}
    row = next(iter_weights(state, views={"*": "linear"}))
    assert isinstance(row, Skip)
    assert "quantised weights are not decoded" in row.reason


def test_an_unknown_view_is_an_error_before_the_first_row() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        iter_weights(STATE, views={"*": "linar"})


@pytest.mark.parametrize("source", [torch.ones(2, 2), [torch.ones(2, 2)], None, 3])
def test_another_source_is_a_domain_error(source: object) -> None:
    with pytest.raises(DomainError, match=r"a source must be a torch\.nn\.Module"):
        iter_weights(source)  # type: ignore[arg-type]


def test_state_dict_entries_that_share_memory_are_measured_once() -> None:
    weight = torch.randn(7, 3)
    state = {"wte.weight": weight, "lm_head.weight": weight.detach()}
    first, second = iter_weights(state)
    assert isinstance(first, WeightMatrix)
    assert first.tied_to == ("lm_head.weight",)
    assert isinstance(second, Skip)
    assert second.reason == "tied to wte.weight"
    assert describe(state).num_parameters == 21
    assert describe(state).num_tensors == 2


def test_a_transpose_of_the_same_memory_is_another_tensor() -> None:
    weight = torch.randn(3, 3)
    rows = list(iter_matrices({"a": weight, "b": weight.mT}))
    assert [row.tied_to for row in rows] == [(), ()]


def test_a_stack_of_no_experts_is_one_skip() -> None:
    rows = list(iter_weights({"moe.experts.w": torch.zeros(0, 4, 4)}))
    assert [(r.name, getattr(r, "reason", "")) for r in rows] == [
        ("moe.experts.w", "a stack of no matrices")
    ]


def test_tensors_of_unusual_storage_are_skipped_with_a_reason() -> None:
    state = {
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(3, 3, device="meta"),
        "double": torch.randn(3, 3, dtype=torch.float64),
    }
    rows = {row.name: row for row in iter_weights(state)}
    assert isinstance(rows["double"], WeightMatrix)
    sparse, meta = rows["sparse"], rows["meta"]
    assert isinstance(sparse, Skip)
    assert isinstance(meta, Skip)
    assert sparse.reason == "stored as torch.sparse_coo, only dense tensors are read"
    assert meta.reason == "on the meta device: it has a shape but no values"
    assert meta.shape == (3, 3)


def test_values_are_views_of_the_state_dict_without_gradient() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    row = next(iter_matrices({"a": weight}))
    assert row.tensor().data_ptr() == weight.data_ptr()
    assert not row.tensor().requires_grad


def test_an_empty_mapping_has_no_rows() -> None:
    assert list(iter_weights({})) == []
    assert describe({}).num_tensors == 0


WORDS = st.sampled_from(
    [
        "weight",
        "bias",
        "h",
        "0",
        "1",
        "c_attn",
        "c_proj",
        "embed",
        "wte",
        "experts",
        "weight_ih_l0",
        "in_proj_weight",
        "parametrizations",
        "original0",
        "weight_g",
        "weight_v",
        "scale",
        "mask",
        "qweight",
    ]
)
DTYPES = st.sampled_from(
    [
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.int8,
        torch.int64,
        torch.bool,
        torch.complex64,
    ]
)
STATES = st.dictionaries(
    st.lists(WORDS, min_size=1, max_size=4).map(".".join),
    st.tuples(st.lists(st.integers(0, 3), max_size=5), DTYPES),
    max_size=8,
)
OVERRIDES = st.dictionaries(
    st.sampled_from(["*", "*weight", "h.*", "*.0.*"]), st.sampled_from(sorted(VIEWS))
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(spec=STATES, views=OVERRIDES)
def test_every_tensor_is_its_matrices_or_one_skip_and_shapes_are_true(
    spec: Mapping[str, tuple[list[int], torch.dtype]], views: Mapping[str, str]
) -> None:
    state = {
        name: torch.zeros(shape, dtype=torch.float32).to(dtype)
        for name, (shape, dtype) in spec.items()
    }
    rows = list(iter_weights(state, views=views))
    # Parts of one tensor follow each other under its name.
    assert list(dict.fromkeys(row.name for row in rows)) == list(state)
    assert len({(row.name, getattr(row, "view", None)) for row in rows}) == len(rows)
    covered: dict[str, int] = {}
    for row in rows:
        stored = state[row.name]
        assert row.dtype == stored.dtype
        if isinstance(row, Skip):
            assert row.reason
            assert row.shape == tuple(stored.shape)
        else:
            matrix = row.tensor()
            assert tuple(matrix.shape) == row.shape
            assert matrix.dtype == stored.dtype
            covered[row.name] = covered.get(row.name, 0) + matrix.numel()
            assert stored.is_floating_point()
    assert covered == {name: state[name].numel() for name in covered}
