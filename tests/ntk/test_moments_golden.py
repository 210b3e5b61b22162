"""Kernel moments: golden values of the theory, depth tables, asymptotics, scale."""

import math

import pytest
from tolerances import FLOAT64

from spectrank.ntk.moments import moments
from spectrank.ntk.recursion import RelativeLaw, kernel_moments, limit_log_second
from spectrank.random_nets import RandomMLP

MEAN, SECOND = "kernel_mean", "kernel_second_moment"
VARIANCE = "kernel_relative_variance"
# Of the last digit printed by the theory, which has rounded twice in places (0.57345
# to 0.5735 to 0.574).
UNIT = 0.6


def of_network(net):
    table = moments(net)
    return [table.value("network", name) for name in (MEAN, SECOND, VARIANCE)]


@pytest.mark.parametrize(
    ("widths", "spectrum", "r", "mean", "second", "digits"),
    [
        ([10, 16, 16, 16, 1], "flat", 4, 5.8, 71.06395061728404, FLOAT64),
        ([10, 16, 16, 16, 1], "spike", 3, 5.8, 56.82091438344348, FLOAT64),
        ([8, 12, 10, 3], "flat", 4, 11.25, 195.092198, 3e-9),
        ([8, 12, 10, 3], "spike", 3, 11.25, 178.000302, 3e-9),
        ([5, 9, 14, 7, 4], "flat", 4, 28.0, 1524.025171, 3e-10),
    ],
)
def test_golden_moments(widths, spectrum, r, mean, second, digits):
    found = of_network(RandomMLP(widths, r, spectrum))
    assert found[0] == pytest.approx(mean, rel=FLOAT64)
    assert found[1] == pytest.approx(second, rel=digits)
    assert found[2] == pytest.approx(second / mean**2 - 1.0, rel=4 * digits)


@pytest.mark.parametrize(
    ("widths", "spectrum", "r", "activation", "mean", "variance"),
    [
        ([10, 16, 16, 16, 1], "flat", 4, "relu", "5.800", "1.112"),
        ([10, 16, 16, 16, 1], "spike", 4, "relu", "5.800", "0.544"),
        ([10, 16, 16, 16, 1], "flat", 10, "relu", "5.800", "0.500"),
        ([10, 16, 16, 16, 1], "gaussian", None, "relu", "5.800", "0.815"),
        ([6, 12, 20, 9, 14, 1], "flat", 3.5, "relu", "10.17", "2.08"),
        ([6, 12, 20, 9, 14, 1], "spike", 3.5, "relu", "10.17", "1.127"),
        ([10, 16, 16, 16, 1], "flat", 4, "linear", "5.800", "0.433"),
        ([10, 16, 16, 16, 1], "spike", 4, "linear", "5.800", "0.0713"),
    ],
)
def test_table_of_finite_networks(widths, spectrum, r, activation, mean, variance):
    found = of_network(RandomMLP(widths, r, spectrum, activation=activation))
    for got, printed in ((found[0], mean), (found[2], variance)):
        digits = len(printed.partition(".")[2])
        assert got == pytest.approx(float(printed), abs=UNIT * 10.0**-digits)


# S1 5.3: columns with the participation ratio that each stands for.
def _rhos(n):
    def spike(r):
        return r**2 / (1.0 + (r - 1.0) ** 2 / (n - 1.0))

    def mp_spike(r):
        return 1.0 / (1.0 / r**2 + (1.0 - 1.0 / r) ** 2 * 2.0 / n)

    root = math.sqrt(n)
    return [n, 4, root, n / 4, spike(4), spike(root), mp_spike(4), mp_spike(root)]


DEPTHS = [
    (5, 64, "0.142 1.51 0.670 0.347 0.389 0.192 0.432 0.243"),
    (5, 256, "0.0346 1.36 0.270 0.0783 0.280 0.0473 0.290 0.0600"),
    (5, 1024, "0.0086 1.32 0.122 0.0191 0.253 0.0119 0.255 0.0151"),
    (20, 64, "0.960 722 34.0 5.68 7.49 1.67 9.70 2.63"),
    (20, 256, "0.186 571 4.34 0.574 4.66 0.287 5.00 0.397"),
    (20, 1024, "0.0436 536 1.20 0.117 4.09 0.0659 4.16 0.0889"),
]


@pytest.mark.parametrize(("num_layers", "n", "printed"), DEPTHS)
def test_table_of_depths(num_layers, n, printed):
    readout = RelativeLaw(1, n, math.log(2.0), 1.0, 1.0)
    for rho, text in zip(_rhos(n), printed.split(), strict=True):
        hidden = RelativeLaw(n, n, math.log(2.0 * n), 1.0, 1.0 / rho)
        found = kernel_moments([hidden] * (num_layers - 1) + [readout], 0.0)
        digits = len(text.partition(".")[2])
        got = math.exp(found.log_relative_variance)
        assert got == pytest.approx(float(text), abs=UNIT * 10.0**-digits), rho


@pytest.mark.parametrize(
    ("num_layers", "n", "fixed", "gaussian"),
    [
        (5, 64, "0.209", "0.2336"),
        (5, 256, "0.0491", "0.0544"),
        (5, 1024, "0.0121", "0.01336"),
        (20, 64, "1.96", "2.046"),
        (20, 256, "0.302", "0.3111"),
        (20, 1024, "0.0675", "0.06934"),
    ],
)
def test_table_of_gaussian_networks(num_layers, n, fixed, gaussian):
    widths = [n] * num_layers + [1]
    for last, printed in (("flat", fixed), ("gaussian", gaussian)):
        spectra = ["gaussian"] * (num_layers - 1) + [last]
        ranks = [None] * (num_layers - 1) + [1.0 if last == "flat" else None]
        found = of_network(RandomMLP(widths, ranks, spectra))
        digits = len(printed.partition(".")[2])
        assert found[2] == pytest.approx(float(printed), abs=UNIT * 10.0**-digits)


def test_a_table_entry_made_by_a_network_is_that_of_its_ratio():
    found = of_network(RandomMLP([64] * 5 + [1], 16, "spike"))
    rho = 16**2 / (1.0 + 15**2 / 63)
    hidden = RelativeLaw(64, 64, math.log(128.0), 1.0, 1.0 / rho)
    readout = RelativeLaw(1, 64, math.log(2.0), 1.0, 1.0)
    of_ratio = kernel_moments([hidden] * 4 + [readout], 0.0)
    assert math.log(found[2]) == pytest.approx(of_ratio.log_relative_variance)
    orthogonal = of_network(RandomMLP([64] * 5 + [1], spectrum="orthogonal"))
    assert orthogonal[2] == pytest.approx(0.142, abs=5.3e-4)


@pytest.mark.parametrize(
    ("num_layers", "n", "rho", "exact", "limit"),
    [
        (1200, 1200, 1200.0, "11.67", "11.80"),
        (800, 8000, 8000.0, "0.2656", "0.2662"),
        (1200, 4800, 1200.0, "5.01", "5.04"),
    ],
)
def test_exact_and_leading_order_at_great_depth(num_layers, n, rho, exact, limit):
    readout = RelativeLaw(1, n, math.log(2.0), 1.0, 1.0)
    hidden = RelativeLaw(n, n, math.log(2.0 * n), 1.0, 1.0 / rho)
    found = kernel_moments([hidden] * (num_layers - 1) + [readout], 0.0)
    leading = math.expm1(limit_log_second(num_layers, rho, n, 0.0)[1])
    for got, printed in (
        (math.exp(found.log_relative_variance), exact),
        (leading, limit),
    ):
        digits = len(printed.partition(".")[2])
        assert got == pytest.approx(float(printed), abs=UNIT * 10.0**-digits)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_leading_order_is_approached_like_one_over_the_width(slope, share):
    gaps = []
    for n in (128, 512):
        hidden = RelativeLaw(n, n, 0.0, 1.0, 1.0 / (share * n))
        readout = RelativeLaw(1, n, 0.0, 1.0, 1.0)
        found = kernel_moments([hidden] * (n - 1) + [readout], slope)
        leading = limit_log_second(n, share * n, n, slope)[1]
        gaps.append(abs(leading - found.log_second + 2.0 * found.log_mean))
    if slope == 1.0 and share == 1.0:
        # Orthogonal and linear: the kernel is not random at all.
        assert gaps == pytest.approx([0.0, 0.0], abs=1e-9)
    else:
        assert 3.0 < gaps[0] / gaps[1] < 5.0


def test_a_deep_network_does_not_overflow():
    net = RandomMLP([16] * 1000 + [1], 2, "flat", norm="spectral", sigma=100.0)
    table = moments(net)
    rows = {(r["metric"], r["variant"]): r for r in table.where(subject="network")}
    # E K = sum of 1000 equal terms: all factors but one layer's, scalar readout.
    factor = math.log(0.5 * 100.0**2 * 2 / 16)
    last = math.log(1.0) + 999 * factor
    others = math.log(999.0) + 998 * factor + math.log(0.5 * 100.0**2 / 1)
    expected = max(last, others) + math.log1p(math.exp(-abs(last - others)))
    mean = rows["kernel_mean", None]
    assert mean["status"] == "nonfinite"
    assert mean["value"] == math.inf
    assert mean["log_value"] == pytest.approx(expected, rel=FLOAT64)
    second = rows["kernel_second_moment", None]
    variance = rows["kernel_relative_variance", None]
    assert second["log_value"] - 2.0 * mean["log_value"] == pytest.approx(
        variance["log_value"], rel=1e-9
    )
    # Two independent bounds of the depth law: F^L of the signal, L - 1 layers.
    F = (1.0 + 2.0 / 2.0) * 16 / 18 * 21 / 18
    assert 0.9 < variance["log_value"] / (998 * math.log(F)) < 1.1


@pytest.mark.parametrize("scale", [1e-200, 1e70])
def test_the_relative_variance_has_no_scale(scale):
    small = [moments(RandomMLP([4, 6, 5, 2], 2, "flat", gain=g)) for g in (1.0, scale)]
    values = [table.value("network", VARIANCE) for table in small]
    assert values[1] == pytest.approx(values[0], rel=1e-9)
    row = next(iter(small[1].where(subject="network", metric=MEAN)))
    # Gains enter E K_l for L - 1 layers, squared: log E K moves by 4 log scale.
    before = next(iter(small[0].where(subject="network", metric=MEAN)))
    shift = row["log_value"] - before["log_value"]
    assert shift == pytest.approx(4.0 * math.log(scale), rel=1e-9)
    assert row["status"] == ("ok" if scale == 1e70 else "nonfinite")
