"""Processes that write a history at the same time, and ones that are killed while they write."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from pathlib import Path

from histories import begin_and_leave, done, process, verified, write_some, write_without_end

from tc_core.history import Outcome, SqliteHistory

KILLS = 25
LONGEST = 0.015
"""Seconds that a writer may write before it is killed: some dozens of events."""


def _read_until(deadline: float, acknowledged: list[int], pipe: Connection, reader: SqliteHistory) -> None:
    """Read over and over while it is being written; what was acknowledged is there."""
    while True:
        while pipe.poll():
            acknowledged.append(pipe.recv())
        assert verified(reader) >= max(acknowledged)
        if time.monotonic() >= deadline:
            return


def test_a_killed_writer_leaves_whole_events_and_all_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    chance = random.Random(20260329)
    acknowledged = [0]
    SqliteHistory(path).close()
    # One reader that stays through all the deaths, and for each death one that opens what it left.
    with SqliteHistory(path, read_only=True) as staying:
        for _ in range(KILLS):
            with process(write_without_end, path) as (writer, pipe):
                acknowledged.append(pipe.recv())
                _read_until(time.monotonic() + chance.uniform(0, LONGEST), acknowledged, pipe, staying)
                writer.kill()
                writer.join()
                assert writer.exitcode == -signal.SIGKILL
                acknowledged += _rest(pipe)
            with SqliteHistory(path, read_only=True) as fresh:
                seen = verified(fresh)
            # One event may have been appended and not yet told; none that was told is missing.
            assert max(acknowledged) <= seen <= max(acknowledged) + 1
            assert verified(staying) == seen
        results = [record.result for record in staying.changes()]
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(results) <= {Outcome.DONE, Outcome.INTERRUPTED}
    assert results.count(Outcome.INTERRUPTED) <= KILLS
    with SqliteHistory(path) as history:
        # Opened by nobody else, the log gives back an event too whose commit its writer did not live to hear of.
        assert done(history).number in (seen + 1, seen + 2)
        verified(history)


def _rest(pipe: Connection) -> list[int]:
    """What a dead process had still said. A message that death cut short is none."""
    numbers = []
    try:
        while pipe.poll():
            numbers.append(pipe.recv())
    except (EOFError, OSError):
        pass
    return numbers


def test_when_no_process_is_left_the_next_reader_recovers_the_log(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with process(write_without_end, path) as (writer, pipe):
        told = [pipe.recv() for _ in range(7)]
        writer.kill()
        writer.join()
        told += _rest(pipe)
    assert (tmp_path / "history.db-wal").exists()
    with SqliteHistory(path, read_only=True) as reader:
        assert verified(reader) in (max(told), max(told) + 1)


def test_a_log_that_is_cut_anywhere_is_a_shorter_log(tmp_path: Path) -> None:
    """What a power cut may leave: the write-ahead log up to some byte. What is whole is read, the rest never was."""
    original, copy = tmp_path / "original.db", tmp_path / "copy.db"
    with SqliteHistory(original) as history:
        for _ in range(3):
            done(history)
        log = Path(f"{original}-wal").read_bytes()
        database = original.read_bytes()
    chance = random.Random(3)
    seen = []
    for length in sorted({0, 1, 31, 32, len(log) - 1, len(log), *(chance.randrange(len(log)) for _ in range(60))}):
        copy.write_bytes(database)
        Path(f"{copy}-wal").write_bytes(log[:length])
        with SqliteHistory(copy, read_only=True) as reader:
            seen.append(verified(reader))
        for leftover in tmp_path.glob("copy.db*"):
            leftover.unlink()
    assert seen == sorted(seen)
    assert set(seen) == set(range(7))


def test_writers_at_once_leave_no_gap_and_share_no_number(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.db"  # which they also make at once
    with ExitStack() as running:
        pipes = [running.enter_context(process(write_some, path, 12))[1] for _ in range(4)]
        written = []
        while len(written) < 4:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                written.append(pipe.recv())
                pipes.remove(pipe)
    assert all(numbers == sorted(numbers) for numbers in written)
    assert sorted(number for numbers in written for number in numbers) == list(range(1, 4 * 24 + 1))
    with SqliteHistory(path, read_only=True) as reader:
        assert verified(reader) == 4 * 24
    assert [left.name for left in path.parent.iterdir() if left.name.endswith(".new")] == []


def test_a_change_runs_while_its_process_lives_and_is_interrupted_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with process(begin_and_leave, path) as (worker, pipe):
        number = pipe.recv()
        with SqliteHistory(path, read_only=True) as reader:
            record = reader.change(number)
            assert record.result is Outcome.RUNNING
            assert record.started.who.pid == worker.pid != os.getpid()
            worker.kill()
            worker.join()
            assert reader.change(number).result is Outcome.INTERRUPTED
            assert not reader.standing("eth0", record.started.namespace).certain
