"""Block-diagonal matrices against the matrix with its zeros."""

import pytest
import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg import Need, spectrum
from spectrank.linalg.implicit import BlockDiagonal, block_diagonal


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def with_zeros(blocks: Tensor) -> Tensor:
    g, m, n = blocks.shape
    whole = torch.zeros(g * m, g * n, dtype=torch.float64)
    for i in range(g):
        for a in range(m):
            for b in range(n):
                whole[i * m + a, i * n + b] = blocks[i, a, b]
    return whole


SHAPES = [(5, 3, 7), (4, 1, 9), (6, 4, 1), (2, 70, 66), (1, 3, 3)]


@pytest.mark.parametrize("certify", ["probabilistic", "deterministic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_norms_are_those_of_the_matrix_with_zeros(
    shape: tuple[int, int, int], certify: str
) -> None:
    blocks = drawn(*shape)
    # Blocks of very different size: an error must not be that of the largest.
    blocks[-1] *= 1e-5
    op = BlockDiagonal(blocks)
    whole = with_zeros(blocks)
    assert torch.equal(op.dense(), whole)
    truth = torch.linalg.svdvals(whole)
    s = spectrum(op, ["sigma", "schatten4"], certify=certify)  # type: ignore[arg-type]
    assert s.route == "block-gram"
    assert s.shape == tuple(whole.shape)
    assert s.sigma is not None
    assert s.sigma_error is not None
    assert s.schatten4 is not None
    assert ((s.sigma - truth).abs() <= s.sigma_error + 1e-14 * truth[0]).all()
    k = min(shape[1:])
    if shape[0] > 1:
        # Those of the small block are known relative to itself.
        small = torch.linalg.svdvals(blocks[-1])
        assert (s.sigma[-k:] - small).abs().max() <= 1e-7 * small[0]
        assert s.sigma_error[-k:].max() <= 1e-6 * small[0]
    for value, power in ((s.frobenius, 2), (s.schatten4, 4)):
        expected = float(torch.linalg.vector_norm(truth, power))
        assert value.value == pytest.approx(expected, rel=1e-13)
        assert value.lower <= expected * (1 + 1e-14)
        assert value.upper >= expected * (1 - 1e-14)
    assert (
        s.sigma_max.lower
        <= float(truth[0]) * (1 + 1e-14)
        <= s.sigma_max.upper * (1 + 3e-14)
    )
    expected_kind = "certified" if certify == "deterministic" else "rounding"
    assert s.sigma_max.error_kind == expected_kind


def test_small_ends_that_a_gram_matrix_cannot_see_are_found() -> None:
    blocks = torch.diag_embed(torch.tensor([[1.0, 1e-9], [3.0, 2e-9]]).double())
    for small in (64, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(block_diagonal, "_SMALL", small)
            s = spectrum(BlockDiagonal(blocks), ["small_end"])
        assert s.route == "block-svd"
        assert s.resolves_small_end
        assert s.sigma is not None
        assert torch.allclose(
            s.sigma, torch.tensor([3.0, 1.0, 2e-9, 1e-9]).double(), rtol=1e-6
        )


def test_norms_of_large_blocks_come_without_their_spectra() -> None:
    blocks = drawn(2, 1200, 1100).float()
    needs: list[Need] = ["frobenius", "sigma_max"]
    s = spectrum(BlockDiagonal(blocks), needs)
    assert s.sigma is None
    tops = [float(torch.linalg.matrix_norm(b.double(), 2)) for b in blocks]
    assert s.sigma_max.lower <= max(tops) <= s.sigma_max.upper
    assert s.sigma_max.relative_width <= 2e-4
    # The two upper ends miss with half the probability each.
    assert s.sigma_max.failure_probability == pytest.approx(1e-9)
    assert s.frobenius.value == pytest.approx(float(blocks.double().norm()), rel=1e-12)


def test_a_block_of_zeros_adds_zeros_and_no_error() -> None:
    blocks = drawn(3, 2, 4)
    blocks[1] = 0.0
    for needs in (["sigma"], ["small_end"]):
        s = spectrum(BlockDiagonal(blocks), needs)  # type: ignore[arg-type]
        assert s.sigma is not None
        assert s.sigma_error is not None
        assert s.sigma[-2:].tolist() == [0.0, 0.0]
        assert s.num_resolved == 6


def test_entries_whose_squares_underflow_are_not_called_exact_zeros() -> None:
    blocks = torch.stack([torch.eye(2), torch.eye(2)]).double()
    blocks[1] *= 1e-200
    s = spectrum(BlockDiagonal(blocks))
    assert s.sigma is not None
    assert s.sigma_error is not None
    assert (s.sigma[2:] - 1e-200).abs().le(s.sigma_error[2:]).all()
    assert s.num_resolved == 2


@pytest.mark.parametrize("entry", [float("nan"), float("inf")])
def test_a_bad_entry_is_a_status(entry: float) -> None:
    blocks = drawn(3, 2, 4)
    blocks[1, 1, 1] = entry
    assert spectrum(BlockDiagonal(blocks)).status == "nonfinite"


def test_what_is_no_stack_of_blocks_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"blocks has 3 axes, got shape \(2, 3\)"):
        BlockDiagonal(torch.ones(2, 3))
    with pytest.raises(ArgumentTypeError, match=r"blocks is a torch\.Tensor, got list"):
        BlockDiagonal([[[1.0]]])  # type: ignore[arg-type]
    with pytest.raises(DomainError, match="real floating-point entries"):
        BlockDiagonal(torch.ones(1, 2, 3, dtype=torch.int64))
