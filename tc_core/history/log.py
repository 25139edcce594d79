"""The log: what every history can do.

:class:`History` holds the rules: events are numbered from 1 without gaps, only ever appended, and a change ends at most
once. It works on a connection to SQLite; where the database is kept is the business of :mod:`tc_core.history.sqlite`.

A history may be used by several threads; each call is one transaction. It must not be carried through a fork.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tc_core.errors import HistoryError
from tc_core.history.events import (
    UNNUMBERED,
    ChangeRecord,
    Event,
    Finished,
    Outcome,
    Result,
    Row,
    Standing,
    Started,
    State,
    Who,
    numbered,
    standing,
)
from tc_core.history.identity import describe_self, lives, this_namespace

_REMEDIES: Final = {
    sqlite3.SQLITE_NOTADB: "It is some other file, or a history that is damaged. Name another file, take it back from "
    "a backup, or move it away to begin a new history",
    sqlite3.SQLITE_CORRUPT: "The file is damaged. Copy it with its -wal, try .recover of the sqlite3 command on the "
    "copy, take it back from a backup, or move both away to begin a new history",
    sqlite3.SQLITE_BUSY: "Another process has kept it locked. Try again, and look for the one that hangs: fuser has it",
    sqlite3.SQLITE_FULL: "The disk is full. Make room and try again",
    sqlite3.SQLITE_IOERR: "The disk or its file system fails (see dmesg). Name a file on another one",
    sqlite3.SQLITE_READONLY: "It or its directory may not be written, which readers need as well. Use the user that "
    "owns it, or name another file",
    sqlite3.SQLITE_CANTOPEN: "Check that it is a file, that you may read and write it and its directory (readers too "
    "need that), and that it is not on a read-only file system",
    sqlite3.SQLITE_PERM: "It may not be used. Use the user that owns it, or name another file",
}
"""By primary result code (https://www.sqlite.org/rescode.html), which is the low byte of the extended one."""
_PRIMARY: Final = 0xFF
_FOR_WANT_OF_ROOM: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_ROOM: Final = 1 << 16
"""Bytes: SQLite makes room for 32 KiB of shared memory at once, and calls it an I/O error when it cannot."""
_LARGEST: Final = 2**63 - 1
"""SQLite's integers end there; no number in a log is that large."""


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class History:
    """An append-only log of changes. Every method raises :class:`HistoryError` when the log cannot be used.

    As the two events of a change are written around what is done to the kernel::

        started = history.start(interface="eth0", action="apply", before=..., after=..., commands=...)
        ...  # act
        history.finish(started, Result.DONE, made=len(started.commands))

    ``clock`` gives the time of events, with its time zone.
    """

    source = "this history"
    """What errors call it."""
    place = "The history"
    """What errors of SQLite call it."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], datetime]) -> None:
        """``connection`` has the table of events, begins no transactions by itself and may be used by any thread."""
        self._connection = connection
        self._clock = clock
        self._lock = threading.RLock()
        self._closed = False

    # Writing

    def append(self, event: Event) -> Event:
        """Put an event at the end of the log, and give it as it is there: numbered, and on disk when this returns.

        Raises :class:`HistoryError` when it ends a change that is not there or that has ended, or is not JSON.
        """
        with self._open(), self._writing():
            if isinstance(event, Finished):
                self._check_end(event)
            row = Row.from_event(numbered(event, self._last_number() + 1))
            self._insert(row)
        return row.event(self.source)

    def start(
        self,
        *,
        interface: str,
        action: str,
        before: State | None,
        after: State | None,
        commands: Iterable[str] = (),
        namespace: str | None = None,
        who: Who | None = None,
    ) -> Started:
        """Write down that a change is about to be made, and return when that is safe.

        ``commands`` are the plan, in order. ``namespace`` is the calling thread's, ``who`` this process unless given.
        """
        event = self.append(
            Started(
                number=UNNUMBERED,
                at=self._clock(),
                who=describe_self() if who is None else who,
                interface=interface,
                namespace=this_namespace() if namespace is None else namespace,
                action=action,
                before=before,
                after=after,
                commands=tuple(commands),
            )
        )
        assert isinstance(event, Started)
        return event

    def finish(self, started: Started, result: Result, *, made: int, error: str = "") -> Finished:
        """Write down how a change ended: ``made`` of its commands were carried out, ``error`` says why not all.

        Call it also when acting raised something unexpected, or the change looks as if it were running until this
        process ends.
        """
        event = self.append(Finished(UNNUMBERED, self._clock(), started.number, result, made, error))
        assert isinstance(event, Finished)
        return event

    # Reading

    def changes(
        self,
        *,
        interface: str | None = None,
        namespace: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[ChangeRecord]:
        """The changes, newest first: of one interface, of one namespace, before a number, at most so many."""
        with self._open():
            return [
                self._record(*pair)
                for pair in self._pairs(limit, interface=interface, namespace=namespace, before=before)
            ]

    def change(self, number: int) -> ChangeRecord:
        """The change of that number. Raises :class:`HistoryError` when there is none."""
        with self._open():
            for pair in self._pairs(number=number):
                return self._record(*pair)
            if 0 < number <= self._last_number():
                [end] = self._events(number - 1, 1)
                assert isinstance(end, Finished)
                raise HistoryError(f"Number {number} is the end of change {end.change}. Ask for change {end.change}.")
            newest = self._pairs(1)
        hint = f"The newest is {newest[0][0].number}; list them to see all." if newest else "None was recorded yet."
        raise HistoryError(f"There is no change {number} in {self.source}. {hint}")

    def state_before(self, number: int) -> State | None:
        """What was in force before a change. Raises :class:`HistoryError` when there is no such change."""
        return self.change(number).started.before

    def state_after(self, number: int) -> State | None:
        """What a change brought into force. Raises :class:`HistoryError` when there is none, or it was not done."""
        record = self.change(number)
        if record.result is not Outcome.DONE:
            raise HistoryError(
                f"Change {number} is {record.result}: what it left is not known from the history. Look at what is in "
                f"force now, or take the state before it."
            )
        return record.started.after

    def standing(self, interface: str, namespace: str) -> Standing:
        """What is known of the state in force at an interface: the last change that was done, and what may have altered
        it since."""
        return standing(self.changes(interface=interface, namespace=namespace))

    def events(self, *, after: int = 0, limit: int | None = None) -> list[Event]:
        """The bare log: events in order, those above number ``after``, at most ``limit``.

        Raises :class:`HistoryError` at the first that is damaged, and when a number is missing.
        """
        with self._open():
            return self._events(after, limit)

    # Life

    def close(self) -> None:
        """Give back what it holds. It cannot be used afterwards; closing it again does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                with self._explained():
                    self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The table

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """An exclusive write transaction, rolled back on an exception."""
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _last_number(self) -> int:
        return self._number("SELECT coalesce(max(number), 0) FROM events")

    def _insert(self, row: Row) -> None:
        """Add a row at the end."""
        self._connection.execute(
            "INSERT INTO events (number, document, checksum) VALUES (?, ?, ?)", (row.number, row.text, row.checksum)
        )

    def _rows(self, after: int, limit: int | None) -> list[Row]:
        """The rows above a number, in order."""
        question = "SELECT number, document, checksum FROM events WHERE number > ? ORDER BY number LIMIT ?"
        return [Row(*columns) for columns in self._ask(question, (after, _limit(limit)))]

    def _number(self, question: str) -> int:
        [[answer]] = self._ask(question)
        assert isinstance(answer, int)
        return answer

    def _ask(self, question: str, values: tuple[int | str, ...] = ()) -> list[tuple[Any, ...]]:
        fitting = tuple(min(value, _LARGEST) if isinstance(value, int) else value for value in values)
        with self._explained():
            return self._connection.execute(question, fitting).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what SQLite complains of into words with a remedy."""
        try:
            yield
        except sqlite3.Error as error:
            raise HistoryError(_explanation(self.place, error)) from error

    # The rules

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise HistoryError(f"{self.source} is closed. Open it again to use it.")
            yield

    def _check_end(self, end: Finished) -> None:
        for _, finished in self._pairs(number=end.change):
            if finished is None:
                return
            raise HistoryError(f"Change {end.change} has ended already ({finished.result}). Start a new one.")
        raise HistoryError(f"There is no change {end.change} in {self.source} that could end. Start it first.")

    def _events(self, after: int, limit: int | None) -> list[Event]:
        events = []
        for expected, row in enumerate(self._rows(after, limit), start=max(after, 0) + 1):
            if row.number != expected:
                raise HistoryError(
                    f"Event {expected} of {self.source} is missing. Take the file back from a backup, or move it away "
                    f"to begin a new history."
                )
            events.append(row.event(self.source))
        return events

    def _pairs(
        self,
        limit: int | None = None,
        *,
        number: int | None = None,
        interface: str | None = None,
        namespace: str | None = None,
        before: int | None = None,
    ) -> list[tuple[Started, Finished | None]]:
        """The changes of which all that is given holds, newest first, each with its end; all of one moment."""
        if limit is not None and limit < 0:
            raise ValueError(f"there cannot be {limit} changes")
        conditions: dict[str, int | str | None] = {
            "began.number = ?": number,
            "began.interface = ?": interface,
            "began.namespace = ?": namespace,
            "began.number < ?": before,
        }
        wanted = {condition: value for condition, value in conditions.items() if value is not None}
        # One statement, so that change and end are of the same moment.
        rows = self._ask(
            "SELECT began.number, began.document, began.checksum, ended.number, ended.document, ended.checksum "
            "FROM events AS began LEFT JOIN events AS ended ON ended.change = began.number "
            f"WHERE {' AND '.join(['began.kind = ?', *wanted])} ORDER BY began.number DESC LIMIT ?",
            ("started", *wanted.values(), _limit(limit)),
        )
        pairs = []
        for columns in rows:
            started = Row(*columns[:3]).event(self.source)
            finished = None if columns[3] is None else Row(*columns[3:]).event(self.source)
            assert isinstance(started, Started)
            assert finished is None or isinstance(finished, Finished)
            pairs.append((started, finished))
        return pairs

    def _record(self, started: Started, finished: Finished | None) -> ChangeRecord:
        if finished is not None:
            return ChangeRecord(started, finished)
        if lives(started.who):
            return ChangeRecord(started, None, alive=True)
        # It may have written its end and gone between our reading and our looking for it. Now it cannot any more.
        [(_, finished)] = self._pairs(number=started.number)
        return ChangeRecord(started, finished)


def _explanation(place: str, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", None)  # missing where the module itself complains
    remedy = _REMEDIES.get(code & _PRIMARY) if code is not None else None
    if code is not None and code & _PRIMARY in _FOR_WANT_OF_ROOM:
        remedy = full_file_system(place) or remedy
    return f"{place} cannot be used: {error}. {remedy or 'If it is a history, it is damaged: take it from a backup'}."


def full_file_system(place: str) -> str | None:
    """What to do when the file system of a path has no room left, or no inodes; None when it has."""
    path = Path(place).absolute()
    while not path.exists():
        path = path.parent
    try:
        room = os.statvfs(path)
    except OSError:
        return None
    if room.f_flag & os.ST_RDONLY:
        return None  # such file systems are always full
    if room.f_bavail * room.f_frsize < _ROOM:
        lacking = "is full"
    elif room.f_files and not room.f_favail:
        lacking = "has no inodes left for new files"
    else:
        return None
    while not path.is_mount():
        path = path.parent
    return f"The file system at {path} {lacking}. Make room there and try again, or name a file on another one"


def _limit(limit: int | None) -> int:
    """SQL has -1 for no limit."""
    return -1 if limit is None else limit
