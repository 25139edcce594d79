"""The events of the log, what they say together, and their form on disk. Pure.

On disk an event is one JSON object, without its number, which is its place in the log. What is read back is what was
written: :func:`encode` refuses what JSON cannot hold, and :func:`decode` builds the same event again.

Order is by number, never by time: clocks are set back, numbers are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from tc_core.errors import HistoryError

State = Mapping[str, Any]
"""A JSON object: what was in force on an interface."""

UNNUMBERED: Final = 0
"""The number of an event that is not in a log yet. Logs number from 1."""

ACTIONS: Final = frozenset({"apply", "clear", "restore"})
"""What a change can be: bring to a policy, take our tree away, go back to an earlier state."""


class Result(StrEnum):
    """The outcome of a change, as recorded by its author."""

    DONE = "done"
    FAILED = "failed"


class Outcome(StrEnum):
    """How a change stands, as a reader sees it."""

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """It has no end in the log, and the process that began it is gone: some of its commands may have been made."""
    RUNNING = "running"
    """It has no end in the log yet, and the process that began it lives."""


@dataclass(frozen=True, slots=True)
class Who:
    """The process that made a change, and for whom.

    ``user`` and ``sudo_user`` are "" when unknown. ``sudo_user`` is what the environment says (SUDO_USER), which the
    user can set at will: a courtesy, no evidence. ``process`` tells it from all others that ever had its ``pid``.
    """

    uid: int
    user: str
    sudo_user: str
    pid: int
    command: str
    process: str = ""

    def __str__(self) -> str:
        name = self.user or str(self.uid)
        return f"{self.sudo_user} as {name}" if self.sudo_user and self.sudo_user != name else name


@dataclass(frozen=True, slots=True)
class Started:
    """A change is about to be made. ``before`` and ``after`` are None where nothing of ours is in force."""

    number: int
    at: datetime
    who: Who
    interface: str
    namespace: str
    action: str
    before: State | None
    after: State | None
    commands: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_aware(self.at)
        if self.action not in ACTIONS:
            raise ValueError(f"a change is one of {', '.join(sorted(ACTIONS))}, not {self.action!r}")


@dataclass(frozen=True, slots=True)
class Finished:
    """Change number ``change`` has ended; ``made`` of its commands were carried out, ``error`` says why not all."""

    number: int
    at: datetime
    change: int
    result: Result
    made: int
    error: str = ""

    def __post_init__(self) -> None:
        _require_aware(self.at)
        if self.made < 0:
            raise ValueError(f"{self.made} commands cannot have been made")


Event = Started | Finished


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """A change with its end, if it has one. ``alive``: whether the process that began it lived when this was read."""

    started: Started
    finished: Finished | None
    alive: bool = False

    @property
    def number(self) -> int:
        """The number by which the change is known: that of its first event."""
        return self.started.number

    @property
    def result(self) -> Outcome:
        """How the change stands."""
        if self.finished is not None:
            return Outcome(self.finished.result)
        return Outcome.RUNNING if self.alive else Outcome.INTERRUPTED

    @property
    def touched(self) -> bool:
        """Whether it may have altered anything: all but a change that failed before its first command was made."""
        return self.finished is None or self.finished.result is Result.DONE or self.finished.made > 0

    @property
    def last_event(self) -> int:
        """The number of the last event that is known of it."""
        return self.started.number if self.finished is None else self.finished.number


@dataclass(frozen=True, slots=True)
class Standing:
    """What the log knows of the state in force at one interface.

    ``latest`` is the change that was done last, None when none was. ``unsettled`` are the changes, newest first, that
    may have altered the interface after ``latest`` began: failed half-way, interrupted, still running, or done at the
    same time. While there are any, ``latest.started.after`` need not be what the kernel has: look.
    """

    latest: ChangeRecord | None
    unsettled: tuple[ChangeRecord, ...] = ()

    @property
    def certain(self) -> bool:
        """Whether the state in force is known from the log alone."""
        return not self.unsettled

    @property
    def state(self) -> State | None:
        """The state after ``latest``; None when that left nothing of ours, or when there is none."""
        return None if self.latest is None else self.latest.started.after


def standing(records: Iterable[ChangeRecord]) -> Standing:
    """What all changes of one interface and namespace say together, in whatever order they come."""
    newest_first = sorted(records, key=lambda record: record.number, reverse=True)
    done = [record for record in newest_first if record.result is Outcome.DONE]
    latest = max(done, key=lambda record: record.last_event, default=None)
    began = 0 if latest is None else latest.number
    return Standing(
        latest,
        tuple(
            record
            for record in newest_first
            if record is not latest
            and record.touched
            # A done change began by looking at the kernel, so it settles whatever had ended by then.
            and (record.last_event > began or record.result is Outcome.RUNNING)
        ),
    )


def encode(event: Event) -> str:
    """The JSON text of an event. Raises :class:`HistoryError` when a state holds something that JSON cannot."""
    document: dict[str, Any] = {"kind": "started" if isinstance(event, Started) else "finished"}
    document["at"] = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(event, Started):
        document["who"] = {name: getattr(event.who, name) for name in Who.__slots__}
        document |= {name: getattr(event, name) for name in ("interface", "namespace", "action", "before", "after")}
        document["commands"] = list(event.commands)
    else:
        document |= {name: getattr(event, name) for name in ("change", "result", "made", "error")}
    try:
        # ASCII, so that a command line that is not UTF-8 (surrogates in Python's text) can be written and read back.
        return json.dumps(document, allow_nan=False, separators=(",", ":"), default=_mapping)
    except (TypeError, ValueError, RecursionError) as error:
        raise HistoryError(
            f"This change cannot be written to the history: {error}. Give the states before and after as JSON objects."
        ) from None


def decode(number: int, text: str) -> Event:
    """The event that was encoded. Raises ValueError, KeyError or TypeError when the text is not one."""
    document = json.loads(text)
    at = datetime.fromisoformat(document["at"])
    match document["kind"]:
        case "started":
            return Started(
                number,
                at,
                Who(**document["who"]),
                document["interface"],
                document["namespace"],
                document["action"],
                document["before"],
                document["after"],
                tuple(document["commands"]),
            )
        case "finished":
            return Finished(
                number, at, document["change"], Result(document["result"]), document["made"], document["error"]
            )
        case kind:
            raise ValueError(f"an event of kind {kind!r}")


def numbered(event: Event, number: int) -> Event:
    """The same event with its place in a log. Raises ValueError when it has one already."""
    if event.number != UNNUMBERED:
        raise ValueError(f"this event is number {event.number} of a log already")
    return replace(event, number=number)


def _require_aware(at: datetime) -> None:
    if at.utcoffset() is None:
        raise ValueError("the time of an event needs its time zone")


def _mapping(value: object) -> dict[Any, Any]:
    """Lets ``json`` write mappings that are no dicts, such as MappingProxyType."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it is stored. ``checksum`` covers number and text, so a row that was moved is noticed as well."""

    number: int
    text: str
    checksum: str

    @classmethod
    def from_event(cls, event: Event) -> Row:
        """The row for a numbered event. Raises :class:`HistoryError` when it cannot be written as JSON."""
        text = encode(event)
        return cls(event.number, text, checksum(event.number, text))

    def event(self, source: str) -> Event:
        """The event in it. Raises :class:`HistoryError`, naming ``source``, when it is not what was written."""
        problem = "its checksum does not fit"
        if self.checksum == checksum(self.number, self.text):
            try:
                return decode(self.number, self.text)
            except (ValueError, KeyError, TypeError) as error:
                problem = f"it is not of this version ({error!r})"
        raise HistoryError(
            f"Event {self.number} of {source} cannot be read: {problem}. Take the file back from a backup, or move it "
            f"away to begin a new history; the changes before and after this one can still be read."
        )


def checksum(number: int, text: str) -> str:
    """SHA-256 of the number in decimal, a line feed, and the text."""
    return hashlib.sha256(f"{number}\n{text}".encode()).hexdigest()
