"""What the tracker says of the norms holds, by dense float64 SVDs of every step."""

import math

import pytest
import torch
from matrices import haar, with_spectrum
from torch import nn

from spectrank.train.tracker import Tracker
from spectrank.train.tracker.enclose import enclose
from spectrank.train.tracker.follow import WarmFollower

# float64 oracles and proved ends: only the oracle's own rounding is let through.
ORACLE = 1e-12


class Moving(nn.Module):
    """A matrix that goes where a test sends it."""

    def __init__(self, W):
        super().__init__()
        self.fc = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
        self.send(W)

    def send(self, W):
        with torch.no_grad():
            self.fc.weight.copy_(W)


def follow(path, **options):
    """Track a list of matrices; return (row, truth) pairs of the stable rank."""
    model = Moving(path[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    tracker = Tracker(model, **options)
    truths = []
    for W in path:
        model.send(W)
        tracker.observe(optimizer)
        truths.append(stable_rank(model.fc.weight))
    rows = list(tracker.table().where(kind="measurement"))
    return list(zip(rows, truths, strict=True))


def stable_rank(W):
    W = W.detach().double().flatten(1)
    if not bool(W.isfinite().all()):
        return math.nan
    sigma = torch.linalg.svdvals(W)
    return float(sigma.square().sum() / sigma[0] ** 2)


def assert_holds(row, truth):
    assert row["lower"] <= truth * (1.0 + ORACLE), row
    assert truth <= row["upper"] * (1.0 + ORACLE), row
    assert row["lower"] <= row["value"] <= row["upper"], row


def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor(x / 8.0 - 1.0), torch.tensor(y)


@pytest.mark.parametrize(
    ("dtype", "every", "drift"),
    [
        (torch.float32, 1, False),
        (torch.float32, 5, True),
        (torch.float64, 1, True),
        (torch.bfloat16, 1, True),
    ],
)
def test_truth_is_enclosed_at_every_step_of_a_training_run(dtype, every, drift):
    x, y = digits()
    x = x.to(dtype)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 40, 7),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(160, 48),
        nn.ReLU(),
        nn.Linear(48, 96),
        nn.ReLU(),
        nn.Linear(96, 10),
    ).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tracker = Tracker(model, every=every, drift=drift, refresh=25)
    generator = torch.Generator().manual_seed(0)
    truths = {}
    for step in range(1, 61):
        batch = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]).float(), y[batch])
        loss.backward()
        optimizer.step()
        tracker.observe(optimizer, loss)
        for name, p in model.named_parameters():
            if p.ndim > 1:
                truths[name, step] = stable_rank(p)
    rows = list(tracker.table().where(kind="measurement"))
    assert len(rows) == 4 * 60 // every
    routes = {row["route"] for row in rows}
    assert {"gram", "warm-start"} < routes
    errors = []
    for row in rows:
        truth = truths[row["subject"], row["step"]]
        assert_holds(row, truth)
        if row["status"] == "ok":
            errors.append(row["value"] / truth - 1.0)
    # The carried vector follows: no promise, so a wide margin.
    assert sum(errors) / len(errors) < 0.02
    assert max(errors) < 0.2


def random_walk(m, n, num_steps, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(m, n, dtype=torch.float64, generator=generator)
    for _ in range(num_steps):
        yield W.clone()
        W += size * torch.randn(m, n, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shape", [(33, 200), (120, 50), (64, 64)])
def test_both_ends_hold_for_matrices_without_a_gap_that_wander(shape, seed):
    path = list(random_walk(*shape, 30, 0.05, seed))
    for row, truth in follow(path, drift=True, refresh=13):
        assert_holds(row, truth)


def test_between_full_enclosures_the_upper_end_of_the_stable_rank_is_proved():
    path = list(random_walk(64, 48, 10, 0.01))
    (first, _), *rest = follow(path)
    assert first["route"] == "lanczos-float32"
    assert first["error_kind"] == "probabilistic"
    assert first["failure_probability"] == 1e-9
    assert first["upper"] / first["lower"] < 1.11
    for row, truth in rest:
        assert row["route"] == "warm-start"
        assert row["error_kind"] == "certified"
        assert row["failure_probability"] is None
        assert row["lower"] == 1.0
        assert truth <= row["upper"] < 1.1 * truth


def test_drift_bounds_the_other_end_by_the_distance_moved():
    # sigma_1 <= U + d at a distance d makes the stable rank at least F^2 / (U + d)^2.
    path = [with_spectrum(torch.linspace(2.0, 0.5, 40), 60, 40)]
    path += [path[0] + 0.01 * k * torch.eye(60, 40) for k in range(1, 8)]
    pairs = follow(path, drift=True)
    full = pairs[0][0]
    top = float(torch.linalg.matrix_norm(path[0], "fro")) / math.sqrt(full["lower"])
    for k, (row, truth) in enumerate(pairs[1:], start=1):
        away = 0.01 * k * math.sqrt(40)
        energy = float(path[k].square().sum())
        assert row["lower"] == pytest.approx(energy / (top + away) ** 2, rel=1e-4)
        assert row["error_kind"] == "probabilistic"
        assert_holds(row, truth)


def crossing(num_steps, *, quiet=False, seed=0):
    """Two directions: the first sinks from 1 while the second rises to 2.

    ``quiet`` keeps the energy outside the first, so that only looking anew tells.
    """
    n, generator = 64, torch.Generator().manual_seed(seed)
    left, right = haar(n, generator), haar(n, generator)
    for k in range(num_steps):
        t = min(k / 10, 1.0)
        sigma = torch.full((n,), 0.3, dtype=torch.float64)
        sigma[0], sigma[1] = 2.0 - t, 0.3 + 1.2 * t
        if quiet:
            rest = (n - 1) * 0.3**2 - float(sigma[1]) ** 2
            sigma[2:] = math.sqrt(rest / (n - 2))
        yield (left * sigma) @ right.T


def naive(path):
    """Plain warm-started power iteration, one full step a matrix."""
    x = torch.linalg.svd(path[0])[2][0]
    for W in path:
        x = W.T @ (W @ x)
        x = x / x.norm()
        yield float((W @ x).norm())


@pytest.mark.parametrize("quiet", [False, True])
def test_a_planted_crossing_defeats_naive_power_iteration_and_not_the_tracker(quiet):
    path = list(crossing(60, quiet=quiet))
    tops = [float(torch.linalg.matrix_norm(W, 2)) for W in path]
    stuck = list(naive(path))
    assert stuck[30] < 0.7 * tops[30]
    pairs = follow(path, refresh=1000, rtol=0.02)
    for row, truth in pairs:
        assert_holds(row, truth)
    # The noise grows by (1.5 / 1)^2 a full step, two ticks, from 0.01 / sqrt(64).
    errors = [row["value"] / truth - 1.0 for row, truth in pairs]
    assert max(errors[40:]) < 0.01
    # Where energy comes in, it is seen before that.
    num_wrong = sum(error > 0.1 for error in errors)
    assert num_wrong > 5 if quiet else num_wrong <= 2


def test_a_full_enclosure_finds_what_took_the_lead_and_tells_the_lag():
    path = list(crossing(60, quiet=True))
    pairs = follow(path, refresh=13)
    full = [(row, truth) for row, truth in pairs if row["lag"] is not None]
    assert [row["step"] for row, _ in full] == [14, 27, 40, 53]
    for row, truth in full:
        assert row["upper"] / row["lower"] < 1.11
        assert row["value"] == pytest.approx(truth, rel=1e-3)
    # 1.0 was carried where 1.5 was true, at step 14.
    assert full[0][0]["lag"] == pytest.approx(1.0 / 3.0, abs=0.02)
    assert full[-1][0]["lag"] < 1e-3


def test_new_energy_outside_the_carried_direction_calls_for_a_full_enclosure():
    base = with_spectrum([1.0] + [0.2] * 47, 48, 48)
    bump = with_spectrum([1.0] + [0.0] * 47, 48, 48, seed=5)
    path = [base + a * bump for a in (0.0, 0.3, 0.6, 0.9, 0.9)]
    routes = [row["route"] for row, _ in follow(path)]
    # Energies 0.09 and 0.36 are less than half of sigma_1^2, 0.81 is more.
    warm, full = "warm-start", "lanczos-float32"
    assert routes == [full, warm, warm, full, warm]


def test_on_a_device_that_is_not_asked_at_once_the_call_comes_with_the_reading(
    monkeypatch,
):
    # As on an accelerator: ticks stay there until 32 of them are read.
    def later(self, W):
        self._asked = False
        return False

    monkeypatch.setattr(WarmFollower, "_asks_at_once", later)
    pairs = follow(list(crossing(100)))
    for row, truth in pairs:
        assert_holds(row, truth)
    full = [row["step"] for row, _ in pairs if row["route"].startswith("lanczos")]
    # Energy came in at steps 2 to 11, the reading was after step 32; all is calm then.
    assert full == [1, 33]
    # A full enclosure between the two has answered the call already.
    rows = [row for row, _ in follow(list(crossing(60)), refresh=20)]
    full = [row["step"] for row in rows if row["route"].startswith("lanczos")]
    assert full == [1, 21, 41]


def test_on_a_device_numbers_that_were_lost_have_a_reason_and_come_back(monkeypatch):
    def later(self, W):
        self._asked = False
        return False

    monkeypatch.setattr(WarmFollower, "_asks_at_once", later)
    W = with_spectrum(torch.linspace(1.0, 0.1, 40), 50, 40).float()
    path = [W, math.nan * W, 1e25 * W, *[1e25 * W] * 30, 1e25 * W]
    rows = [row for row, _ in follow(path)]
    assert [row["status"] for row in rows[:3]] == ["ok", "nonfinite", "nonfinite"]
    assert "NaN" in rows[1]["reason"]
    assert rows[32]["status"] == "ok"
    path = [W, 1e-25 * W, *[1e-25 * W] * 31]
    rows = [row for row, _ in follow(path)]
    assert "scales anew" in rows[1]["reason"]
    assert (rows[31]["status"], rows[32]["status"]) == ("not_converged", "ok")


def test_new_energy_is_told_from_the_least_there_was_since():
    # Decay takes away more than the new direction brings.
    base = with_spectrum([1.0] + [0.4] * 47, 48, 48)
    flat = with_spectrum([1.0] + [0.2] * 47, 48, 48)
    bump = with_spectrum([0.0, 0.9] + [0.0] * 46, 48, 48)
    rows = [row for row, _ in follow([base, flat, flat + bump])]
    assert rows[-1]["route"] == "lanczos-float32"


def test_growth_of_the_carried_direction_or_decay_calls_for_none():
    grown = [with_spectrum([a] + [0.5] * 39, 40, 40) for a in (1.0, 1.5, 2.0, 3.0)]
    shrunk = [0.9**k * grown[0] for k in range(8)]
    for path in (grown, shrunk):
        routes = [row["route"] for row, _ in follow(path)]
        assert routes[1:] == ["warm-start"] * (len(path) - 1)


def test_a_vector_that_turns_fast_is_not_converged():
    generator = torch.Generator().manual_seed(0)
    left = haar(40, generator)
    # Near enough to one that no energy seems to come from outside.
    sigma = torch.tensor([1.0] + [0.9] * 39, dtype=torch.float64)
    path = [(left * sigma) @ haar(40, generator).T for _ in range(8)]
    rows = [row for row, _ in follow(path, rtol=0.05)]
    assert rows[0]["status"] == "ok"
    late = rows[3:]
    assert {row["status"] for row in late} == {"not_converged"}
    assert all("turned by" in row["reason"] for row in late)
    still = [path[0]] * 8
    assert {row["status"] for row, _ in follow(still)} == {"ok"}


def test_zero_nan_and_extreme_matrices_get_a_status_and_recover_at_once():
    W = with_spectrum(torch.linspace(1.0, 0.1, 40), 50, 40).float()
    scales = [0.0, 0.0, 1.0, math.nan, math.nan, math.inf, 1.0, 1e30, 1e-30, 1e-12, 1.0]
    pairs = follow([W * scale for scale in scales])
    for scale, (row, _) in zip(scales, pairs, strict=True):
        if scale == 0.0:
            assert (row["status"], row["reason"]) == (
                "degenerate",
                "the matrix is zero",
            )
        elif not math.isfinite(scale):
            assert row["status"] == "nonfinite"
            assert "entries" in row["reason"]
        else:
            assert row["status"] == "ok"
            assert row["value"] == pytest.approx(pairs[2][0]["value"], rel=1e-4)
            assert row["lower"] <= pairs[2][1] <= row["upper"]


def test_a_change_of_scale_at_a_full_enclosure_leaves_the_ticks_before_alone():
    W = with_spectrum(torch.linspace(1.0, 0.1, 40), 50, 40).float()
    path = [W, W, 1e-15 * W, 1e-15 * W, 1e-15 * W, 1e-15 * W, 1e-15 * W]
    pairs = follow(path, refresh=5, drift=True)
    assert pairs[5][0]["route"] == "lanczos-float32"
    for row, truth in pairs:
        assert row["value"] == pytest.approx(truth, rel=1e-4)
        assert_holds(row, truth)


@pytest.mark.parametrize("rtol", [0.3, 1e-3, 1e-6, 1e-13])
def test_a_full_enclosure_is_as_narrow_as_asked_or_the_whole_spectrum(rtol):
    W = next(random_walk(60, 40, 1, 0.0))
    found = enclose(W, rtol=rtol, failure_probability=1e-9, seed=0)
    top = found.spectrum.sigma_max
    assert top.relative_width <= max(rtol * 1.001, 1e-12)
    assert (found.spectrum.route == "gram") == (rtol == 1e-13)
    assert top.lower <= float(torch.linalg.matrix_norm(W, 2)) <= top.upper
    x = found.vector / found.vector.norm()
    assert float((W @ x).norm()) > (1.0 - rtol) * top.value


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_stable_ranks_do_not_depend_on_the_scale(scale):
    path = [W.float() for W in random_walk(48, 64, 6, 0.05)]
    plain = [row["value"] for row, _ in follow(path)]
    scaled = follow([scale * W for W in path], drift=True)
    for value, (row, truth) in zip(plain, scaled, strict=True):
        assert row["status"] == "ok"
        assert row["value"] == pytest.approx(value, rel=1e-4)
        assert row["lower"] <= truth <= row["upper"]


def test_small_matrices_have_both_ends_at_every_step():
    for row, truth in follow(list(random_walk(10, 300, 6, 0.5))):
        assert row["route"] == "gram"
        assert row["upper"] / row["lower"] < 1.0 + 1e-9
        assert_holds(row, truth)
    for row, _ in follow(list(random_walk(10, 300, 6, 0.5)), metrics="spectral_norm"):
        # Both ends leave room for the rounding of a sum of 300 squares.
        assert 1e-14 < row["value"] / row["lower"] - 1.0 < 1e-12
        assert 1e-14 < row["upper"] / row["value"] - 1.0 < 1e-12


def test_autocast_around_the_loop_does_not_reach_the_products(monkeypatch):
    seen, real = [], WarmFollower.tick

    def tick(self, *arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        real(self, *arguments)

    monkeypatch.setattr(WarmFollower, "tick", tick)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        follow([W.float() for W in random_walk(64, 64, 3, 0.05)])
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False] * 3


def test_coarser_products_allowed_by_the_user_widen_the_proved_end():
    path = [W.float() for W in random_walk(64, 64, 3, 0.01)]
    fine = follow(path)[-1][0]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        coarse, truth = follow(path)[-1]
    finally:
        torch.set_float32_matmul_precision(before)
    assert coarse["upper"] > 1.005 * fine["upper"]
    assert_holds(coarse, truth)


def test_the_proved_end_covers_the_rounding_of_float32_where_it_is_worst():
    # One sign and long sums: rounding does not average out.
    W = torch.full((40, 20_000), 0.1)
    W[:, 0] = 0.2
    path = [W, W * 1.0001, W]
    for row, truth in follow(path, drift=True):
        assert_holds(row, truth)
