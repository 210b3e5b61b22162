"""Total cluster variation against exhaustive search and closed forms."""

from itertools import product

import numpy as np
import pytest
import torch
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank import extras
from spectrank.collapse.features import pca_bracket, pca_bracket_of, tcv
from spectrank.errors import DomainError
from spectrank.linalg.moments import ClassMoments


def variation(x, partition):
    """WCV of a partition, in two passes."""
    x, p = np.asarray(x, dtype=np.float64), np.asarray(partition)
    return sum(((x[p == c] - x[p == c].mean(0)) ** 2).sum() for c in set(p)) / len(x)


def exhaustive(x, k):
    """TCV_K by trying every partition."""
    return min(variation(x, p) for p in product(range(k), repeat=len(x)))


def mixture(seed, counts, dim, noise, distance=3.0):
    g = torch.Generator().manual_seed(seed)
    centres = distance * torch.randn(len(counts), dim, dtype=torch.float64, generator=g)
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    rows = torch.randn(len(y), dim, dtype=torch.float64, generator=g)
    return centres[y] + noise * rows, y


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("k", [2, 3])
def test_small_sets_find_the_best_of_all_partitions(seed, k):
    x, _ = mixture(seed, [3, 3, 2], 2, 1.0)
    truth = exhaustive(x.numpy(), k)
    value = tcv(x, num_clusters=k, seed=0)
    assert value.value == pytest.approx(truth, rel=1e-10)
    assert value.lower <= truth <= value.upper
    assert value.error_kind == "certified"
    # The lower end is the sum of the eigenvalues from the K-th on.
    mu = np.sort(np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True)))[::-1]
    assert value.lower == pytest.approx(mu[k - 1 :].sum(), rel=1e-10, abs=1e-12)
    assert pca_bracket(x, k).value == pytest.approx(mu[k - 1 :].sum(), abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_gaussian_mixture_has_the_expected_variation(seed):
    # E WCV = (1/N) sum_c (n_c - 1) tr S_c, anisotropic and unbalanced.
    counts, dim = [2, 5, 9, 4], 3
    spreads = torch.tensor([[1.0, 2, 0.5], [0.1, 1, 3], [2, 2, 2], [1, 0, 0]]).double()
    truth = sum(
        (n - 1) * float(s.square().sum()) for n, s in zip(counts, spreads, strict=True)
    ) / sum(counts)
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(4).repeat_interleave(torch.tensor(counts))
    values = []
    for _ in range(150):
        rows = torch.randn(20, dim, dtype=torch.float64, generator=g) * spreads[y]
        moments = ClassMoments(4, dim, scatter="trace")
        moments.update(rows + 5.0 * y[:, None], y)
        values.append(moments.compute().wcv.value)
    error = np.std(values, ddof=1) / len(values) ** 0.5
    assert abs(np.mean(values) - truth) <= STANDARD_ERRORS * error


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clusters_never_vary_more_than_classes_nor_less_than_the_bracket(seed):
    x, y = mixture(seed, [12, 7, 20, 3], 6, 1.5, distance=1.0)
    for starts in (1, 4):
        value = tcv(x, y, num_starts=starts, seed=seed)
        assert value.value <= variation(x, y) * (1 + FLOAT64)
        assert value.lower <= value.value
    # More clusters than classes: a partition with empty cells is one of them.
    more = tcv(x, y, num_clusters=6, seed=seed)
    assert more.value <= value.value * (1 + FLOAT64)


def test_the_class_partition_is_among_the_starts():
    # Classes that touch in 30 dimensions: single random starts end above the class
    # partition for some seeds; told the classes, for none.
    x, y = mixture(0, [20] * 12, 30, 1.0, distance=0.7)
    classes = variation(x, y)
    alone = [tcv(x, num_clusters=12, num_starts=1, seed=s).value for s in range(6)]
    assert max(alone) > 1.01 * classes
    told = [tcv(x, y, num_starts=1, seed=s).value for s in range(6)]
    assert max(told) <= classes * (1 + FLOAT64)
    # The start goes on from the class means, below the classes themselves.
    assert max(told) < 0.9999 * classes


def test_large_label_weight_gives_the_class_partition_and_zero_none():
    x, y = mixture(4, [10, 10, 10], 4, 2.0, distance=0.5)
    plain = tcv(x, y, seed=0)
    classes = variation(x, y)
    assert plain.value < 0.9 * classes
    assert tcv(x, y, label_weight=0.0, seed=0).value == pytest.approx(plain.value)
    heavy = tcv(x, y, label_weight=1e3, seed=0).value
    assert heavy == pytest.approx(classes, rel=1e-8)
    # In between, the stacked rows are what is clustered.
    stacked = torch.cat([x, 0.7 * torch.eye(3).double()[y]], dim=1)
    middle = tcv(x, y, label_weight=0.7, seed=0)
    assert middle.value == pytest.approx(tcv(stacked, y, seed=0).value, rel=1e-10)
    assert plain.value <= middle.value * (1 + FLOAT64)
    # Numbers of the classes do not matter, only which rows share one.
    renamed = torch.tensor([7, 90, 3])[y]
    again = tcv(x, renamed, label_weight=0.7, seed=0).value
    assert again == pytest.approx(middle.value, rel=1e-10)


def test_collapse_and_offset_cost_no_digits():
    g = torch.Generator().manual_seed(1)
    y = torch.arange(3).repeat(10)
    centres = torch.tensor([[1.0, 0], [0, 1], [-1, -1]]).double()
    # Dyadic steps of 2^-40 around centres at an offset of 1000: exact in float64.
    steps = torch.randint(-9, 9, (30, 2), generator=g).double()
    x = 1000.0 + centres[y] + steps * 2.0**-40
    value = tcv(x, num_clusters=3, seed=0)
    assert value.value == pytest.approx(variation(steps, y) * 2.0**-80, rel=1e-10)
    assert tcv(x, num_clusters=1, seed=0).value == pytest.approx(
        variation(centres[y], torch.zeros(30)), rel=1e-6
    )


def test_few_distinct_rows_vary_nothing_and_say_so_exactly():
    x = torch.tensor([[1.0], [2.0], [1.0], [2.0]])
    value = tcv(x, num_clusters=3, seed=0)
    assert (value.lower, value.value, value.upper) == (0.0, 0.0, 0.0)
    assert tcv(torch.ones(5, 2), num_clusters=1, seed=0).value == 0.0


def test_equal_seeds_give_equal_values():
    x, _ = mixture(2, [40, 40], 5, 3.0)
    first = tcv(x, num_clusters=7, num_starts=1, seed=3)
    assert tcv(x, num_clusters=7, num_starts=1, seed=3) == first


def test_the_bracket_of_a_summary_is_that_of_the_rows():
    x, y = mixture(6, [9, 4, 7], 5, 1.0)
    moments = ClassMoments(3, 5, scatter="full")
    moments.update(x, y)
    mu = np.sort(np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True)))[::-1]
    for k in range(1, 8):
        truth = float(mu[k - 1 :].sum())
        for value in (pca_bracket_of(moments.compute(), k), pca_bracket(x, k)):
            assert value.value == pytest.approx(truth, rel=1e-11, abs=1e-14)
            assert value.lower <= truth + 1e-14
            assert value.upper >= truth - 1e-14


def test_rows_of_rank_two_leave_nothing_beyond_two_directions():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(50, 2, dtype=torch.float64, generator=g)
    x = a @ torch.randn(2, 9, dtype=torch.float64, generator=g)
    value = pca_bracket(x, 3)
    assert value.value < 1e-28
    assert value.lower == 0.0


@pytest.mark.parametrize("shape", [(300, 80), (70, 400)])
@pytest.mark.parametrize("tail", [1.0, 1e-9])
def test_the_bracket_of_tall_and_wide_sets_is_that_of_numpy(shape, tail):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64, generator=g)
    # Ten strong directions; a weak rest is below what a Gram matrix resolves.
    u, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    s[10:] *= tail
    built = (u * s) @ v
    truth = np.linalg.svd((built - built.mean(0)).numpy(), compute_uv=False)[10:]
    truth = float((truth**2).sum()) / len(x)
    value = pca_bracket(built, 11)
    assert value.value == pytest.approx(truth, rel=1e-9 if tail == 1.0 else 1e-5)
    assert value.lower <= truth <= value.upper
    assert value.relative_width < 1e-3


def test_what_cannot_be_clustered_is_refused_or_said(monkeypatch):
    x, y = mixture(0, [3, 3], 2, 1.0)
    with pytest.raises(DomainError, match="num_clusters or labels must be given"):
        tcv(x, seed=0)
    with pytest.raises(DomainError, match=r"num_clusters must be at least 1, got 0"):
        tcv(x, num_clusters=0, seed=0)
    with pytest.raises(DomainError, match=r"label_weight needs labels.*labels=None"):
        tcv(x, num_clusters=2, label_weight=1.0, seed=0)
    with pytest.raises(DomainError, match=r"not be negative, got -1"):
        tcv(x, y, label_weight=-1.0, seed=0)
    assert tcv(x[:0], num_clusters=2, seed=0).status == "degenerate"
    lost = x.clone()
    lost[1, 1] = torch.nan
    assert tcv(lost, num_clusters=2, seed=0).status == "nonfinite"
    assert pca_bracket(lost, 2).status == "nonfinite"

    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"k-means needs scikit-learn.*experiments\]"):
        tcv(x, num_clusters=2, seed=0)
