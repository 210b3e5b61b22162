"""`spectrum`, `alignment`, `velocity` of kernels: closed forms, scale, status."""

import math

import mpmath
import pytest
import torch
from tolerances import FLOAT64

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.ntk.analysis import alignment, spectrum, velocity

SCALES = (1e-200, 1e-3, 1.0, 1e200)
ALIGNMENT = "kernel_target_alignment"


def rotation(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(A).Q


def kernel_of(eigenvalues, seed=0):
    """A dense kernel built from the answer."""
    Q = rotation(len(eigenvalues), seed)
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    K = (Q * values) @ Q.T
    return 0.5 * (K + K.T)


def with_outputs(K, c):
    """The kernel (n, n, c, c) whose flattened matrix is K."""
    n = len(K) // c
    return K.reshape(n, c, n, c).permute(0, 2, 1, 3)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("c", [None, 1, 2])
def test_a_kernel_built_from_its_eigenvalues_gives_them_back(scale, c):
    eigenvalues = [8.0, 4.0, 2.0, 1.0, 0.5, 0.5]
    K = kernel_of(eigenvalues) * scale
    table = spectrum(K if c is None else with_outputs(K, c))
    relative = [x / scale for x in table.spectrum("kernel")]
    assert relative == pytest.approx(eigenvalues, rel=1e-12)
    value = table.value
    p = [x / 16.0 for x in eigenvalues]
    closed = {
        "largest_eigenvalue": 8.0 * scale,
        "smallest_eigenvalue": 0.5 * scale,
        "trace": 16.0 * scale,
        # sum lambda^2 / lambda_max^2, (sum lambda^2)^2 / sum lambda^4.
        "stable_rank": 85.5 / 64.0,
        "participation_ratio": 85.5**2 / (4096 + 256 + 16 + 1 + 0.0625 * 2),
        "effective_rank": math.exp(-sum(x * math.log(x) for x in p)),
        "condition_number": 16.0,
        "largest_learning_rate": 0.25 / scale,
    }
    for name, truth in closed.items():
        assert value("kernel", name) == pytest.approx(truth, rel=1e-11), name
        row = next(iter(table.where(metric=name)))
        assert row["lower"] <= truth <= row["upper"]
        assert row["num_outputs"] == c


def test_gradient_descent_diverges_above_the_largest_rate_and_not_below():
    K = kernel_of([3.0, 1.0, 0.2])
    rate = spectrum(K).value("kernel", "largest_learning_rate")
    for factor, grows in ((0.98, False), (1.02, True)):
        r = torch.ones(3, dtype=torch.float64)
        for _ in range(2_000):
            r = r - factor * rate * (K @ r)
        assert bool(r.norm() > 1e3) == grows


def test_zero_nan_and_indefinite_kernels_have_a_status():
    zero = spectrum(torch.zeros(3, 3))
    assert zero.spectrum("kernel") == [0.0, 0.0, 0.0]
    assert zero.where(metric="stable_rank").frame["status"].to_list() == ["degenerate"]
    broken = torch.eye(3)
    broken[1, 2] = math.nan
    rows = list(spectrum(broken))
    assert {row["status"] for row in rows} == {"nonfinite"}
    assert all(math.isnan(row["value"]) for row in rows)
    indefinite = spectrum(kernel_of([2.0, 1.0, -0.5]))
    assert indefinite.spectrum("kernel")[-1] == pytest.approx(-0.5)
    rate = next(iter(indefinite.where(metric="largest_learning_rate")))
    assert rate["status"] == "degenerate"
    assert "1 of 3 eigenvalues lie below zero" in rate["reason"]
    assert math.isnan(rate["value"])


def test_an_eigenvalue_below_zero_by_rounding_is_none():
    # Rank 2 of 6: eigvalsh puts some of the four zeros at -1e-16.
    B = rotation(6)[:, :2]
    for K in (B @ B.T, (B @ B.T).float()):
        table = spectrum(K)
        assert table.value("kernel", "stable_rank") == pytest.approx(2.0, rel=1e-5)
        row = next(iter(table.where(metric="condition_number")))
        assert row["status"] == "degenerate"
        assert row["value"] == math.inf


def test_the_error_of_single_precision_encloses_the_truth():
    K = kernel_of([4.0, 2.0, 1.0, 1e-3])
    rounded = spectrum(K.float())
    for name, truth in (("smallest_eigenvalue", 1e-3), ("condition_number", 4e3)):
        row = next(iter(rounded.where(metric=name)))
        assert row["lower"] < truth < row["upper"]
        assert row["lower"] < row["value"] < row["upper"]


def test_what_is_no_kernel_of_one_set_is_refused():
    with pytest.raises(ShapeError, match=r"one set of points with itself.*\(2, 3\)"):
        spectrum(torch.ones(2, 3))
    with pytest.raises(ShapeError, match=r"\(n1, n2, c, c\)"):
        spectrum(torch.ones(2, 2, 3))
    with pytest.raises(DomainError, match="symmetric to half the digits"):
        spectrum(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ArgumentTypeError, match="floating-point tensor, got a tensor"):
        spectrum(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ArgumentTypeError, match="got list"):
        spectrum([[1.0]])


def brute_alignment(K, Y, centre, digits=50):
    """The definition, in 50 digits, entry by entry."""
    with mpmath.workdps(digits):
        n = len(K)
        A = mpmath.matrix(K.tolist())
        B = mpmath.matrix((Y @ Y.T).tolist())
        if centre:
            H = mpmath.eye(n) - mpmath.ones(n) / n
            A, B = H * A * H, H * B * H
        dot = sum(A[i, j] * B[i, j] for i in range(n) for j in range(n))
        norms = [
            mpmath.sqrt(sum(M[i, j] ** 2 for i in range(n) for j in range(n)))
            for M in (A, B)
        ]
        return float(dot / norms[0] / norms[1])


@pytest.mark.parametrize("scale", SCALES)
def test_alignment_is_its_definition_entry_by_entry(scale):
    K = kernel_of([5.0, 3.0, 1.0, 0.3, 0.1])
    labels = torch.tensor([0, 2, 1, 2, 0])
    Y = torch.nn.functional.one_hot(labels).double()
    table = alignment(K * scale, labels)
    plain = table.value("kernel", ALIGNMENT)
    assert plain == pytest.approx(brute_alignment(K, Y, False), rel=1e-11)
    centred = table.value("kernel", ALIGNMENT, variant="centred")
    assert centred == pytest.approx(brute_alignment(K, Y, True), rel=1e-11)
    assert plain != pytest.approx(centred, rel=1e-3)


def test_regression_targets_align_by_their_values():
    K = kernel_of([5.0, 3.0, 1.0, 0.3])
    y = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)
    table = alignment(K, y)
    for centre, variant in ((False, None), (True, "centred")):
        got = table.value("kernel", ALIGNMENT, variant=variant)
        truth = brute_alignment(K, y[:, None], centre)
        assert got == pytest.approx(truth, rel=1e-11)


def test_one_hot_and_signs_of_two_classes_agree_centred_but_not_plain():
    K = kernel_of([5.0, 3.0, 1.0, 0.3])
    classes = torch.tensor([0, 1, 1, 1])
    signs = 2.0 * classes.double() - 1.0
    a, b = alignment(K, classes), alignment(K, signs)
    both = [t.value("kernel", ALIGNMENT, variant="centred") for t in (a, b)]
    assert both[0] == pytest.approx(both[1], rel=FLOAT64)
    plain = [t.value("kernel", ALIGNMENT) for t in (a, b)]
    assert plain[0] != pytest.approx(plain[1], rel=1e-3)


def test_a_constant_in_the_kernel_does_not_count_when_centred():
    K = kernel_of([5.0, 3.0, 1.0, 0.3])
    y = torch.tensor([1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    values = [
        alignment(K + shift, y + shift, centred=True).value(
            "kernel", ALIGNMENT, variant="centred"
        )
        for shift in (0.0, 7.0)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-11)
    assert alignment(K + 7.0, y, centred=False).value("kernel", ALIGNMENT) != (
        pytest.approx(alignment(K, y, centred=False).value("kernel", ALIGNMENT))
    )


def test_with_output_axes_the_target_is_the_vector_of_all_outputs():
    K = kernel_of([5.0, 3.0, 1.0, 0.3, 0.2, 0.1])
    Y = torch.tensor([[1.0, 0.0], [0.3, -2.0], [0.5, 0.5]], dtype=torch.float64)
    table = alignment(with_outputs(K, 2), Y)
    truth = brute_alignment(K, Y.reshape(-1, 1), False)
    assert table.value("kernel", ALIGNMENT) == pytest.approx(truth, rel=1e-11)
    # Centring acts on samples: outputs keep their own means apart.
    H = torch.kron(torch.eye(3) - 1.0 / 3.0, torch.eye(2)).double()
    y = H @ Y.reshape(-1, 1)
    truth = brute_alignment(H @ K @ H, y, False)
    got = table.value("kernel", ALIGNMENT, variant="centred")
    assert got == pytest.approx(truth, rel=1e-11)


def test_alignment_with_nothing_to_align_has_a_status():
    K = kernel_of([5.0, 3.0, 1.0])
    same = alignment(K, torch.tensor([0.3, 0.3, 0.3]))
    assert [row["status"] for row in same] == ["ok", "degenerate"]
    constant = alignment(torch.ones(3, 3) * 0.1, torch.tensor([0.0, 1.0, 2.0]))
    assert [row["status"] for row in constant] == ["ok", "degenerate"]
    none = alignment(K, torch.zeros(3))
    assert [row["status"] for row in none] == ["degenerate", "degenerate"]
    broken = alignment(K * math.nan, torch.tensor([0.0, 1.0, 2.0]))
    assert [row["status"] for row in broken] == ["nonfinite", "nonfinite"]


def test_labels_that_do_not_fit_are_refused():
    K = kernel_of([5.0, 3.0, 1.0])
    with pytest.raises(ShapeError, match="one row per sample"):
        alignment(K, torch.tensor([0, 1]))
    with pytest.raises(DomainError, match="whole numbers from 0 to 0, at least two"):
        alignment(K, torch.tensor([0, 0, 0]))
    with pytest.raises(DomainError, match="got -1 to 1"):
        alignment(K, torch.tensor([-1, 1, 1]))
    with pytest.raises(DomainError, match="labels must be finite"):
        alignment(K, torch.tensor([0.0, math.nan, 1.0]))
    full = with_outputs(kernel_of([4.0, 3.0, 2.0, 1.0]), 2)
    with pytest.raises(ShapeError, match="the 2 outputs of the kernel, got 3"):
        alignment(full, torch.ones(2, 3))


@pytest.mark.parametrize("scale", SCALES)
def test_distance_of_two_kernels_is_that_of_their_angle(scale):
    K0, K1 = kernel_of([5.0, 3.0, 1.0]), kernel_of([4.0, 1.0, 0.5], seed=1)
    cosine = float((K0 * K1).sum() / K0.norm() / K1.norm())
    table = velocity(K0 * scale, K1 * scale, elapsed=4.0)
    value = table.value
    assert value("kernel", "kernel_distance") == pytest.approx(1.0 - cosine, rel=1e-11)
    quarter = (1.0 - cosine) / 4.0
    assert value("kernel", "kernel_velocity") == pytest.approx(quarter, rel=1e-11)
    change = float((K1 - K0).norm() / K0.norm())
    assert value("kernel", "relative_change") == pytest.approx(change, rel=1e-11)
    ratio = float(K1.norm() / K0.norm())
    assert value("kernel", "norm_ratio") == pytest.approx(ratio, rel=1e-11)


def test_a_small_distance_keeps_its_digits():
    # u = (1, 0), v = (1, e): 1 - 1 / sqrt(1 + e^2) = e^2 / 2 to first order, which
    # 1 - cosine in float64 would round to 0.
    e = 1e-9
    K0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    K1 = torch.tensor([[1.0, e]], dtype=torch.float64)
    got = velocity(K0, K1).value("kernel", "kernel_distance")
    assert got == pytest.approx(e**2 / 2, rel=1e-6)
    assert velocity(K0, 3.0 * K0).value("kernel", "kernel_distance") == 0.0
    assert velocity(K0, 3.0 * K0).value("kernel", "relative_change") == 2.0


def test_kernels_that_cannot_be_compared_are_refused_or_have_a_status():
    K = kernel_of([5.0, 3.0, 1.0])
    with pytest.raises(ShapeError, match="same points and outputs"):
        velocity(K, K[:2, :2])
    with pytest.raises(DomainError, match="elapsed must be positive"):
        velocity(K, K, elapsed=0.0)
    assert {row["status"] for row in velocity(K, K * 0.0)} == {"degenerate"}
    assert {row["status"] for row in velocity(K, K * math.nan)} == {"nonfinite"}
    with pytest.raises(TypeError, match="elapsed is a number, got str"):
        velocity(K, K, elapsed="4")
