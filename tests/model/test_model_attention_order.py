"""Fused query, key and value whose order only the tensors beside them tell."""

from typing import Any

import pytest
import torch

from spectrank.model import iter_matrices
from spectrank.model.families import fused_layout
from spectrank.model.layouts import parts_of


def per_head(x: torch.Tensor, W: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """Query, key and value of layers that reshape the rows to heads first."""
    y = (x @ W.T).view(*x.shape[:-1], heads, -1)
    return [part.flatten(-2) for part in y.chunk(3, dim=-1)]


@pytest.mark.parametrize(
    ("name", "beside", "config"),
    [
        # TinyViT: the heads are the rows of its table of biases.
        ("l.0.attn.qkv.weight", {"l.0.attn.attention_biases": (4, 9)}, None),
        # The first ChatGLM, and the second with a key for every query.
        (
            "l.0.attention.query_key_value.weight",
            {},
            {"model_type": "chatglm", "num_attention_heads": 4},
        ),
    ],
)
def test_rows_per_head_are_put_together(
    name: str, beside: dict[str, tuple[int, ...]], config: dict[str, Any] | None
) -> None:
    W = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    verdict = fused_layout(name, (24, 8), "linear", beside, config)
    assert verdict.view == "qkv-interleaved:heads=4"
    parts = parts_of(verdict.view, (24, 8))
    for part, truth in zip(parts, per_head(x, W, 4), strict=True):
        matrix = part.take(W)
        assert isinstance(matrix, torch.Tensor)
        assert torch.allclose(x @ matrix.T, truth, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "beside"),
    [
        # Fewer keys than queries (EXAONE 4.5): 16 | 4 | 4 rows.
        ((24, 16), {"l.0.attn.proj.weight": (16, 16)}),
        ((24, 16), {}),
        # MaxViT has the rows of a head together, other models with rel_pos do not.
        (
            (24, 8),
            {
                "l.0.attn.proj.weight": (8, 8),
                "l.0.attn.rel_pos.relative_position_bias_table": (9, 4),
            },
        ),
    ],
)
def test_an_attention_of_unknown_order_is_one_matrix_with_a_note(
    shape: tuple[int, int], beside: dict[str, tuple[int, ...]]
) -> None:
    name = "l.0.attn.qkv.weight"
    tensors = {name: torch.ones(shape)}
    tensors |= {other: torch.ones(sides) for other, sides in beside.items()}
    (row,) = [r for r in iter_matrices(tensors) if r.name == name]
    assert row.view == "linear"
    assert "order that the name does not tell" in str(row.note)


def test_the_output_layer_proves_how_wide_the_values_are() -> None:
    beside = {"l.0.attn.proj.weight": (16, 8)}
    verdict = fused_layout("l.0.attn.qkv.weight", (24, 16), "linear", beside, None)
    assert verdict.view == "qkv"
    turned = {"l.0.attn.proj.weight": (8, 16)}
    name = "l.0.attn.qkv.weight"
    verdict = fused_layout(name, (16, 24), "linear-transposed", turned, None)
    assert verdict.view == "qkv-transposed"


def test_chatglm_with_shared_keys_is_grouped() -> None:
    config = {
        "model_type": "chatglm",
        "num_attention_heads": 4,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
    }
    name = "l.0.attention.query_key_value.weight"
    verdict = fused_layout(name, (32, 16), "linear", {}, config)
    assert verdict.view == "qkv-grouped:heads=4:kv_heads=2"
