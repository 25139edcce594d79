"""Events as rows of a log, and which of them are asked for. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tc_core.errors import HistoryError
from tc_core.history.events import Event, Started, decode, encode


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it is stored. ``checksum`` covers number and text, so a row that was moved is noticed as well."""

    number: int
    text: str
    checksum: str

    @classmethod
    def of(cls, event: Event) -> Row:
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


@dataclass(frozen=True, slots=True)
class Query:
    """Which changes: all whose fields are as given; ``before`` that number; the newest ``limit`` of them."""

    number: int | None = None
    interface: str | None = None
    namespace: str | None = None
    before: int | None = None
    limit: int | None = None

    def fits(self, started: Started) -> bool:
        """Whether a change is one of them, ``limit`` aside."""
        return (
            self.number in (None, started.number)
            and self.interface in (None, started.interface)
            and self.namespace in (None, started.namespace)
            and (self.before is None or started.number < self.before)
        )
