"""Sinks: what is kept, what a kill loses, who may write, what a full disk does."""

import subprocess
import sys
import textwrap

import polars as pl
import pytest

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    SpectrankWarning,
    TableError,
)
from spectrank.table import Table
from spectrank.train.sinks import MemorySink, ParquetSink, Sink


def rows(steps, *, run=None, subject="fc", **provenance):
    return Table.from_rows(
        [
            {
                "kind": "measurement",
                "subject": subject,
                "metric": "stable_rank",
                "step": step,
                "run": run,
                "value": None if step is None else float(step),
                "loss": 0.5,
            }
            for step in steps
        ],
        columns={"loss": pl.Float64},
        provenance=provenance or {"seed": 1},
    )


def steps_of(table):
    return table.frame["step"].to_list()


def names(folder):
    return sorted(path.name for path in folder.glob("part-*"))


def test_a_memory_sink_gives_back_all_rows_in_order():
    sink = MemorySink()
    assert len(sink.table()) == 0
    for step in range(600):
        sink.append(rows([step]))
    assert steps_of(sink.table()) == list(range(600))
    assert sink.table().provenance["seed"] == 1


def test_a_bounded_memory_sink_keeps_the_last_rows_and_counts_the_rest():
    with MemorySink(max_rows=10) as sink:
        for step in range(25):
            sink.append(rows([step]))
    table = sink.table()
    assert steps_of(table) == list(range(15, 25))
    assert table.provenance["num_rows_dropped"] == 15


def test_parts_are_cut_by_rows_and_carry_schema_and_provenance(tmp_path):
    with ParquetSink(tmp_path / "a" / "b", rows_per_part=4) as sink:
        for step in range(5):
            sink.append(rows([step, step]))
    folder = tmp_path / "a" / "b"
    assert names(folder) == [f"part-00000{i}.parquet" for i in (1, 2, 3)]
    part = Table.read(folder / "part-000001.parquet")
    assert steps_of(part) == [0, 0, 1, 1]
    assert part.provenance["seed"] == 1
    assert part.provenance["columns"] == {"loss": "Float64"}
    table = ParquetSink.read(folder)
    assert steps_of(table) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert table.frame["loss"].to_list() == [0.5] * 10


def test_parts_are_cut_by_steps(tmp_path):
    with ParquetSink(tmp_path, steps_per_part=10) as sink:
        for step in range(25):
            sink.append(rows([step]))
    parts = [steps_of(Table.read(tmp_path / name)) for name in names(tmp_path)]
    assert parts == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


def test_a_sink_holds_no_more_than_the_open_part(tmp_path):
    with ParquetSink(tmp_path, rows_per_part=7) as sink:
        for step in range(50):
            sink.append(rows([step]))
            assert len(sink.unwritten()) < 7


def test_flush_writes_the_open_part_and_table_reads_all(tmp_path):
    sink = ParquetSink(tmp_path)
    sink.append(rows([1]))
    assert names(tmp_path) == []
    sink.flush()
    sink.flush()
    assert names(tmp_path) == ["part-000001.parquet"]
    sink.append(rows([2]))
    assert steps_of(sink.table()) == [1, 2]
    sink.close()
    sink.close()
    with pytest.raises(TableError, match="closed; make a new one with resume=True"):
        sink.append(rows([3]))


CHILD = """
    import os, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    import spectrank.table._files as files
    from test_sinks import rows
    from spectrank.train.sinks import ParquetSink

    real, count = os.fsync, 0

    def fsync(descriptor):
        global count
        count += 1
        if count == {die_at}:
            os._exit(9)
        real(descriptor)

    os.fsync = fsync
    with ParquetSink({folder!r}, rows_per_part=2, resume=True) as sink:
        for step in range(1, 100):
            sink.append(rows([step]))
"""


def run_child(folder, die_at):
    from pathlib import Path

    code = CHILD.format(
        tests=str(Path(__file__).parent), folder=str(folder), die_at=die_at
    )
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("die_at", [1, 3])
def test_a_kill_while_a_part_is_written_loses_that_part_alone(tmp_path, die_at):
    # Each part synchronises its file, then its folder: the odd ones are files.
    result = run_child(tmp_path, die_at)
    assert result.returncode == 9, result.stderr
    whole = die_at // 2
    assert len(names(tmp_path)) == whole
    if whole:
        with pytest.warns(SpectrankWarning, match="1 unfinished part"):
            table = ParquetSink.read(tmp_path)
        assert steps_of(table) == [1, 2]
    else:
        with pytest.raises(TableError, match="has no part"):
            ParquetSink.read(tmp_path)
    # The lock of the dead process is no obstacle, and the next part has a free number.
    with ParquetSink(tmp_path, resume=True) as sink:
        sink.append(rows([50]))
    assert len(names(tmp_path)) == whole + 1


def test_resume_goes_on_after_the_last_part_and_a_new_run_is_refused(tmp_path):
    with ParquetSink(tmp_path, rows_per_part=1) as sink:
        sink.append(rows([1]))
        sink.append(rows([2]))
    with pytest.raises(TableError, match="has 2; pass resume=True"):
        ParquetSink(tmp_path)
    with ParquetSink(tmp_path, resume=True) as sink:
        sink.append(rows([3]))
    assert names(tmp_path)[-1] == "part-000003.parquet"
    assert steps_of(ParquetSink.read(tmp_path)) == [1, 2, 3]


def test_a_resumed_session_replaces_the_steps_it_repeats_in_its_own_run(tmp_path):
    with ParquetSink(tmp_path, rows_per_part=2) as sink:
        for step in (1, 2, 3, 4):
            sink.append(rows([step], run="a"))
        sink.append(rows([3, 4], run="b"))
    with ParquetSink(tmp_path, rows_per_part=1, resume=True) as sink:
        for step in (3, 4, 5):
            sink.append(rows([step], run="a", seed=2))
    with pytest.warns(SpectrankWarning, match="2 rows of .* are replaced"):
        table = ParquetSink.read(tmp_path)
    seen = list(zip(table.frame["run"], table.frame["step"], strict=True))
    assert seen == [
        *[("a", 1), ("a", 2), ("b", 3), ("b", 4)],
        *[("a", 3), ("a", 4), ("a", 5)],
    ]
    assert table.provenance["num_rows_replaced"] == 2
    assert len(table.provenance["sources"]) == 2


def test_rows_of_one_step_split_over_parts_of_a_session_are_all_kept(tmp_path):
    with ParquetSink(tmp_path, rows_per_part=1) as sink:
        sink.append(rows([1], subject="fc1"))
        sink.append(rows([1], subject="fc2"))
        sink.append(rows([None], subject="fc3"))
    with ParquetSink(tmp_path, resume=True) as sink:
        sink.append(rows([2]))
    assert steps_of(ParquetSink.read(tmp_path)) == [1, 1, None, 2]


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    with ParquetSink(tmp_path) as sink:
        with pytest.raises(TableError, match="one writer at a time"):
            ParquetSink(tmp_path, resume=True)
        result = run_child(tmp_path, 0)
        assert "one writer at a time" in result.stderr
        sink.append(rows([1]))
    ParquetSink(tmp_path, resume=True).close()


def test_a_refused_sink_does_not_keep_the_folder_locked(tmp_path):
    with ParquetSink(tmp_path) as sink:
        sink.append(rows([1]))
    with pytest.raises(TableError, match="resume=True"):
        ParquetSink(tmp_path)
    ParquetSink(tmp_path, resume=True).close()


def test_a_missing_or_damaged_part_is_an_error_that_names_it(tmp_path):
    with ParquetSink(tmp_path, rows_per_part=1) as sink:
        for step in (1, 2, 3):
            sink.append(rows([step]))
    second = tmp_path / "part-000002.parquet"
    raw = second.read_bytes()
    second.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    with pytest.raises(TableError, match="part-000002"):
        ParquetSink.read(tmp_path)
    second.unlink()
    with pytest.raises(TableError, match=r"part 2 of .* is missing"):
        ParquetSink.read(tmp_path)
    with pytest.raises(TableError, match="check the path"):
        ParquetSink.read(tmp_path / "nowhere")


class FullDisk:
    """Makes writing fail as a full disk does, while ``full``."""

    def __init__(self, monkeypatch):
        self.full = False
        self.tries = 0
        real = Table.write

        def write(table, path):
            self.tries += 1
            if self.full:
                raise TableError(f"no space left on device for {path}")
            return real(table, path)

        monkeypatch.setattr(Table, "write", write)


def test_a_full_disk_warns_once_and_rows_are_written_when_there_is_room(
    tmp_path, monkeypatch
):
    disk = FullDisk(monkeypatch)
    sink = ParquetSink(tmp_path, rows_per_part=2)
    disk.full = True
    sink.append(rows([1]))
    with pytest.warns(SpectrankWarning, match="no space left .* the run goes on"):
        sink.append(rows([2]))
    for step in (3, 4, 5):
        sink.append(rows([step]))
    # One try for every part that would have been, not for every batch.
    assert disk.tries == 2
    assert steps_of(sink.unwritten()) == [1, 2, 3, 4, 5]
    disk.full = False
    sink.append(rows([6]))
    sink.close()
    assert steps_of(ParquetSink.read(tmp_path)) == [1, 2, 3, 4, 5, 6]
    assert names(tmp_path) == ["part-000001.parquet"]


def test_while_the_disk_is_full_memory_is_bounded_and_the_loss_is_told(
    tmp_path, monkeypatch
):
    disk = FullDisk(monkeypatch)
    sink = ParquetSink(tmp_path, rows_per_part=2, max_rows_held=4)
    disk.full = True
    sink.append(rows([1]))
    with pytest.warns(SpectrankWarning, match="up to 4 rows"):
        sink.append(rows([2]))
    for step in range(3, 20):
        sink.append(rows([step]))
        assert len(sink.unwritten()) <= 4 + 2
    with pytest.raises(TableError, match=r"4 rows of .* could not be and 15 were"):
        sink.close()
    assert steps_of(sink.unwritten()) == [16, 17, 18, 19]
    disk.full = False
    # The lock was given back all the same.
    with ParquetSink(tmp_path) as other:
        other.append(sink.unwritten())
    assert steps_of(ParquetSink.read(tmp_path)) == [16, 17, 18, 19]


def test_dropped_rows_are_counted_in_the_part_that_follows(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    with ParquetSink(tmp_path, rows_per_part=2, max_rows_held=1) as sink:
        disk.full = True
        with pytest.warns(SpectrankWarning):
            sink.append(rows([1, 2]))
        disk.full = False
    assert steps_of(ParquetSink.read(tmp_path)) == [2]
    assert ParquetSink.read(tmp_path).provenance["num_rows_dropped"] == 1


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="choose another folder"):
        ParquetSink(tmp_path / "file")


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(DomainError, match="rows_per_part must be at least 1"):
        ParquetSink(tmp_path, rows_per_part=0)
    with pytest.raises(DomainError, match="steps_per_part"):
        ParquetSink(tmp_path, steps_per_part=-1)
    with pytest.raises(DomainError, match="max_rows_held"):
        ParquetSink(tmp_path, max_rows_held=0)
    with pytest.raises(ArgumentTypeError, match="max_rows is a whole number"):
        MemorySink(max_rows=True)


class Counting(Sink):
    def __init__(self):
        self.lines = []

    def append(self, rows):
        self.lines += [f"{row['step']} {row['subject']} {row['value']}" for row in rows]


def test_a_sink_of_ones_own_needs_append_alone():
    with Counting() as sink:
        sink.append(rows([3]))
    assert sink.lines == ["3 fc 3.0"]
    with pytest.raises(TableError, match="Counting does not give rows back"):
        sink.table()
