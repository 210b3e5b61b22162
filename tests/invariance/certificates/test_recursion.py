"""Bounds of a tail against the singular values of random chains, and closed forms."""

from itertools import pairwise

import pytest
import torch

from spectrank.errors import DomainError, ShapeError
from spectrank.invariance.certificates import (
    Inner,
    Level,
    dense_levels,
    gap,
    tail_bounds,
)

# Of sums of squares of order one to a thousand.
ROUNDING = 1e-12


def _randn(generator, *shape):
    # Scales differ between matrices, so that no term of a bound is negligible.
    scale = 2.0 ** float(torch.randint(-2, 3, (), generator=generator))
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def _size(generator, most=6):
    return int(torch.randint(1, most + 1, (), generator=generator))


def _squares(matrix):
    return torch.linalg.svdvals(matrix).square()


def _random_dense(generator, outputs, *, biases):
    sizes = [_size(generator) for _ in range(4)] + [outputs]
    weights = [_randn(generator, n, m) for m, n in pairwise(sizes)]
    given = [_randn(generator, len(w)) if biases else None for w in weights]
    return weights, given


def _kernel_level(kernel, bias):
    """A level of a kernel (out, in, k), with its two matrices laid out by hand."""
    out, features, positions = kernel.shape
    entering = kernel.reshape(out, -1)
    leaving = torch.stack(
        [kernel[o, :, k] for o in range(out) for k in range(positions)]
    )
    return Level(entering, bias, leaving, min(features, positions))


def _block_level(generator, features, outputs, biases):
    hidden = _size(generator)
    y, u = _randn(generator, hidden, features), _randn(generator, outputs, hidden)
    z = _randn(generator, outputs, features)
    k = int(biases)
    bias = _randn(generator, outputs, 2 * k)
    inner = Inner(y, _randn(generator, hidden, k), u)
    return Level(torch.cat([u, z], 1), bias, torch.cat([y, z]), 1, inner)


def _random_mixed(generator, outputs, *, biases):
    """Blocks, kernels and matrices in random order, the last one a matrix."""
    levels, features = [], _size(generator)
    for _ in range(3):
        n = _size(generator)
        kind = int(torch.randint(3, (), generator=generator))
        if kind == 0:
            levels.append(_block_level(generator, features, n, biases))
        else:
            k = _size(generator, 4) if kind == 1 else 1
            kernel = _randn(generator, n, features, k)
            bias = _randn(generator, n, int(biases))
            levels.append(_kernel_level(kernel, bias))
        features = n
    kernel = _randn(generator, outputs, features, 1)
    return [*levels, _kernel_level(kernel, kernel.new_zeros(outputs, 0))]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("biases", [False, True])
def test_tails_of_random_chains_never_exceed_their_bound(outputs, biases):
    generator = torch.Generator().manual_seed(10 * outputs + biases)
    for _ in range(100):
        levels = dense_levels(*_random_dense(generator, outputs, biases=biases))
        for level, bound in zip(levels, tail_bounds(levels), strict=True):
            assert bound.kappa <= outputs
            last = level is levels[-1]
            for matrix in (level.entering, *([] if last else [level.augmented])):
                tail = float(_squares(matrix)[bound.kappa :].sum())
                scale = 1.0 + abs(bound.excess) + float(matrix.square().sum())
                assert tail <= bound.excess + ROUNDING * scale


def test_the_bound_on_tails_is_reached_where_gaps_are_diagonal():
    """Large values stay on the axes of the outputs: every step is an equality."""
    for r in (1, 2):
        widths = torch.tensor([[4.0, 3.0, 1.0, 0.5], [6.0, 5.0, 2.0, 0.25]]).double()
        top = torch.eye(4).double()[:r] * 9.0
        levels = dense_levels([*(torch.diag(w) for w in widths), top])
        for level, bound in zip(levels, tail_bounds(levels), strict=True):
            tail = float(_squares(level.entering)[r:].sum())
            assert bound.excess == pytest.approx(tail, abs=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("biases", [False, True])
def test_ratios_of_random_mixed_tails_never_exceed_their_bound(outputs, biases):
    generator = torch.Generator().manual_seed(100 + 10 * outputs + biases)
    for _ in range(120):
        levels = _random_mixed(generator, outputs, biases=biases)
        for level, bound in zip(levels, tail_bounds(levels), strict=True):
            squares = _squares(level.entering)
            bounded = bound.kappa * float(squares[0]) + bound.excess
            scale = 1.0 + bound.kappa * float(squares.sum()) + abs(bound.excess)
            if bound.tails:
                tail = float(squares[bound.kappa :].sum())
                assert tail <= bound.excess + ROUNDING * scale
            assert float(squares.sum()) <= bounded + ROUNDING * scale


def test_kappa_is_two_per_block_above_and_m_per_kernel_above():
    generator = torch.Generator().manual_seed(3)
    levels = [
        _block_level(generator, 40, 40, biases=False),
        _kernel_level(_randn(generator, 40, 40, 3), torch.zeros(40, 0).double()),
        _block_level(generator, 40, 4, biases=False),
        _kernel_level(_randn(generator, 1, 4, 9), torch.zeros(1, 0).double()),
    ]
    kappas = [bound.kappa for bound in tail_bounds(levels)]
    assert kappas == [4 * 2 * 3, 4 * 2, 4, 1]


def test_a_bottleneck_restarts_the_bound_with_its_own_rank():
    generator = torch.Generator().manual_seed(9)
    levels = [
        _kernel_level(_randn(generator, 5, 7, 1), torch.zeros(5, 0).double()),
        _kernel_level(_randn(generator, 2, 5, 1), torch.zeros(2, 0).double()),
        _block_level(generator, 2, 6, biases=False),
        _kernel_level(_randn(generator, 4, 6, 1), torch.zeros(4, 0).double()),
    ]
    bounds = tail_bounds(levels)
    assert [bound.kappa for bound in bounds] == [2, 2, 4, 4]
    assert bounds[1].excess == 0.0
    tail = float(_squares(levels[0].entering)[2:].sum())
    assert 0.0 < tail <= bounds[0].excess + ROUNDING


def test_without_biases_and_positive_parts_the_closed_form_is_the_trace_form():
    generator = torch.Generator().manual_seed(4)
    weights = [
        _randn(generator, 5, 4),
        _randn(generator, 6, 5),
        _randn(generator, 1, 6),
    ]
    bound = tail_bounds(dense_levels(weights))[0]
    gaps = [b.T @ b - a @ a.T for a, b in pairwise(weights)]
    frobenius = float(weights[0].square().sum() - weights[2].square().sum())
    tops = [float(torch.linalg.eigvalsh(g)[-1]) for g in gaps]
    assert min(tops) > 0
    assert bound.excess == pytest.approx(frobenius + sum(tops), rel=1e-12)


def test_the_closed_form_without_biases_is_false_where_there_are_some():
    """The trap: ||W_l||^2 - ||W_L||^2 + sum of tops leaves out the biases."""
    w, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double(), torch.tensor([2.0, 0.0])
    head = torch.tensor([[2.0, 0.0]]).double()
    (bound, _) = tail_bounds(dense_levels([w, head], [b, None]))
    d = head.T @ head - w @ w.T - torch.outer(b, b).double()
    closed = 2.0 - 4.0 + max(float(torch.linalg.eigvalsh(d)[-1]), 0.0)
    assert closed < 1.0 <= bound.excess


def test_each_singular_value_beyond_the_outputs_obeys_weyl():
    generator = torch.Generator().manual_seed(5)
    for _ in range(100):
        levels = dense_levels(*_random_dense(generator, 2, biases=True))
        for level, bound in zip(levels, tail_bounds(levels), strict=True):
            # The bias of the last matrix is bounded by nothing.
            matrix = level.entering if level is levels[-1] else level.augmented
            beyond = _squares(matrix)[bound.kappa :]
            scale = 1.0 + float(level.augmented.square().sum())
            if len(beyond):
                assert float(beyond[0]) <= bound.weyl + ROUNDING * scale


def test_with_a_softmax_one_singular_value_less_can_grow():
    generator = torch.Generator().manual_seed(6)
    for _ in range(100):
        levels = dense_levels(*_random_dense(generator, 3, biases=True))
        top = levels[-1].entering
        bounds = tail_bounds(levels, softmax=True)
        if top.shape[1] > 2:
            shifted = float((top.sum(0) ** 2).sum()) / 3
            assert bounds[-1].excess == pytest.approx(shifted)
        for level, bound in zip(levels, bounds, strict=True):
            assert bound.kappa <= 2
            # The bias of the last matrix is bounded by nothing.
            matrix = level.entering if level is levels[-1] else level.augmented
            squares = _squares(matrix)
            scale = 1.0 + float(squares.sum())
            beyond = squares[bound.kappa :]
            assert float(beyond.sum()) <= bound.excess + ROUNDING * scale
            if len(beyond):
                assert float(beyond[0]) <= bound.weyl + ROUNDING * scale


def test_drift_makes_bounds_of_the_start_hold_after_any_change():
    generator = torch.Generator().manual_seed(7)
    needed = 0
    for _ in range(60):
        weights, biases = _random_dense(generator, 1, biases=True)
        start = dense_levels(weights, biases)
        moved = [_randn(generator, *w.shape) for w in weights]
        now = dense_levels(moved, [_randn(generator, len(w)) for w in weights])
        for level, bound in zip(now, tail_bounds(start, now), strict=True):
            tail = float(_squares(level.entering)[1:].sum())
            scale = 1.0 + abs(bound.start) + abs(bound.drift)
            assert tail <= bound.excess + ROUNDING * scale
            needed += tail > bound.start + ROUNDING * scale
    # Negative control: the start alone does not bound what something else made.
    assert needed > 20


def test_drift_is_zero_where_gaps_stay_though_weights_change():
    generator = torch.Generator().manual_seed(8)
    weights = [_randn(generator, 4, 3), _randn(generator, 1, 4)]
    q = torch.linalg.qr(_randn(generator, 4, 4))[0]
    p = torch.linalg.qr(_randn(generator, 3, 3))[0]
    start = dense_levels(weights)
    # An orthogonal change of inputs moves no gap; one of the features only turns it.
    same = tail_bounds(start, dense_levels([weights[0] @ p, weights[1]]))
    assert abs(same[0].drift) < 1e-13
    turned = dense_levels([q @ weights[0], weights[1] @ q.T])
    assert tail_bounds(turned)[0].start == pytest.approx(tail_bounds(start)[0].start)


def test_the_constant_of_a_block_is_two_and_no_less():
    """U Y x + Z x with U = e1 e1^T, Y = e1 e1^T, Z = e1 e2^T: ratio exactly 1/2."""
    e1, e2 = torch.eye(2).double()
    u, y, z = torch.outer(e1, e1), torch.outer(e1, e1), torch.outer(e1, e2)
    inner = Inner(y, torch.zeros(2, 0).double(), u)
    level = Level(
        torch.cat([u, z], 1), torch.zeros(2, 0).double(), torch.cat([y, z]), 1, inner
    )
    assert float(inner.gap.abs().max()) == 0.0
    entering, leaving = _squares(level.entering)[0], _squares(level.leaving)[0]
    assert float(leaving / entering) == pytest.approx(0.5, abs=1e-15)


def test_a_diagonal_kernel_reaches_the_factor_of_two_flattenings():
    kernel = torch.eye(3).double()[None]
    level = _kernel_level(kernel, torch.zeros(1, 0).double())
    ratio = float(_squares(level.entering)[0] / _squares(level.leaving)[0])
    assert ratio == pytest.approx(level.factor, abs=1e-14)


def test_the_gap_subtracts_every_bias_and_leaves_the_next_matrix_alone():
    w, v = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0], [4.0]]).double()
    lower, upper = dense_levels([w, v], [torch.tensor([5.0]), torch.tensor([7.0, 7.0])])
    assert gap(lower, upper).tolist() == [[9.0 + 16.0 - 1.0 - 4.0 - 25.0]]


def test_levels_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="order them from"):
        dense_levels([torch.ones(3, 2), torch.ones(2, 4)])
    with pytest.raises(ShapeError, match="one entry an output"):
        dense_levels([torch.ones(3, 2)], [torch.ones(2)])
    a, b = dense_levels([torch.ones(3, 2)]), dense_levels([torch.ones(1, 4)])
    with pytest.raises(ShapeError, match="as many features"):
        gap(a[0], b[0])
    with pytest.raises(DomainError, match="one or more levels"):
        tail_bounds([])
    with pytest.raises(DomainError, match="got 1 and 2"):
        tail_bounds(a, [*a, *a])
