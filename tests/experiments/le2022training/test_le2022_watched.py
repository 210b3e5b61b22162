"""What a watch is summarised to, by hand; balancing; each claim on the tools."""

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.conservation import (
    watched,
    watched_questions,
)
from spectrank.experiments.le2022training.conservation.watched import WatchedSize
from spectrank.invariance import find


@pytest.fixture(scope="module")
def laws():
    net = watched.network(torch.Generator().manual_seed(0))
    return find(net, torch.zeros(1, 8, dtype=torch.float64), cuts=True)


def row(subject="vertex 6", step=watched.STEPS, **changed):
    plain = {
        "subject": subject,
        "step": step,
        "verdict": "explained",
        "residual": 1e-16,
        "largest_drift": 0.5,
        "structure": 1e-15,
        "structure_tolerance": 1e-13,
        "broken_step": None,
        "suspects": None,
    }
    return plain | changed


def test_shares_of_verdicts_are_counted_over_rows_and_families(laws):
    rows = [
        row(step=5, verdict="conserved", residual=-3e-16),
        row(step=5, verdict="not_applicable", residual=None, largest_drift=2.0),
        row(verdict="broken", structure=4e-13),
        row(structure=None, structure_tolerance=None),
    ]
    found = watched.told(rows, laws, edited=False)
    assert found[watched.PREDICTED] == 0.5
    assert found[watched.OPEN] == 0.25
    assert found[watched.BROKEN] == 0.5
    assert found[watched.RESIDUAL] == pytest.approx(1.5e-16)
    assert found[watched.DRIFT] == 2.0
    assert found[watched.STRUCTURE] == pytest.approx(4.0)
    assert np.isnan(found[watched.RIGHT])


def test_a_break_is_right_at_its_step_with_its_weight_and_nowhere_else(laws):
    right = {"verdict": "broken", "broken_step": 25, "suspects": ["3.weight"]}
    assert "3.weight" in laws["channel 1"].parameters
    assert "3.weight" not in laws["vertex 6"].parameters
    good = [row("channel 1", **right), row("vertex 6"), row("channel 3", **right)]
    assert watched.told(good, laws, edited=True)[watched.RIGHT] == 1.0
    for wrong in (
        row("channel 1"),
        row("channel 1", **(right | {"broken_step": 30})),
        row("channel 1", **(right | {"suspects": ["1.weight"]})),
        row("vertex 6", **right),
        row("vertex 6", verdict="not_applicable"),
    ):
        found = watched.told([wrong, *good], laws, edited=True)[watched.RIGHT]
        assert found == pytest.approx(0.75)


def test_a_run_is_told_as_it_was(laws, monkeypatch):
    """The edited arm without its edit has no break, so that its claim fails."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(watched.SAMPLES, 8, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (watched.SAMPLES,), generator=generator)

    def summary(arm, at):
        monkeypatch.setattr(watched, "EDITED_AT", at)
        net = watched.network(torch.Generator().manual_seed(3))
        rows = watched.trained(net, laws, arm, x, labels, generator)
        monkeypatch.undo()
        return watched.told(rows, laws, edited=True)

    arm = watched.ARMS[watched.EDIT]
    assert summary(arm, watched.EDITED_AT)[watched.RIGHT] == 1.0
    unedited = summary(arm, -1)
    assert unedited[watched.RIGHT] < 1.0
    assert unedited[watched.PREDICTED] == 1.0
    later = summary(arm, watched.EDITED_AT + 5)
    assert later[watched.RIGHT] < 1.0


def test_a_balanced_network_is_balanced_unit_by_unit(laws):
    net = watched.network(torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(20, 8, dtype=torch.float64, generator=generator)
    before = net(x).detach()
    old = sum(float((p.detach() ** 2).sum()) for p in net.parameters())
    change, imbalance, norm = watched.rebalanced(net, laws, x)
    assert float((net(x).detach() - before).abs().max()) < 1e-12
    p = {k: v.detach().numpy() for k, v in net.named_parameters()}
    entering = (p["6.weight"] ** 2).sum(1) + p["6.bias"] ** 2
    np.testing.assert_allclose(entering, (p["8.weight"] ** 2).sum(0), rtol=1e-8)
    entering = (p["1.weight"] ** 2).sum((1, 2)) + p["1.bias"] ** 2
    np.testing.assert_allclose(entering, (p["3.weight"] ** 2).sum((0, 2)), rtol=1e-8)
    new = sum(float((v**2).sum()) for v in p.values())
    assert norm == pytest.approx(new / old, rel=1e-12)
    assert change < 1e-12
    assert imbalance < 1e-9


def planted():
    arms = len(watched.ARMS)
    y = np.zeros((5, arms + 1, 7))
    y[:, :, watched.PREDICTED] = 1.0
    y[:, :, watched.RESIDUAL] = 1e-13
    y[:, watched.ADAM, watched.OPEN] = 1.0
    y[:, watched.ADAM, watched.STRUCTURE] = 0.01
    y[:, watched.CLIPPED_BY_VALUE, watched.BROKEN] = 1.0
    y[:, watched.EDIT, watched.RIGHT] = 1.0
    y[:, -1, : watched.NORM + 1] = 1e-15, 1e-11, 0.8
    return y


def failing(y):
    rows = [q.rows(y, 0)[0] for q in watched_questions.questions(WatchedSize(5))]
    return {
        row["subject"].split(".")[-1] for row in rows if row["verdict"] != "reproduced"
    }


def test_what_the_theory_says_reproduces_every_claim():
    assert failing(planted()) == set()


@pytest.mark.parametrize(
    ("index", "value", "fails"),
    [
        *(
            case
            for a, arm in enumerate(watched.ARMS[: watched.CLIPPED_BY_VALUE])
            for case in (
                ((a, watched.PREDICTED), 0.99, {f"{arm.name}-explained"}),
                ((a, watched.RESIDUAL), 1e-5, {f"{arm.name}-residual"}),
            )
        ),
        ((watched.ADAM, watched.OPEN), 0.9, {"adam-open"}),
        ((watched.ADAM, watched.STRUCTURE), 3.0, {"adam-structure"}),
        (
            (watched.CLIPPED_BY_VALUE, watched.BROKEN),
            0.8,
            {"clipped-by-value-broken"},
        ),
        ((watched.EDIT, watched.RIGHT), 0.8, {"edited-told"}),
        ((-1, watched.CHANGE), 1e-3, {"balance-function"}),
        ((-1, watched.IMBALANCE), 1e-3, {"balance-zero"}),
        ((-1, watched.NORM), 1.1, {"balance-norm"}),
    ],
)
def test_each_claim_fails_where_its_number_does(index, value, fails):
    y = planted()
    y[(slice(None), *index)] = value
    assert failing(y) == fails
