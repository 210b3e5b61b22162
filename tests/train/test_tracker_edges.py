"""A tracker at the edges: extreme scales, another model's optimizer, a closed sink."""

import os

import pytest
import torch
from torch import nn

from spectrank.errors import DomainError, SpectrankWarning, TableError
from spectrank.table import Table
from spectrank.train import MemorySink, ParquetSink, Tracker


@pytest.mark.parametrize("exponent", [-700, -560, 0, 560, 700])
def test_a_small_matrix_is_tracked_at_any_scale(exponent):
    model = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    W = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64))[:3]
    with torch.no_grad():
        model.weight.copy_(torch.ldexp(W, torch.tensor(exponent)))
    tracker = Tracker(model, "stable_rank,spectral_norm")
    tracker.measure()
    table = tracker.table()
    assert table.value("weight", "stable_rank") == pytest.approx(14 / 9, rel=1e-12)
    norm = table.value("weight", "spectral_norm")
    assert norm / 2.0**exponent == pytest.approx(3.0, rel=1e-12)
    assert set(table.where(kind="measurement").frame["status"]) == {"ok"}


def test_an_optimizer_of_another_model_is_refused_and_nothing_stays_attached():
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    tracker = Tracker(model)
    with pytest.raises(DomainError, match="holds none of its parameters"):
        tracker.attach(torch.optim.SGD(other.parameters(), lr=0.1))
    with tracker.attach(torch.optim.SGD(model.parameters(), lr=0.1)) as attachment:
        assert attachment.attached


def test_a_sink_is_closed_also_where_the_last_rows_cannot_be_made(monkeypatch):
    sink = MemorySink()
    closed = []
    monkeypatch.setattr(sink, "close", lambda: closed.append(True))
    tracker = Tracker(nn.Linear(4, 3), sink=sink)

    def fail():
        raise RuntimeError("no rows")

    monkeypatch.setattr(tracker, "_drain", fail)
    with pytest.raises(RuntimeError, match="no rows"):
        tracker.close()
    assert closed == [True]


ROWS = Table.from_rows([{"kind": "measurement", "subject": "w", "metric": "x"}])


def test_a_sink_that_closed_on_a_full_disk_writes_over_nobody(tmp_path, monkeypatch):
    def fail(self, path):
        raise TableError("the disk is full")

    first = ParquetSink(tmp_path)
    first.append(ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "write", fail)
        with (
            pytest.warns(SpectrankWarning, match="disk is full"),
            pytest.raises(TableError, match="could not be"),
        ):
            first.close()
    with ParquetSink(tmp_path, resume=True) as second:
        second.append(Table.concat([ROWS, ROWS]))
    first.flush()
    assert len(first.unwritten()) == 1
    assert len(ParquetSink.read(tmp_path)) == 2


def test_a_lock_is_given_back_though_another_process_inherited_the_file(tmp_path):
    sink = ParquetSink(tmp_path)
    # As a forked worker would hold it: the same open file.
    inherited = os.dup(sink._lock.fileno())
    try:
        sink.close()
        ParquetSink(tmp_path, resume=True).close()
    finally:
        os.close(inherited)
