"""Tensors that hold several matrices, against forward passes written by hand."""

import pickle

import pytest
import torch
from torch import Tensor, nn

from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import spectrum
from spectrank.model import LAYOUTS, Skip, WeightMatrix, iter_matrices, iter_weights


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def parts(tensor: Tensor, layout: str) -> dict[str, Tensor]:
    rows = list(iter_matrices({"w": tensor}, views={"w": layout}))
    assert all(row.name == "w" for row in rows)
    assert all(tuple(row.tensor().shape) == row.shape for row in rows)
    return {row.view: row.tensor() for row in rows}


def matrices(model: nn.Module, name: str) -> dict[str, Tensor]:
    found = list(iter_matrices(model, select=name))
    assert all(not row.inferred for row in found)
    return {row.view: row.tensor() for row in found}


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention of (tokens, width), head by head."""
    by_head = zip(*(x.chunk(heads, 1) for x in (q, k, v)), strict=True)
    return torch.cat(
        [torch.softmax(a @ b.T / a.shape[1] ** 0.5, 1) @ c for a, b, c in by_head], 1
    )


def test_parts_of_in_proj_weight_rebuild_the_attention_of_torch() -> None:
    layer = nn.MultiheadAttention(6, 3, bias=False, batch_first=True).double()
    w = matrices(layer, "in_proj_weight")
    assert list(w) == ["qkv.q", "qkv.k", "qkv.v"]
    x = drawn(5, 6)
    heads = attend(*(x @ w[f"qkv.{name}"].T for name in "qkv"), heads=3)
    expected, _ = layer(x[None], x[None], x[None])
    assert torch.allclose(heads @ layer.out_proj.weight.T, expected[0], atol=1e-12)


def test_gates_rebuild_the_lstm_of_torch() -> None:
    layer = nn.LSTM(3, 4, bias=False).double()
    ih, hh = matrices(layer, "weight_ih_l0"), matrices(layer, "weight_hh_l0")
    assert list(ih) == [f"lstm.gate.{gate}" for gate in "ifgo"] == list(hh)
    x, h, c = drawn(6, 3), torch.zeros(4).double(), torch.zeros(4).double()
    for token in x:
        i, f, g, o = (
            ih[f"lstm.gate.{gate}"] @ token + hh[f"lstm.gate.{gate}"] @ h
            for gate in "ifgo"
        )
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    expected, _ = layer(x[:, None])
    assert torch.allclose(h, expected[-1, 0], atol=1e-12)


def test_gates_rebuild_the_gru_of_torch() -> None:
    layer = nn.GRU(3, 4, bias=False).double()
    ih, hh = matrices(layer, "weight_ih_l0"), matrices(layer, "weight_hh_l0")
    assert list(ih) == [f"gru.gate.{gate}" for gate in "rzn"]
    x, h = drawn(6, 3), torch.zeros(4).double()
    for token in x:
        a = {g: ih[f"gru.gate.{g}"] @ token for g in "rzn"}
        b = {g: hh[f"gru.gate.{g}"] @ h for g in "rzn"}
        r, z = (a["r"] + b["r"]).sigmoid(), (a["z"] + b["z"]).sigmoid()
        h = (1 - z) * (a["n"] + r * b["n"]).tanh() + z * h
    expected, _ = layer(x[:, None])
    assert torch.allclose(h, expected[-1, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.LSTMCell(3, 4), "lstm.gate."),
        (nn.GRUCell(3, 4), "gru.gate."),
        (nn.LSTM(3, 4, proj_size=2, bidirectional=True), "lstm.gate."),
        (nn.RNN(3, 4), "linear"),
    ],
)
def test_a_state_dict_has_the_gates_of_its_module(
    layer: nn.Module, expected: str
) -> None:
    own = {row.key: row for row in iter_matrices(layer)}
    read = {row.key: row for row in iter_matrices(layer.state_dict())}
    assert own.keys() == read.keys()
    assert any(row.view.startswith(expected) for row in own.values())
    for key, row in own.items():
        assert (row.view, row.inferred) == (read[key].view, False)
        assert read[key].inferred
        assert torch.equal(row.tensor(), read[key].tensor())


def test_gates_are_no_guess_where_the_partner_is_missing() -> None:
    state = {"rnn.weight_ih_l0": torch.ones(16, 3)}
    (row,) = iter_weights(state)
    assert isinstance(row, Skip)
    assert row.reason.startswith("recurrent gates stacked in one matrix")
    # 12 rows beside a hidden size of 3 are an LSTM, beside 4 a GRU.
    for hidden, view in ((3, "lstm.gate.i"), (4, "gru.gate.r")):
        state = {
            "rnn.weight_ih_l0": torch.ones(12, 5),
            "rnn.weight_hh_l0": torch.ones(12, hidden),
        }
        assert next(iter_matrices(state)).view == view


H, D, N = 4, 3, 5
"""Heads, width of a head, inputs."""


def label(rows: int) -> Tensor:
    """Rows that say which they are."""
    return torch.arange(rows, dtype=torch.float64)[:, None].expand(rows, N).clone()


def rows_of(matrix: Tensor) -> list[int]:
    assert matrix.shape[1] == N
    return [int(x) for x in matrix[:, 0]]


def test_interleaved_rows_are_those_of_every_head() -> None:
    # Per head q, k, v: row (head, part, d) of a (H, 3, D) array.
    found = parts(label(3 * H * D), f"qkv-interleaved:heads={H}")
    for place, name in enumerate("qkv"):
        expected = [(head * 3 + place) * D + d for head in range(H) for d in range(D)]
        assert rows_of(found[f"qkv.{name}"]) == expected


def test_grouped_rows_are_all_queries_then_few_keys_then_few_values() -> None:
    found = parts(label((H + 4) * D), f"qkv-grouped:heads={H}:kv_heads=2")
    assert rows_of(found["qkv.q"]) == list(range(12))
    assert rows_of(found["qkv.k"]) == list(range(12, 18))
    assert rows_of(found["qkv.v"]) == list(range(18, 24))


def test_grouped_interleaved_rows_follow_each_key_head() -> None:
    # Two key heads, each with its two queries, the key and the value.
    found = parts(label(8 * D), f"qkv-grouped-interleaved:heads={H}:kv_heads=2")
    assert rows_of(found["qkv.q"]) == [*range(6), *range(12, 18)]
    assert rows_of(found["qkv.k"]) == [*range(6, 9), *range(18, 21)]
    assert rows_of(found["qkv.v"]) == [*range(9, 12), *range(21, 24)]


@pytest.mark.parametrize(
    "layout",
    [
        "qkv:heads=4",
        "qkv-interleaved:heads=4",
        "qkv-grouped:heads=4:kv_heads=2",
        "qkv-grouped-interleaved:heads=4:kv_heads=2",
    ],
)
def test_heads_one_by_one_are_the_rows_of_the_whole(layout: str) -> None:
    kv = 2 if "kv_heads" in layout else 4
    tensor = drawn((H + 2 * kv) * D, N)
    whole = parts(tensor, layout)
    heads = parts(tensor, f"{layout}:each=head")
    assert list(whole) == ["qkv.q", "qkv.k", "qkv.v"]
    counts = {"q": H, "k": kv, "v": kv}
    assert list(heads) == [
        f"qkv.{name}.head.{i}" for name in "qkv" for i in range(counts[name])
    ]
    for name, count in counts.items():
        stacked = torch.cat([heads[f"qkv.{name}.head.{i}"] for i in range(count)])
        assert torch.equal(stacked, whole[f"qkv.{name}"])


@pytest.mark.parametrize(
    "layout",
    [
        "qkv",
        "qkv:heads=4:each=head",
        "qkv-interleaved:heads=4",
        "qkv-grouped:heads=4:kv_heads=4",
        "qkv-grouped-interleaved:heads=4:kv_heads=4:each=head",
        "kv",
        "gate-up",
        "gate-up-interleaved",
        "heads:heads=4",
        "heads-in:heads=5",
    ],
)
def test_a_transposed_layout_cuts_the_transpose(layout: str) -> None:
    tensor = drawn(36, N)
    name, colon, options = layout.partition(":")
    straight = parts(tensor, layout)
    turned = parts(tensor.T.contiguous(), f"{name}-transposed{colon}{options}")
    assert straight.keys() == turned.keys()
    for view, matrix in straight.items():
        assert torch.equal(matrix, turned[view])


def test_heads_of_one_projection_are_outputs_or_inputs() -> None:
    tensor = drawn(6, 8)
    outputs = parts(tensor, "heads:heads=3")
    assert torch.equal(torch.cat(list(outputs.values())), tensor)
    inputs = parts(tensor, "heads-in:heads=4")
    assert [m.shape for m in inputs.values()] == [(6, 2)] * 4
    assert torch.equal(torch.cat(list(inputs.values()), 1), tensor)


def test_interleaved_gate_and_up_alternate() -> None:
    found = parts(label(8), "gate-up-interleaved")
    assert rows_of(found["gate-up.gate"]) == [0, 2, 4, 6]
    assert rows_of(found["gate-up.up"]) == [1, 3, 5, 7]


def test_experts_are_cut_along_the_first_axis_and_then_as_named() -> None:
    stack = drawn(2, 6, N)
    assert {v: m.shape for v, m in parts(stack, "experts").items()} == {
        "expert.0": (6, N),
        "expert.1": (6, N),
    }
    cut = parts(stack, "experts-gate-up")
    assert list(cut) == ["expert.0.gate", "expert.0.up", "expert.1.gate", "expert.1.up"]
    assert torch.equal(cut["expert.1.up"], stack[1, 3:])
    turned = stack.mT.contiguous()
    assert torch.equal(parts(turned, "experts-transposed")["expert.1"], stack[1])
    alternate = parts(turned, "experts-gate-up-interleaved-transposed")
    assert torch.equal(alternate["expert.1.up"], stack[1, 1::2])
    assert torch.equal(alternate["expert.0.gate"], stack[0, ::2])


def test_parts_share_the_memory_of_the_tensor_where_strides_allow_it() -> None:
    tensor = drawn(12, N)
    for layout in ("qkv", "gate-up-interleaved", "heads:heads=3"):
        for matrix in parts(tensor, layout).values():
            assert (
                matrix.untyped_storage().data_ptr()
                == tensor.untyped_storage().data_ptr()
            )


def test_a_part_follows_the_parameter_and_reads_a_gradient_alike() -> None:
    layer = nn.MultiheadAttention(4, 2, bias=False)
    row = next(r for r in iter_matrices(layer) if r.view == "qkv.k")
    with torch.no_grad():
        layer.in_proj_weight.fill_(2.0)
    assert row.tensor().eq(2.0).all()
    gradient = drawn(12, 4)
    assert torch.equal(row.of(gradient), gradient[4:8])


def test_keys_name_the_view_only_where_a_tensor_holds_several() -> None:
    layer = nn.MultiheadAttention(4, 2)
    assert [row.key for row in iter_matrices(layer)] == [
        "in_proj_weight[qkv.q]",
        "in_proj_weight[qkv.k]",
        "in_proj_weight[qkv.v]",
        "out_proj.weight",
    ]


def test_a_whole_tensor_can_be_had_by_a_view_or_without_splitting() -> None:
    layer = nn.LSTM(3, 4)
    rows = list(iter_matrices(layer, views={"weight_*": "linear"}))
    assert [(row.key, row.shape) for row in rows] == [
        ("weight_ih_l0", (16, 3)),
        ("weight_hh_l0", (16, 4)),
    ]
    assert list(iter_matrices(layer, split=False)) == []


def test_groups_of_a_kernel_are_the_blocks_of_a_matrix() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2)
    (row,) = iter_matrices(layer)
    assert (row.view, row.shape, row.num_entries) == ("conv-grouped", (6, 36), 108)
    s = spectrum(row.operand())
    blocks = layer.weight.detach().double().reshape(2, 3, 18)
    truth = torch.cat([torch.linalg.svdvals(b) for b in blocks])
    assert s.sigma is not None
    assert torch.allclose(s.sigma, truth.sort(descending=True).values, rtol=1e-7)
    (depthwise,) = iter_matrices(nn.Conv1d(3, 6, 5, groups=3))
    assert (depthwise.view, depthwise.shape) == ("conv-depthwise", (6, 15))
    # One output per input channel: singular values are lengths of kernels.
    layer = nn.Conv2d(5, 5, 3, groups=5)
    (row,) = iter_matrices(layer)
    s = spectrum(row.operand())
    lengths = layer.weight.detach().double().flatten(1).norm(dim=1)
    assert s.sigma is not None
    assert torch.allclose(s.sigma, lengths.sort(descending=True).values, rtol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_kernel_maps_a_pixel_to_its_patch(groups: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False).double()
    (row,) = iter_matrices(layer)
    assert row.shape == (6 * 9, 4)
    matrix = row.tensor()
    # One pixel: the patch is the whole output, here (out, 3, 3).
    x = drawn(4)
    patch = layer(x[None, :, None, None])[0].detach()
    assert torch.allclose(matrix @ x, patch.flatten(), atol=1e-12)


def test_every_part_survives_a_pickle() -> None:
    state = {"w": drawn(24, N), "k": drawn(6, 2, 3)}
    views = {
        "w": "qkv-grouped-interleaved:heads=4:kv_heads=2:each=head",
        "k": "conv-operator:5:padding=1",
    }
    for row in iter_matrices(state, views=views):
        assert row.take is not None
        take = pickle.loads(pickle.dumps(row.take))
        again = take(state[row.name])
        assert again.shape == row.shape


@pytest.mark.parametrize(
    ("layout", "shape", "words"),
    [
        ("qkv", (10, 3), "10 rows are not 3 parts"),
        ("qkv", (9, 3, 2), "a stack of matrices has 2 axes, the tensor has 3"),
        ("qkv-interleaved:heads=4", (10, 3), "10 rows are not 12 heads of q, k and v"),
        ("qkv-grouped:heads=4:kv_heads=3", (30, 3), "4 heads are not groups of 3"),
        ("lstm", (6, 3), "6 rows are not 4 parts"),
        ("experts", (6, 3), "experts are stacked along 3 axes, the tensor has 2"),
        ("conv-grouped:groups=4", (6, 3, 3), "6 channels are not 4 groups"),
        ("conv-grouped:groups=2", (6, 3), "needs 3 to 5 dimensions, the tensor has 2"),
    ],
)
def test_a_layout_that_does_not_fit_is_a_skip(
    layout: str, shape: tuple[int, ...], words: str
) -> None:
    (row,) = iter_weights({"w": torch.ones(shape)}, views={"w": layout})
    assert isinstance(row, Skip)
    assert words in row.reason


@pytest.mark.parametrize(
    ("layout", "error", "words"),
    [
        ("qkv-interleavd:heads=2", UnknownNameError, "did you mean 'qkv-interleaved'"),
        ("qkv-interleaved", DomainError, "needs heads as a whole number"),
        ("qkv-interleaved:heads=0", DomainError, "needs heads as a whole number"),
        ("qkv:heads=two", DomainError, "needs heads as a whole number"),
        ("qkv:each=row:heads=2", DomainError, "each must be 'head', got 'row'"),
        ("qkv:each=head", DomainError, "needs heads as a whole number"),
        ("lstm:heads=2", UnknownNameError, "the options of lstm are none"),
        ("qkv:heads", DomainError, "written name=value"),
        ("qkv:heads=2:heads=3", DomainError, "once each"),
        ("conv-grouped", DomainError, "needs groups as a whole number"),
    ],
)
def test_a_layout_is_read_before_anything_else(
    layout: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        iter_weights({}, views={"*": layout})


def test_a_layout_for_everything_is_refused() -> None:
    with pytest.raises(DomainError, match="one that a tensor takes as a whole"):
        iter_weights({"w": torch.ones(9, 3)}, views="qkv")


def test_one_view_for_everything_leaves_what_it_does_not_fit() -> None:
    state = {
        "fc.weight": torch.ones(4, 3),
        "conv.weight": torch.ones(4, 3, 2),
        "norm.weight": torch.ones(4),
    }
    rows = {row.name: row for row in iter_weights(state, views="linear-transposed")}
    fc, conv = rows["fc.weight"], rows["conv.weight"]
    assert isinstance(fc, WeightMatrix)
    assert isinstance(conv, WeightMatrix)
    assert (fc.view, fc.shape, fc.inferred) == ("linear-transposed", (3, 4), False)
    assert (conv.view, conv.inferred) == ("conv-unfolded", True)
    assert isinstance(rows["norm.weight"], Skip)


def test_every_layout_describes_itself_in_one_line() -> None:
    for name, layout in LAYOUTS.items():
        assert layout.name == name
        assert 10 < len(layout.description) <= 88
        assert set(layout.needs) <= set(layout.options)
