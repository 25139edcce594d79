"""The history's file: its mode, its schema, what others may do to it, and what is said when it is no good."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from histories import HERE, done, process, start, verified, write_some

from tc_core.errors import HistoryError
from tc_core.history import Outcome, Result, SqliteHistory, log
from tc_core.history.events import Row, checksum


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "podlane" / "history.db"


def _recorded(path: Path, changes: int = 3) -> Path:
    with SqliteHistory(path) as history:
        for _ in range(changes):
            done(history)
    return path


def _sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def _force(path: Path, *statements: str) -> None:
    """What only somebody who means to do it does: change the log in spite of its triggers."""
    for name in ("no_gaps", "no_update", "no_delete"):
        _sql(path, f"DROP TRIGGER {name}")
    for statement in statements:
        _sql(path, statement)


def test_it_is_made_when_missing_for_its_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        with SqliteHistory(path) as history:
            done(history)
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"history.db": 0o600, "history.db-wal": 0o600, "history.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_goes_on_where_it_was(path: Path) -> None:
    _recorded(path, 2)
    with SqliteHistory(path) as history:
        assert done(history).number == 5
        assert verified(history) == 6


def test_each_event_is_synced_to_a_write_ahead_log(path: Path) -> None:
    with SqliteHistory(path) as history:
        assert history._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert history._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_it_can_be_read_without_podlane(path: Path) -> None:
    _recorded(path, 1)
    rows = _sql(
        path, "SELECT number, kind, interface, namespace, action, change, result, document ->> '$.who.user' FROM events"
    )
    assert rows == [
        (1, "started", "eth0", HERE, "apply", None, None, "ada"),
        (2, "finished", None, None, None, 1, "done", None),
    ]


@pytest.mark.parametrize("statement", [
    "UPDATE events SET document = '{}' WHERE number = 1",
    "DELETE FROM events",
    "DELETE FROM events WHERE number = 6",
    "INSERT OR REPLACE INTO events (number, document, checksum) VALUES (1, '{}', '')",
    "INSERT INTO events (number, document, checksum) VALUES (8, '{}', '')",
    "INSERT INTO events (number, document, checksum) VALUES (0, '{}', '')",
    "INSERT INTO events (document, checksum) VALUES ('{}', '')",
    "INSERT INTO events (number, document, checksum) VALUES (7, 'no json', '')",
    "INSERT INTO events (number, document, checksum) VALUES (7, '{\"change\": 1}', '')",
])  # fmt: skip
def test_the_log_only_grows(path: Path, statement: str) -> None:
    _recorded(path)
    with pytest.raises(sqlite3.DatabaseError, match=r"append-only|without gaps|UNIQUE|malformed JSON"):
        _sql(path, statement)
    with SqliteHistory(path, read_only=True) as history:
        assert verified(history) == 6


def test_a_reader_reads_while_a_writer_is_in_the_middle_of_writing(path: Path) -> None:
    _recorded(path, 1)
    with SqliteHistory(path) as writer, SqliteHistory(path, read_only=True) as reader:
        with writer._writing():
            writer._insert(Row(3, "{}", ""))
            assert verified(reader) == 2
        assert len(reader._rows(0, None)) == 3


def _insert_and_be_interrupted(history: SqliteHistory) -> None:
    with history._writing():
        history._insert(Row(1, "{}", ""))
        raise KeyboardInterrupt


def test_an_append_that_fails_in_the_middle_leaves_nothing(path: Path) -> None:
    with SqliteHistory(path) as history:
        with pytest.raises(KeyboardInterrupt):
            _insert_and_be_interrupted(history)
        assert start(history).number == 1


def test_a_reader_writes_nothing_and_makes_nothing(path: Path) -> None:
    with pytest.raises(HistoryError, match=r"There is no history at .*: nothing was recorded there yet"):
        SqliteHistory(path, read_only=True)
    assert not path.parent.exists()
    _recorded(path)
    before = path.read_bytes()
    with SqliteHistory(path, read_only=True) as reader:
        with pytest.raises(HistoryError, match="opened for reading only"):
            start(reader)
        assert verified(reader) == 6
    assert path.read_bytes() == before


def test_an_end_that_comes_between_two_looks_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process wrote the end and went, after the log was read and before the process was looked for."""
    with SqliteHistory(path) as writer, SqliteHistory(path, read_only=True) as reader:
        started = start(writer)

        def ends_just_now(_: object) -> bool:
            writer.finish(started, Result.DONE, made=2)
            return False

        monkeypatch.setattr(log, "lives", ends_just_now)
        assert reader.change(started.number).result is Outcome.DONE


def test_a_file_that_was_taken_away_is_noticed_before_an_event_is_lost(path: Path) -> None:
    with SqliteHistory(path) as history:
        done(history)
        path.rename(path.with_name("kept.db"))
        with pytest.raises(HistoryError, match=r"removed or replaced while it was in use. Open it again"):
            done(history)
        _recorded(path, 1)
        with pytest.raises(HistoryError, match="removed or replaced"):
            done(history)


def test_a_full_disk_costs_the_event_that_found_no_room_and_nothing_else(path: Path) -> None:
    with SqliteHistory(_recorded(path)) as history:
        history._connection.execute("PRAGMA max_page_count = 10")  # to SQLite, the same as a disk without room
        with pytest.raises(HistoryError, match=r"The disk is full\. Make room"):
            start(history, after={"a": "x" * 100_000})
        assert start(history).number == 7
        assert verified(history) == 7


def test_a_writer_that_never_lets_go_is_named_in_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tc_core.history.sqlite._PATIENCE", 0.01)
    with SqliteHistory(path) as holder, SqliteHistory(path) as history:
        with holder._writing(), pytest.raises(HistoryError, match=r"database is locked.*Another process .* Try again"):
            start(history)
        assert start(history).number == 1


def test_writers_wait_for_each_other(path: Path) -> None:
    with SqliteHistory(path) as history, ExitStack() as others:
        with history._writing():
            _, pipe = others.enter_context(process(write_some, path, 1))
            assert not pipe.poll(0.05)
        assert pipe.recv() == [1, 2]


def _text(path: Path) -> None:
    path.write_text("total: 1Gbit\n" * 500)


def _nothing(path: Path) -> None:
    path.touch()


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _other_database(path: Path) -> None:
    _sql(path, "CREATE TABLE notes (text)")


def _newer(path: Path) -> None:
    _recorded(path)
    _sql(path, "PRAGMA user_version = 2")


def _no_table(path: Path) -> None:
    _recorded(path)
    _sql(path, "ALTER TABLE events RENAME TO gone")


def _cut(path: Path) -> None:
    _recorded(path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("read_only", [False, True], ids=["to write", "to read"])
@pytest.mark.parametrize(("spoil", "says"), [
    pytest.param(_text, "some other file.*Name another file", id="a text file"),
    pytest.param(_nothing, "is empty.*Remove it", id="an empty file"),
    pytest.param(_directory, "not a regular file. Name another", id="a directory"),
    pytest.param(_pipe, "not a regular file. Name another", id="a named pipe"),
    pytest.param(_other_database, "database of another program. Name another file", id="a foreign database"),
    pytest.param(_newer, "format version 2, and this Podlane reads 1.*Upgrade", id="of a newer Podlane"),
    pytest.param(_no_table, "no such table: events.*damaged", id="without its table"),
    pytest.param(_cut, "damaged.*recover", id="cut off"),
])  # fmt: skip
def test_what_is_no_history_is_refused_and_left_alone(
    path: Path, spoil: Callable[[Path], None], says: str, read_only: bool
) -> None:
    path.parent.mkdir(parents=True)
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(HistoryError, match=f"(?s){says}"):
        verified(SqliteHistory(path, read_only=read_only))
    assert before == (path.read_bytes() if path.is_file() else None)


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError, match=r"cannot be used: .* exists: .*/file'. Check that you may"):
        SqliteHistory(tmp_path / "file" / "history.db")


@pytest.mark.parametrize(("deed", "says", "intact"), [
    pytest.param("UPDATE events SET document = replace(document, 'ada', 'eve') WHERE number = 3", "Event 3 .* checksum", 5, id="altered"),
    pytest.param("DELETE FROM events WHERE number = 3", "Event 3 .* is missing", 5, id="taken out"),
    pytest.param("UPDATE events SET number = 9 WHERE number = 6", "Event 6 .* is missing", 1, id="moved"),
    pytest.param("UPDATE events SET checksum = 'x' WHERE number = 2", "Event 2 .* checksum", 3, id="another checksum"),
    pytest.param("UPDATE events SET (document, checksum) = (SELECT document, checksum FROM events WHERE number = 3) WHERE number = 1", "Event 1 .* checksum", 3, id="another event's"),
    pytest.param("UPDATE events SET document = '[]' WHERE number = 5", "Event 5 .* checksum", 1, id="another text"),
])  # fmt: skip
def test_what_was_forced_upon_the_log_is_noticed(path: Path, deed: str, says: str, intact: int) -> None:
    _recorded(path)
    _force(path, deed)
    with SqliteHistory(path, read_only=True) as history:
        with pytest.raises(HistoryError, match=says):
            history.events()
        assert history.change(intact).started.who.user == "ada"


def test_an_event_of_another_making_is_noticed(path: Path) -> None:
    with SqliteHistory(path) as history:
        text = '{"kind":"paused","at":"2026-01-01T00:00:00+00:00"}'
        with history._writing():
            history._insert(Row(1, text, checksum(1, text)))
        with pytest.raises(HistoryError, match=r"Event 1 .* not of this version .*paused"):
            history.events()


def test_a_spoilt_file_is_read_right_or_not_at_all(path: Path, tmp_path: Path) -> None:
    whole = _recorded(path).read_bytes()
    with SqliteHistory(path) as history:
        events = history.events()
    copy = tmp_path / "copy.db"
    chance = random.Random(7)
    refused = 0
    for position in (chance.randrange(len(whole)) for _ in range(150)):
        spoilt = bytearray(whole)
        spoilt[position] ^= 1 << chance.randrange(8)
        copy.write_bytes(spoilt)
        try:
            with SqliteHistory(copy, read_only=True) as reader:
                assert reader.events() == events[: len(reader.events())]
        except HistoryError:
            refused += 1
    assert refused > 10
