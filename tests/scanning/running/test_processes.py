"""Worker processes: the same bits, a death that costs one matrix, a ceiling kept.

Most workers here are forked: a spawned one imports torch for seconds. One test spawns.
"""

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import spectrank as sr
from spectrank.errors import SpectrankWarning
from spectrank.model import iter_weights
from spectrank.scanning.measure import Settings
from spectrank.scanning.running.child import Reading
from spectrank.scanning.running.jobs import plan_jobs, read, run
from spectrank.scanning.running.memory import working_bytes
from spectrank.scanning.running.processes import Processes, WorkerError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
SETTINGS = Settings.of(None)


@pytest.fixture(autouse=True)
def one_thread():
    """As workers have: more of them sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 6, 3)
        self.grouped = nn.Conv2d(6, 6, 3, groups=3)
        self.back = nn.ConvTranspose2d(6, 5, 3)
        self.attention = nn.MultiheadAttention(24, 2)
        self.lstm = nn.LSTM(11, 13)
        self.wide = nn.Linear(300, 150).bfloat16()
        self.fine = nn.Linear(160, 290).double()
        self.tied = nn.Linear(290, 160).double()
        self.tied.weight = nn.Parameter(self.fine.weight.data.T)


def forked(jobs, *, workers=2, reading=None, memory=None, started=lambda job: None):
    pool = Processes(
        SETTINGS, reading=reading, folder=None, memory=memory, context="fork"
    )
    return dict(pool.run(jobs, workers, started))


def here(jobs):
    return {job: run(job, read(job), SETTINGS) for job in jobs}


def test_a_module_has_the_same_bits_in_two_processes_as_in_one():
    jobs = plan_jobs(list(iter_weights(Net())), SETTINGS)
    assert len(jobs) == 9
    there = forked(jobs)
    assert there == here(jobs)
    # Sent, not shared: workers die without leave, the model must not care.
    assert sum(len(o.rows) for o in there.values()) == sum(len(j.weights) for j in jobs)


def test_a_spawned_scan_of_a_file_is_the_scan_of_one_process(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({k: v.contiguous() for k, v in Net().state_dict().items()}, path)
    one = sr.scan(path)
    seen = []
    two = sr.scan(path, workers=2, resume=tmp_path / "parts", progress=seen.append)
    assert two.frame.equals(one.frame)
    assert seen[-1].num_done == seen[-1].num_matrices
    assert seen[-1].entries_done == seen[-1].num_entries > 0
    assert len(seen) == 1 + len(list((tmp_path / "parts").iterdir()))


class Fatal(Reading):
    """A source one of whose tensors kills the process that reads it."""

    def weights(self):
        weights = list(iter_weights(self.path))
        return [self._armed(w) if w.name == "deadly" else w for w in weights]

    def _armed(self, weight):
        from dataclasses import replace

        def load():
            counter = Path(self.options["counter"])
            deaths = len(counter.read_text()) if counter.exists() else 0
            if deaths < self.options["deaths"]:
                counter.write_text("x" * (deaths + 1))
                os.kill(os.getpid(), signal.SIGKILL)
            return weight.load()

        return replace(weight, load=load)


class Listening(Reading):
    """A source that writes down which signals its process lets through."""

    def weights(self):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        Path(self.options["note"]).write_text(str(signal.SIGINT in blocked))
        return list(iter_weights(self.path))


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="has no masks")
def test_a_worker_is_deaf_to_ctrl_c_from_its_first_instruction(tmp_path):
    path, note = tmp_path / "m.safetensors", tmp_path / "note"
    save_file({"w": torch.randn(150, 140)}, path)
    jobs = plan_jobs(list(iter_weights(path)), SETTINGS)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    forked(jobs, workers=1, reading=Listening(str(path), {"note": str(note)}))
    # As it was started, before it could say so of itself; we still hear it.
    assert note.read_text() == "True"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.fixture
def deadly(tmp_path):
    generator = torch.Generator().manual_seed(4)
    names = ["first", "deadly", "last"]
    tensors = {n: torch.randn(150, 140, generator=generator) for n in names}
    path = tmp_path / "d.safetensors"
    save_file(tensors, path)

    def make(deaths):
        options = {"counter": str(tmp_path / "counter"), "deaths": deaths}
        return Fatal(str(path), options)

    return make, plan_jobs(list(iter_weights(path)), SETTINGS)


def test_a_worker_that_is_killed_is_replaced_and_its_matrix_measured(deadly):
    make, jobs = deadly
    reading = make(1)
    assert forked(jobs, reading=reading) == here(jobs)
    assert Path(reading.options["counter"]).read_text() == "x"


def test_a_matrix_that_kills_twice_is_a_row_and_the_others_are_measured(deadly):
    make, jobs = deadly
    reading = make(9)
    found = forked(jobs, reading=reading)
    truth = here(jobs)
    assert len(found) == len(jobs) == 3
    for job, outcome in found.items():
        if job.weights[0].name != "deadly":
            assert outcome == truth[job]
            continue
        ((row,),) = outcome.rows
        assert (row["kind"], row["status"]) == ("skip", "skipped")
        assert row["reason"].startswith("could not be measured: 2 processes")
        assert "SIGKILL" in row["reason"]
        assert (row["m"], row["n"]) == (150, 140)
    assert Path(reading.options["counter"]).read_text() == "xx"


class Stillborn(Reading):
    def weights(self):
        os._exit(3)


def test_workers_that_cannot_start_are_an_error(deadly):
    _, jobs = deadly
    with pytest.raises(WorkerError, match=r"exit code 3 before it was ready; call"):
        forked(jobs, reading=Stillborn("x", {}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"could not be read: .*other\.safetensors"),
        ({"deadly": (150, 140), "x": (3, 3)}, "must not change while it is read"),
    ],
)
def test_a_file_that_changed_on_the_way_is_rows_that_say_so(
    deadly, tmp_path, content, reason
):
    # As in one process: what is still there is measured, or all of it is told.
    _, jobs = deadly
    other = tmp_path / "other.safetensors"
    if content is not None:
        save_file({name: torch.ones(shape) for name, shape in content.items()}, other)
    found = forked(jobs, reading=Reading(str(other), {}))
    rows = {job.weights[0].name: outcome.rows[0] for job, outcome in found.items()}
    assert set(rows) == {"first", "deadly", "last"}
    for name, measured in rows.items():
        if content is not None and name == "deadly":
            assert len(measured) > 1
            continue
        (row,) = measured
        assert (row["kind"], row["m"]) == ("skip", 150)
        assert re.search(reason, row["reason"])


class Broken(Reading):
    def weights(self):
        from dataclasses import replace

        def load():
            raise ZeroDivisionError("planted")

        return [replace(w, load=load) for w in iter_weights(self.path)]


def test_an_exception_of_a_worker_is_raised_here_with_its_traceback(deadly):
    make, jobs = deadly
    with pytest.raises(ZeroDivisionError, match="planted") as caught:
        forked(jobs, reading=Broken(make(0).path, {}))
    assert "in load" in caught.value.__notes__[0]


def test_jobs_wait_until_they_fit_under_the_ceiling():
    generator = torch.Generator().manual_seed(5)
    sizes = [(400, 300), (390, 300), (200, 150), (190, 150), (180, 150)]
    source = {
        f"w{i}": torch.randn(m, n, generator=generator)
        for i, (m, n) in enumerate(sizes)
    }
    jobs = plan_jobs(list(iter_weights(source)), SETTINGS)
    costs = {job: working_bytes(job, SETTINGS) for job in jobs}
    # The largest and a small one fit, the two large ones do not.
    memory = costs[jobs[0]] + costs[jobs[2]]
    assert costs[jobs[0]] + costs[jobs[1]] > memory
    running, most = [], []

    def started(job):
        running.append(job)
        most.append(sum(costs[j] for j in running))

    pool = Processes(SETTINGS, reading=None, folder=None, memory=memory, context="fork")
    ended = []
    for job, _ in pool.run(jobs, 3, started):
        running.remove(job)
        ended.append(job)
    assert set(ended) == set(jobs)
    assert max(most) <= memory
    # It is no queue of one: a small one ran beside a large one.
    assert max(most) > costs[jobs[0]]


def test_a_matrix_above_the_ceiling_is_a_row_that_says_so():
    source = {"big": torch.ones(500, 400), "small": torch.eye(3)}
    with pytest.warns(SpectrankWarning, match=r"1 of the tensors .* first big"):
        table = sr.scan(source, memory=1_000_000)
    (row,) = table.where(kind="skip")
    assert "ceiling is 1.0 MB; raise memory" in row["reason"]
    assert table.value("small", "stable_rank") == pytest.approx(3.0)
    assert len(sr.scan(source, memory=10**9).where(kind="skip")) == 0
