"""Which history a call of ``podlane tc`` reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from podlane.console import say
from tc_core.errors import HistoryError
from tc_core.history import History, MemoryHistory, SqliteHistory, default_path


@dataclass(frozen=True, slots=True)
class Book:
    """The history's file, None for the usual one; or none at all."""

    file: Path | None = None
    is_kept: bool = True

    @property
    def path(self) -> Path:
        """Where it is. Raises :class:`HistoryError` when there is no usual place for this user."""
        return self.file or default_path()

    @contextmanager
    def writing(self) -> Iterator[History | None]:
        """The history to write changes to, made when it is missing; None when none is kept.

        Raises :class:`HistoryError`, with the way to do without.
        """
        if not self.is_kept:
            yield None
            return
        try:
            history = SqliteHistory(self.path)
        except HistoryError as error:
            raise HistoryError(f"{error} Nothing has been changed. (podlane tc --no-history does without.)") from error
        with history:
            yield history

    @contextmanager
    def reading(self) -> Iterator[History]:
        """The history to look things up in; an empty one when nothing was recorded. Raises :class:`HistoryError`."""
        if not self.is_kept:
            raise HistoryError("There is no history to look at with --no-history. Leave that option out.")
        with SqliteHistory(self.path, read_only=True) if self.path.exists() else MemoryHistory() as history:
            yield history

    @contextmanager
    def glancing(self) -> Iterator[History | None]:
        """The history for what can do without: None when none is kept, or when it cannot be read, which is said."""
        history: History | None = None
        if self.is_kept:
            try:
                history = SqliteHistory(self.path, read_only=True) if self.path.exists() else None
            except HistoryError as error:
                say(f"{error} Names and policies are not known without it.")
        try:
            yield history
        finally:
            if history is not None:
                history.close()
