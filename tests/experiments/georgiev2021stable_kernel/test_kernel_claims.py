"""The claims on the kernel: survive at small size, fall to every wrong law."""

from dataclasses import replace

import numpy as np
import pytest

from spectrank.experiments.georgiev2021stable import kernel
from spectrank.experiments.georgiev2021stable.kernel import (
    descent,
    flow,
    means,
    rate,
    speed,
    variances,
    widths,
)
from spectrank.experiments.georgiev2021stable.networks import measure
from spectrank.experiments.georgiev2021stable.protocol import Inputs, Size

INPUTS = Inputs("digits", 24)
HALVES = descent.Halves("digits", 24)


def drawn(design, points=None):
    """What a design records, of its own networks or of others."""
    return measure(
        points or design.points,
        INPUTS.rows,
        num_seeds=design.size.num_seeds,
        num_networks=design.size.num_networks,
        seed=11,
        stream=("test", design.name),
        tick=lambda: None,
        observe=design.observe,
    )


def verdicts(design, recorded):
    return named(design.answer(recorded, 0))


def named(rows):
    return {
        row["subject"].split(".", 2)[2]: row["verdict"]
        for row in rows
        if row["kind"] == "claim"
    }


def answered(questions, recorded):
    return named([row for q in questions for row in q.rows(recorded, 0)])


def with_spectrum(points, spectrum):
    """The same points with other square weights, of the same stable ranks."""
    found = []
    for point in points:
        first, *square, last = point.law.spectrum
        other = replace(point.law, spectrum=(first, *[spectrum for _ in square], last))
        found.append(replace(point, law=other))
    return found


DESIGNS = {
    "one-layer": means.one_layer(INPUTS, Size(5, 16)),
    "all-layers": means.all_layers(INPUTS, Size(5, 24)),
    "spectrum": variances.spectrum(INPUTS, Size(5, 64)),
    "depth": variances.depth(INPUTS, Size(5, 64)),
    "width": widths.width(INPUTS, Size(5, 48), (32, 64, 128)),
}


@pytest.fixture(scope="module")
def honest():
    return {name: drawn(design) for name, design in DESIGNS.items()}


# ------------------------------------------------------------------ true kernels


@pytest.mark.parametrize("name", DESIGNS)
def test_no_claim_is_contradicted_by_its_own_law(name, honest):
    found = verdicts(DESIGNS[name], honest[name])
    assert set(found.values()) <= {"reproduced", "inconclusive"}, found


@pytest.mark.parametrize("name", DESIGNS)
def test_every_claim_has_a_figure_whose_points_are_near_the_prediction(name, honest):
    design = DESIGNS[name]
    rows = design.answer(honest[name], 0)
    points = [row for row in rows if row["kind"] == "measurement"]
    keys = {claim.key for claim in design.claims}
    assert {row["subject"] for row in points} == keys == set(design.figures)
    for row in points:
        # Four degrees of freedom: four standard errors are 1.4 half widths.
        half = row["upper"] - row["value"]
        assert abs(row["value"] - row["predicted"]) < 2.5 * half, row


# ----------------------------------------------------------------- wrong kernels


def test_a_kernel_linear_in_every_stable_rank_is_contradicted(honest):
    # Each term times the varied stable rank where the law has none, and the reverse.
    design, y = DESIGNS["one-layer"], honest["one-layer"].copy()
    ranks = np.array(means._RANKS)
    for j in range(3):
        own = slice(4 * j, 4 * j + 4)
        y[:, own, :, j] *= ranks[:, None]
    y[..., -1] = y[..., :-1].sum(-1)
    found = verdicts(design, y)
    for j in (1, 2, 3):
        assert found[f"own-term-without-stable-rank.layer-{j}"] == "contradicted"
        assert found[f"linear-in-stable-rank.layer-{j}"] != "contradicted"
    assert found["sum-of-terms.layer-1"] == found["sum-of-terms.layer-2"]
    assert found["sum-of-terms.layer-1"] == "contradicted"


@pytest.mark.parametrize("power", [0.5, 1.5])
def test_other_powers_of_the_stable_rank_are_contradicted(power, honest):
    y = honest["one-layer"].copy()
    ranks = np.tile(means._RANKS, 3)[:, None, None]
    found = verdicts(DESIGNS["one-layer"], y * ranks ** (power - 1.0))
    assert set(found.values()) == {"contradicted"}
    y = honest["all-layers"].copy()
    ranks = np.tile(means._RANKS, 2)[:, None, None]
    found = verdicts(DESIGNS["all-layers"], y * ranks ** (power - 1.0))
    assert set(found.values()) == {"contradicted"}


def test_variances_that_follow_the_stable_rank_are_contradicted():
    # Flat spectra everywhere: the stable rank takes the participation ratio's place.
    design = DESIGNS["spectrum"]
    found = verdicts(design, drawn(design, with_spectrum(design.points, "flat")))
    assert found.pop("relative-variance.flat") != "contradicted"
    assert set(found.values()) == {"contradicted"}


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_variances_off_by_a_factor_are_contradicted(factor, honest):
    for name in ("spectrum", "depth", "width"):
        y = honest[name].copy()
        mean = y[..., 0].mean(-1, keepdims=True)
        # The spread about each replicate's own mean, times the factor.
        y[..., 1] += (factor - 1.0) * (y[..., 1].mean(-1, keepdims=True) - mean**2)
        found = verdicts(DESIGNS[name], y)
        wrong = {key for key, verdict in found.items() if verdict == "contradicted"}
        assert (
            wrong
            >= {
                "spectrum": {
                    "relative-variance.flat",
                    "relative-variance.mp-spike",
                    "relative-variance.spike",
                },
                "depth": {"relative-variance.grows-with-depth"},
                "width": {
                    "width.bounded-over-prediction",
                    "width.diverging-over-prediction",
                },
            }[name]
        ), found


def test_bounded_and_diverging_stable_ranks_cannot_change_places(honest):
    design, y = DESIGNS["width"], honest["width"]
    found = verdicts(design, np.roll(y, 3, axis=1))
    assert found["width.bounded-stays-random"] == "contradicted"
    assert found["width.diverging-becomes-deterministic"] == "contradicted"
    assert found["width.bounded-keeps-its-limit"] == "contradicted"


def test_growth_that_stops_with_depth_is_contradicted(honest):
    y = honest["depth"][:, [0, 0, 0, 0]]
    found = verdicts(DESIGNS["depth"], y)
    assert set(found.values()) == {"contradicted"}


# ------------------------------------------------------------------- kernel flow

FLOW = flow.FlowSize(3, 3, (16, 64))


@pytest.fixture(scope="module")
def flown():
    nets = flow._nets(HALVES, FLOW)
    return flow.measure(nets, HALVES, FLOW, 3, ("test",), lambda: None)


def test_wide_nets_follow_their_own_kernel_and_not_the_next_one(flown):
    own, other = np.exp(flown.mean((0, 2))).T
    assert own[1] < own[0]
    assert (own < other).all()
    assert own[1] < 0.05


def test_the_other_kernel_is_that_of_the_next_network(flown):
    nets = flow._nets(HALVES, FLOW)
    label = nets[3].label
    generator = flow.derive_generator(3, "test", label, 0)
    own = descent.start(nets[3], HALVES, 3, generator)
    rates = flow._SHARE * 24 / 2.0 / own.eigenvalues[:, -1]
    losses = descent.descend(own, HALVES, rates, flow._NUM_LOSSES)
    for i in range(3):
        k = (i + 1) % 3
        K = own.eigenvectors[k] @ own.eigenvalues[k].diag() @ own.eigenvectors[k].T
        r, expected = HALVES.targets.clone(), []
        for _ in range(flow._NUM_LOSSES):
            expected.append(float(r.square().mean()))
            r = r - 2.0 * rates[i] / 24 * (K @ r)
        far = np.abs(losses[i] - expected).max() / losses[i, 0]
        assert flown[0, 3, i, 1] == pytest.approx(np.log(far), rel=1e-4)


def test_flow_that_does_not_improve_with_width_is_contradicted():
    size = flow.FlowSize(6, 4, (32, 64, 128, 256))
    noise = np.random.default_rng(0).normal(scale=0.3, size=(6, 8, 4, 2))
    found = answered(flow.questions(HALVES, size), noise + np.log(0.05))
    assert set(found.values()) == {"contradicted"}
    x = np.log(np.tile(size.widths, 2))[:, None]
    y = noise - 1.0 * x[..., None]
    y[:, 4:, :, 1] = noise[:, 4:, :, 1] - 3.0
    found = answered(flow.questions(HALVES, size), y - 1.0)
    assert set(found.values()) == {"reproduced"}


# ------------------------------------------------------------------ rate and speed


def test_rates_that_ignore_or_exceed_the_mean_kernel_are_contradicted():
    size = rate.RateSize(6, 4)
    asked = rate.questions(rate.networks(HALVES), HALVES, size)
    noise = np.random.default_rng(1).normal(scale=0.05, size=(6, 6, 4, 2))
    slope = asked[0].claim.expected
    for power, verdict in ((1.0, "reproduced"), (0.0, "contradicted"), (1.3, None)):
        y = noise.copy()
        y[:, :3] += power * slope * rate._LOGS[:, None, None]
        found = answered(asked, y)
        assert found["rate.scales-with-the-mean-kernel"] == (verdict or "contradicted")
        assert found["rate.stays-at-fixed-frobenius-norm"] == "reproduced"
        assert found["rate.follows-the-own-kernel"] == "reproduced"
    y = noise.copy()
    y[:, 3:] -= 0.4 * rate._LOGS[:, None, None]
    y[..., 0] += 0.2
    found = answered(asked, y)
    assert found["rate.stays-at-fixed-frobenius-norm"] == "contradicted"
    assert found["rate.follows-the-own-kernel"] == "contradicted"


def test_steps_halve_as_the_own_kernel_says():
    # Small and narrower steps than the claim's: the code path, at one replicate.
    size = rate.RateSize(1, 2)
    nets = rate.networks(HALVES)
    y = rate.measure(nets, HALVES, size, 5, ("test",), lambda: None)
    assert y.shape == (1, 6, 2, 2)
    assert np.abs(y[..., 0] - y[..., 1]).max() < 0.25
    steps = y[0, :3, :, 0].mean(1)
    assert steps[0] > steps[1] > steps[2]


def test_speed_that_outlasts_tuning_is_contradicted():
    cell = speed.speed_cell("digits")
    asked = speed.questions(cell)
    noise = np.random.default_rng(2).normal(scale=0.02, size=(10, 9))
    gain = np.array([0.7, 0.3, 0.0])
    flat = np.zeros(3)
    tuned = np.array([0.2, 0.03, 0.0])
    real = noise + np.concatenate([gain, flat, tuned])
    assert set(answered(asked, real).values()) == {"reproduced"}
    lasting = noise + np.concatenate([gain, gain, gain + np.array([0, 0.2, 0])])
    found = answered(asked, lasting)
    assert found["speed.no-faster-when-tuned"] == "contradicted"
    assert found["speed.shrinks-when-tuned"] == "contradicted"
    assert found["speed.one-rate-is-fair-at-fixed-frobenius-norm"] == "contradicted"
    none = noise + np.concatenate([flat, flat, flat])
    assert answered(asked, none)["speed.faster-at-one-rate"] == "contradicted"


def test_speed_is_measured_in_its_columns():
    cell = replace(
        speed.speed_cell("digits"),
        depth=3,
        width=16,
        target=1.5,
        budget=60,
        num_tuning=1,
        num_fresh=2,
    )
    ticks = []
    y = speed.measure(cell, 4, lambda: ticks.append(1))
    assert y.shape == (2, 9)
    assert len(ticks) == 3
    # At n/4 the spectral norm of a Gaussian He matrix is that of He scale.
    assert y[:, 1] == pytest.approx(y[:, 4], abs=0.1)
    # A quarter of the rate takes longer than the own one.
    assert (y[:, :3] > y[:, 6:]).all()


# -------------------------------------------------------------------- the parts


def test_parts_of_the_full_run_repeat_the_quick_claims_for_each_data_set():
    quick, full = kernel.parts("quick"), kernel.parts("full")
    names = [part.name for part in full]
    assert len(set(names)) == len(names)
    keys = [claim.key for part in full for claim in part.claims]
    assert len(set(keys)) == len(keys)
    own = {claim.key for part in quick for claim in part.claims}
    assert own <= set(keys)
    for key in own:
        for data in ("mnist", "fashion-mnist", "cifar10"):
            missing = data == "cifar10" and ".speed." in key
            assert (f"{key}.{data}" in keys) != missing


def test_widths_reach_from_64_to_2048_in_the_full_run():
    (part,) = [p for p in kernel.parts("full") if p.name == "kernel-width-digits"]
    labels = [label for label, _ in part.settings["points"]]
    for width in (64, 128, 256, 512, 1024, 2048):
        assert f"rank 8, width {width}" in labels
        assert f"rank {width / 4:g}, width {width}" in labels


def test_nothing_is_attributed_to_the_paper():
    for part in kernel.parts("full"):
        for claim in part.claims:
            assert claim.whose == "ours"
            assert claim.source.startswith("derived")
            assert "paper" not in claim.statement


def test_a_part_runs_to_rows_with_checksums_and_repeats_itself():
    part = flow.part(HALVES, flow.FlowSize(2, 2, (8, 16)))
    ticks = []
    result = part.run(0, lambda: ticks.append(1))
    assert len(ticks) == part.num_steps == 8
    assert set(result.data) == {"digits"}
    keys = {claim.key for claim in part.claims}
    assert {row["subject"] for row in result.rows} == keys == set(result.figures)
    assert part.run(0, lambda: None).rows == result.rows
    assert part.run(1, lambda: None).rows != result.rows
