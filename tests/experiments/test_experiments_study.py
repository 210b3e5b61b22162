"""Studies: deterministic, resumed after a kill, shared by processes."""

import logging
import math
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import optuna
import pytest

from spectrank import extras
from spectrank.errors import DomainError, ShapeError
from spectrank.experiments.arms import ArmStudy
from spectrank.experiments.storage import claim_mark, is_mine, is_stale, open_storage
from spectrank.experiments.study import tune

RANGE = {"low": 1e-4, "high": 1.0}


def bowl(trials):
    """Best at 1e-2 for arm a, 1e-3 for arm b."""
    return [abs(math.log10(t.learning_rate) + {"a": 2, "b": 3}[t.arm]) for t in trials]


def trials(found):
    return found.table.where(metric="objective")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_arm_finds_its_own_optimum(seed):
    found = tune(["a", "b"], bowl, num_trials=24, batch_size=6, seed=seed, **RANGE)
    assert abs(math.log10(found.best["a"].learning_rate) + 2) < 0.25
    assert abs(math.log10(found.best["b"].learning_rate) + 3) < 0.25
    assert found.best["a"].edge is None
    for arm in "ab":
        rows = list(trials(found).where(arm=arm))
        values = [row["value"] for row in rows]
        assert found.best[arm].value == min(values)
        assert rows[found.best[arm].trial]["learning_rate"] == (
            found.best[arm].learning_rate
        )
        assert found.table.value(arm, "best_learning_rate") == (
            found.best[arm].learning_rate
        )


def test_learning_rates_are_spread_on_a_log_scale_within_the_range():
    found = tune(["a"], lambda t: [0.0] * len(t), num_trials=60, batch_size=60, **RANGE)
    logs = [math.log10(row["learning_rate"]) for row in trials(found)]
    assert all(-4 <= x <= 0 for x in logs)
    assert len(set(logs)) == 60
    assert 15 <= sum(x < -2 for x in logs) <= 45


def test_batches_hold_all_arms_and_are_never_larger_than_asked():
    seen = []

    def evaluate(batch):
        seen.append(batch)
        return bowl(batch)

    tune(["a", "b"], evaluate, num_trials=7, batch_size=4, **RANGE)
    assert [len(batch) for batch in seen] == [4, 4, 4, 2]
    assert [t.arm for t in seen[0]] == ["a", "b", "a", "b"]
    keys = [(t.arm, t.number) for batch in seen for t in batch]
    assert sorted(keys) == [(arm, i) for arm in "ab" for i in range(7)]


def test_one_seed_gives_one_study_and_another_another():
    runs = [
        trials(tune(["a"], bowl, num_trials=15, batch_size=4, seed=s, **RANGE))
        for s in (5, 5, 6)
    ]
    rates = [run.frame["learning_rate"].to_list() for run in runs]
    assert rates[0] == rates[1]
    assert not set(rates[0]) & set(rates[2])


def test_maximising_is_minimising_the_negative():
    low = tune(["a"], bowl, num_trials=15, batch_size=5, **RANGE)
    high = tune(
        ["a"],
        lambda t: [-x for x in bowl(t)],
        num_trials=15,
        batch_size=5,
        direction="maximize",
        **RANGE,
    )
    assert high.best["a"].learning_rate == low.best["a"].learning_rate
    assert high.best["a"].value == -low.best["a"].value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_trial_is_kept_as_such_and_the_study_goes_on(bad):
    def evaluate(batch):
        return [
            bad if t.learning_rate > 0.03 else x
            for t, x in zip(batch, bowl(batch), strict=True)
        ]

    found = tune(["a"], evaluate, num_trials=24, batch_size=6, **RANGE)
    rows = list(trials(found))
    assert len(rows) == 24
    diverged = [row for row in rows if row["state"] == "diverged"]
    assert diverged
    assert all(row["learning_rate"] > 0.03 for row in diverged)
    assert all(row["status"] == "nonfinite" for row in diverged)
    assert all(row["value"] is None and str(bad) in row["reason"] for row in diverged)
    assert found.best["a"].learning_rate <= 0.03
    assert found.best["a"].edge is None


def test_an_arm_that_always_diverges_has_no_best_and_says_so():
    found = tune(
        ["a", "b"],
        lambda batch: [math.nan if t.arm == "b" else 1.0 for t in batch],
        num_trials=3,
        batch_size=2,
        **RANGE,
    )
    assert set(found.best) == {"a"}
    (row,) = found.table.where(metric="best_learning_rate", arm="b")
    assert (row["kind"], row["reason"]) == ("skip", "no trial came to a finite value")


@pytest.mark.parametrize(("slope", "edge"), [(1.0, "low"), (-1.0, "high")])
def test_an_optimum_at_the_edge_of_the_range_is_flagged(slope, edge):
    found = tune(
        ["a"],
        lambda batch: [slope * math.log10(t.learning_rate) for t in batch],
        num_trials=12,
        batch_size=4,
        **RANGE,
    )
    assert found.best["a"].edge == edge
    (row,) = found.table.where(metric="best_learning_rate")
    assert row["edge"] == edge
    assert edge in row["reason"]


def test_divergence_beyond_the_best_bounds_the_optimum():
    # Better and better until it diverges: the optimum is inside, not at an edge.
    found = tune(
        ["a"],
        lambda b: [math.nan if t.learning_rate > 0.1 else -t.learning_rate for t in b],
        num_trials=30,
        batch_size=6,
        **RANGE,
    )
    assert found.best["a"].edge is None


def test_an_exception_frees_the_places_of_its_trials(tmp_path):
    path = tmp_path / "study.db"
    calls = []

    def fragile(batch):
        calls.append(len(batch))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return bowl(batch)

    options = {"num_trials": 9, "batch_size": 3, "storage": path, **RANGE}
    with pytest.raises(RuntimeError, match="out of memory"):
        tune(["a"], fragile, **options)
    found = tune(["a"], fragile, **options)
    states = [row["state"] for row in trials(found)]
    assert (states.count("complete"), states.count("failed")) == (9, 3)
    (reason,) = {r["reason"] for r in trials(found) if r["state"] == "failed"}
    assert "exception" in reason
    # The places are asked for anew, nothing is run twice.
    assert calls == [3, 3, 3, 3]


def test_a_wrong_number_of_values_is_refused():
    with pytest.raises(ShapeError, match="got 1 for 3"):
        tune(["a"], lambda batch: [1.0], num_trials=3, batch_size=3, **RANGE)


def test_a_finished_study_is_read_not_run(tmp_path):
    options = {"num_trials": 6, "batch_size": 3, "storage": tmp_path / "s.db", **RANGE}
    first = tune(["a"], bowl, **options)

    def never(batch):
        raise AssertionError("nothing is left to run")

    again = tune(["a"], never, **options)
    assert again.table.frame.equals(first.table.frame)
    longer = tune(["a"], bowl, **{**options, "num_trials": 8})
    assert len(trials(longer)) == 8
    assert trials(longer).frame.head(6).equals(trials(first).frame)


def test_a_resumed_study_draws_what_an_uninterrupted_one_draws(tmp_path):
    whole = tune(["a"], bowl, num_trials=12, batch_size=4, seed=3, **RANGE)
    path = tmp_path / "s.db"
    for num in (4, 8, 12):
        parts = tune(
            ["a"], bowl, num_trials=num, batch_size=4, seed=3, storage=path, **RANGE
        )
    assert trials(parts).frame.equals(trials(whole).frame)


def test_a_study_keeps_its_direction(tmp_path):
    options = {"num_trials": 1, "batch_size": 1, "storage": tmp_path / "s.db", **RANGE}
    tune(["a"], bowl, **options)
    with pytest.raises(DomainError, match="begun to minimize"):
        tune(["a"], bowl, direction="maximize", **options)


def test_optunas_own_storage_objects_and_urls_are_taken(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    options = {"num_trials": 2, "batch_size": 2, **RANGE}
    tune(["a"], bowl, storage=storage, **options)
    found = tune(["a"], bowl, storage=storage, **{**options, "num_trials": 3})
    assert len(trials(found)) == 3
    tune(["a"], bowl, storage=f"sqlite:///{tmp_path}/u.db", **options)
    assert (tmp_path / "u.db").is_file()


def test_optuna_is_quiet_and_its_level_is_left_alone(capfd):
    before = optuna.logging.get_verbosity()
    assert before == logging.INFO
    tune(["a"], bowl, num_trials=2, batch_size=1, **RANGE)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_a_storage_that_cannot_be_opened_is_told(tmp_path):
    options = {"num_trials": 1, "batch_size": 1, **RANGE}
    with pytest.raises(DomainError, match="cannot be opened"):
        tune(["a"], bowl, storage=tmp_path / "no" / "such" / "s.db", **options)
    with pytest.raises(DomainError, match="cannot be opened"):
        tune(["a"], bowl, storage="nonsense://x", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": []}, "at least one"),
        ({"arms": ["a", "a"]}, "different names"),
        ({"arms": "ab"}, "pass a list"),
        ({"num_trials": 0}, "num_trials"),
        ({"batch_size": 0}, "batch_size"),
        ({"low": 0.0}, "0 < low < high"),
        ({"low": 2.0}, "0 < low < high"),
        ({"high": math.inf}, "0 < low < high"),
        ({"direction": "down"}, "minimize or maximize"),
        ({"stale_after": 0.0}, "stale_after"),
    ],
)
def test_an_impossible_study_is_refused(change, message):
    options = {"arms": ["a"], "num_trials": 1, "batch_size": 1, **RANGE, **change}
    with pytest.raises(DomainError, match=message):
        tune(options.pop("arms"), bowl, **options)


def test_a_missing_optuna_is_named_with_its_extra(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"optuna.*spectrank\[experiments\]"):
        tune(["a"], bowl, num_trials=1, batch_size=1, **RANGE)


# ---------------------------------------------------------- kills and neighbours

CHILD = textwrap.dedent(
    """
    import math, os, sys
    from spectrank.experiments.study import tune
    path, log, die_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    calls = 0
    def evaluate(batch):
        global calls
        calls += 1
        with open(log, "a") as stream:
            for t in batch:
                stream.write(f"{t.arm} {t.number} {t.learning_rate!r}\\n")
        if calls == die_at:
            os._exit(9)
        return [abs(math.log10(t.learning_rate) + 2) for t in batch]
    tune(["a", "b"], evaluate, num_trials=6, batch_size=4, storage=path,
         low=1e-4, high=1.0, seed=1)
    """
)


def start(path, log, die_at=0):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(log), str(die_at)],
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(child):
    _, errors = child.communicate(timeout=120)
    return child.returncode, errors


def test_a_study_killed_in_a_batch_resumes_and_ends_with_what_was_asked(tmp_path):
    path, log = tmp_path / "s.db", tmp_path / "log"
    assert finished(start(path, log, die_at=2)) == (9, "")
    seen = []

    def evaluate(batch):
        seen.extend(batch)
        return [abs(math.log10(t.learning_rate) + 2) for t in batch]

    found = tune(
        ["a", "b"],
        evaluate,
        num_trials=6,
        batch_size=4,
        storage=path,
        seed=1,
        **RANGE,
    )
    for arm in "ab":
        states = [row["state"] for row in trials(found).where(arm=arm)]
        # The second batch, two trials of each arm, was lost.
        assert states[2:4] == ["failed", "failed"]
        assert states.count("complete") == 6
        assert len(states) == 8
    assert len(seen) == 8
    lost = trials(found).where(state="failed")
    assert set(lost.frame["reason"]) == {"its process ended before it was done"}
    assert set(lost.frame["kind"]) == {"skip"}


def test_two_processes_share_one_study(tmp_path):
    path, log = tmp_path / "s.db", tmp_path / "log"
    child = start(path, log)
    mine = []

    def evaluate(batch):
        # Not before the other process has begun, so that both work at once.
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        mine.extend([t.arm, str(t.number), repr(t.learning_rate)] for t in batch)
        return [abs(math.log10(t.learning_rate) + 2) for t in batch]

    options = {"num_trials": 6, "batch_size": 4, "storage": path, "seed": 1, **RANGE}
    found = tune(["a", "b"], evaluate, **options)
    assert finished(child) == (0, "")
    theirs = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    assert len(mine) >= 2
    assert len(theirs) >= 2
    ran = [*mine, *theirs]
    assert len(ran) == 12
    assert len({(arm, number) for arm, number, _ in ran}) == 12
    assert len({rate for *_, rate in ran}) == 12
    complete = trials(found).where(state="complete")
    assert len(complete) == 12
    told = {(r["arm"], str(r["trial"]), repr(r["learning_rate"])) for r in complete}
    assert told == {tuple(line) for line in ran}


def opened(storage):
    return ArmStudy.open(
        storage, "s/a", direction="minimize", seed=0, bounds=(1e-4, 1.0), stale_after=9
    )


def test_of_two_that_saw_the_last_place_the_later_one_yields(monkeypatch):
    storage = open_storage(None)
    one, two = opened(storage), opened(storage)
    assert one.ask(2) is not None
    real = two._counted
    # The other process asks between the look and the request of this one.
    monkeypatch.setattr(ArmStudy, "_counted", lambda self: [])
    pair = [one.ask(9), two.ask(9)]
    assert None not in pair
    looks = []

    def stale_look(self):
        looks.append(1)
        return [] if len(looks) == 1 else real()

    monkeypatch.setattr(ArmStudy, "_counted", stale_look)
    assert two.ask(3) is None
    states = [record.state for record in one.trials()]
    assert states == ["running", "running", "running", "failed"]
    assert "two processes" in one.trials()[-1].reason


def test_whose_trial_is_whose():
    mine = claim_mark()
    assert is_mine(mine)
    assert not is_stale(mine, age=1e9, stale_after=1.0)
    # A fork has the same import and another number.
    fork = mine | {"pid": 2**22 + 1}
    assert not is_mine(fork)
    assert is_stale(fork, age=0.0, stale_after=1e9)
    # The number was given to another process since: it was born at another time.
    again = mine | {"import": "another", "born": "1"}
    assert is_stale(again, age=0.0, stale_after=1e9)
    alive = claim_mark() | {"import": "another"}
    assert not is_stale(alive, age=1e9, stale_after=1.0)
    far = mine | {"import": "another", "host": "elsewhere"}
    assert not is_stale(far, age=5.0, stale_after=10.0)
    assert is_stale(far, age=11.0, stale_after=10.0)
    assert not is_stale(None, age=5.0, stale_after=3600.0)
    assert is_stale(None, age=61.0, stale_after=3600.0)


def test_a_dead_process_that_nobody_reaped_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    mark = claim_mark() | {"import": "another", "pid": child.pid, "born": "1"}
    deadline = time.monotonic() + 60
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert is_stale(mark, age=0.0, stale_after=1e9)
    child.wait()
    assert is_stale(mark, age=0.0, stale_after=1e9)


def test_another_machines_trial_is_waited_for_until_it_is_done(tmp_path):
    path = tmp_path / "s.db"
    storage = open_storage(path)
    other = opened(storage)
    rate, number = other.ask(3)
    elsewhere = claim_mark() | {"import": "another", "host": "elsewhere"}
    other._asked[number].set_user_attr("spectrank_claim", elsewhere)
    calls = []

    def evaluate(batch):
        calls.append(len(batch))
        # It finishes while this process runs its own.
        other.tell(number, 0.5)
        return bowl(batch)

    found = tune(
        ["a"],
        evaluate,
        num_trials=3,
        batch_size=4,
        storage=path,
        study_name="s",
        **RANGE,
    )
    storage.close()
    assert calls == [2]
    assert [row["state"] for row in trials(found)] == ["complete"] * 3
    assert trials(found).frame["value"][0] == 0.5
    assert trials(found).frame["learning_rate"][0] == rate


def test_a_silent_machines_trial_is_given_up_after_the_time_stated(tmp_path):
    path = tmp_path / "s.db"
    storage = open_storage(path)
    other = opened(storage)
    _, number = other.ask(3)
    elsewhere = claim_mark() | {"import": "another", "host": "elsewhere"}
    other._asked[number].set_user_attr("spectrank_claim", elsewhere)
    found = tune(
        ["a"],
        bowl,
        num_trials=3,
        batch_size=4,
        storage=path,
        study_name="s",
        stale_after=0.2,
        **RANGE,
    )
    states = [row["state"] for row in trials(found)]
    assert states == ["failed", "complete", "complete", "complete"]
    # Its late answer is not taken, and is no error.
    other.tell(number, 0.5)
    storage.close()
    assert other.trials()[number].state == "failed"


def test_a_trial_that_goes_stale_after_the_last_question_leaves_no_place_empty(
    tmp_path,
):
    storage = open_storage(tmp_path / "s.db")
    other = opened(storage)
    _, number = other.ask(1)
    elsewhere = claim_mark() | {"import": "another", "host": "elsewhere"}
    other._asked[number].set_user_attr("spectrank_claim", elsewhere)
    ours = opened(storage)
    assert ours.ask(1) is None
    ours = replace(ours, stale_after=1e-9)
    assert not ours.is_settled()
    assert ours.ask(1) is not None
    storage.close()


def test_a_study_keeps_its_range(tmp_path):
    def evaluate(trials):
        return [trial.learning_rate for trial in trials]

    shared = {"num_trials": 2, "batch_size": 2, "storage": tmp_path / "study.db"}
    tune(["a"], evaluate, low=0.1, high=1.0, **shared)
    with pytest.raises(DomainError, match="keeps its range"):
        tune(["a"], evaluate, low=0.01, high=1.0, **shared)
    assert len(tune(["a"], evaluate, low=0.1, high=1.0, **shared).table) >= 2


def test_trials_asked_for_before_an_interruption_are_asked_for_anew(
    tmp_path, monkeypatch
):
    ask = ArmStudy.ask
    calls = []

    def interrupted(self, num_trials):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ask(self, num_trials)

    settings = {
        "num_trials": 3,
        "batch_size": 3,
        "low": 0.1,
        "high": 1.0,
        "storage": tmp_path / "study.db",
    }
    monkeypatch.setattr(ArmStudy, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(["a"], lambda trials: [1.0] * len(trials), **settings)
    monkeypatch.setattr(ArmStudy, "ask", ask)
    # Without giving the first trial up this would wait for it for ever.
    tune(["a"], lambda trials: [1.0] * len(trials), **settings)
