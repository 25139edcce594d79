"""The log: what every history can do, and one that is kept in memory.

:class:`History` holds the rules, once for all kinds: events are numbered from 1 without gaps, only ever appended, and a
change ends at most once. A kind of history brings storage: a transaction, the last number, one insert, two queries.

A history may be used by several threads; each call is one transaction. It must not be carried through a fork.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from tc_core.errors import HistoryError
from tc_core.history.events import (
    UNNUMBERED,
    ChangeRecord,
    Event,
    Finished,
    Outcome,
    Result,
    Standing,
    Started,
    State,
    Who,
    numbered,
    standing,
)
from tc_core.history.identity import describe_self, lives, this_namespace
from tc_core.history.rows import Query, Row


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class History(ABC):
    """An append-only log of changes. Every method raises :class:`HistoryError` when the log cannot be used.

    As the two events of a change are written around what is done to the kernel::

        started = history.start(interface="eth0", action="apply", before=..., after=..., commands=...)
        ...  # act
        history.finish(started, Result.DONE, made=len(started.commands))

    ``clock`` gives the time of events, with its time zone.
    """

    source = "this history"
    """What errors call it."""

    def __init__(self, clock: Callable[[], datetime] = now) -> None:
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
            row = Row.of(numbered(event, self._last_number() + 1))
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
            return [self._record(*pair) for pair in self._pairs(Query(None, interface, namespace, before, limit))]

    def change(self, number: int) -> ChangeRecord:
        """The change of that number. Raises :class:`HistoryError` when there is none."""
        with self._open():
            for pair in self._pairs(Query(number)):
                return self._record(*pair)
            if 0 < number <= self._last_number():
                [end] = self._events(number - 1, 1)
                assert isinstance(end, Finished)
                raise HistoryError(f"Number {number} is the end of change {end.change}. Ask for change {end.change}.")
            newest = self._pairs(Query(limit=1))
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
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What a kind of history brings

    @abstractmethod
    def _writing(self) -> AbstractContextManager[None]:
        """A transaction that nobody else can write in; undone when it is left by an exception."""

    @abstractmethod
    def _last_number(self) -> int:
        """The number of the last event; 0 when there is none."""

    @abstractmethod
    def _insert(self, row: Row) -> None:
        """Add a row at the end."""

    @abstractmethod
    def _rows(self, after: int, limit: int | None) -> Sequence[Row]:
        """The rows above a number, in order."""

    @abstractmethod
    def _changes(self, query: Query) -> Sequence[tuple[Row, Row | None]]:
        """The changes that a query wants, newest first, each with its end; all of one moment."""

    @abstractmethod
    def _release(self) -> None:
        """Close what is open."""

    # The rules

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise HistoryError(f"{self.source} is closed. Open it again to use it.")
            yield

    def _check_end(self, end: Finished) -> None:
        for _, finished in self._pairs(Query(end.change)):
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

    def _pairs(self, query: Query) -> list[tuple[Started, Finished | None]]:
        if query.limit is not None and query.limit < 0:
            raise ValueError(f"there cannot be {query.limit} changes")
        pairs = []
        for first, second in self._changes(query):
            started = first.event(self.source)
            finished = None if second is None else second.event(self.source)
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
        [(_, finished)] = self._pairs(Query(started.number))
        return ChangeRecord(started, finished)


class MemoryHistory(History):
    """A history that ends with the process: for tests, and where nothing may be written."""

    def __init__(self, clock: Callable[[], datetime] = now) -> None:
        super().__init__(clock)
        self._log: list[Row] = []

    def _writing(self) -> AbstractContextManager[None]:
        return nullcontext()  # the one write of an append is its last step

    def _last_number(self) -> int:
        return len(self._log)

    def _insert(self, row: Row) -> None:
        self._log.append(row)

    def _rows(self, after: int, limit: int | None) -> Sequence[Row]:
        rows = self._log[max(after, 0) :]
        return rows if limit is None else rows[:limit]

    def _changes(self, query: Query) -> Sequence[tuple[Row, Row | None]]:
        found: dict[int, tuple[Row, Row | None]] = {}
        for row in self._log:
            event = row.event(self.source)
            if isinstance(event, Finished):
                if event.change in found:
                    found[event.change] = (found[event.change][0], row)
            elif query.fits(event):
                found[event.number] = (row, None)
        return list(reversed(found.values()))[: query.limit]

    def _release(self) -> None:
        self._log = []
