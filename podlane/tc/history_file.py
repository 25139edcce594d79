"""Which history a call of ``podlane tc`` reads and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from podlane.console import say
from tc_core.errors import HistoryError
from tc_core.history import History, MemoryHistory, SqliteHistory, Standing, default_path, this_namespace


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """The history's file, None for the usual one; or none at all."""

    file: Path | None = None
    is_kept: bool = True

    @property
    def path(self) -> Path:
        """Where it is. Raises :class:`HistoryError` when there is no usual place for this user."""
        return self.file or default_path()

    @property
    def elsewhere(self) -> str:
        """Where else to look, for those whose usual history is not root's; begins with a space if it says anything."""
        return "" if self.file or not self.is_kept or os.geteuid() == 0 else " Root has a history of its own: try sudo."

    @contextmanager
    def writing(self, interface: str) -> Iterator[tuple[History | None, Standing | None]]:
        """The history to write changes of an interface to, made when it is missing, and what it knows of that.

        None and None when no history is kept. Raises :class:`HistoryError`, with the way to do without.
        """
        if not self.is_kept:
            yield None, None
            return
        with ExitStack() as open_files:
            try:
                history = open_files.enter_context(SqliteHistory(self.path))
                standing = history.standing(interface, this_namespace())
            except HistoryError as error:
                raise HistoryError(
                    f"{error} Nothing has been changed. (podlane tc --no-history does without.)"
                ) from error
            yield history, standing

    @contextmanager
    def reading(self) -> Iterator[History]:
        """The history to look things up in; an empty one when nothing was recorded. Raises :class:`HistoryError`."""
        if not self.is_kept:
            raise HistoryError("There is no history to look at with --no-history. Leave that option out.")
        history: History = SqliteHistory(self.path, read_only=True) if self._may_exist() else MemoryHistory()
        history.source = f"the history {self.path}"
        with history:
            yield history

    def standing(self, interface: str) -> Standing | None:
        """What the history knows of an interface here, for what can do without.

        None when no history is kept, or when it cannot be read, which is said.
        """
        if not self.is_kept:
            return None
        try:
            with self.reading() as history:
                return history.standing(interface, this_namespace())
        except HistoryError as error:
            say(f"{error} Names and policies are not known without it.")
            return None

    def _may_exist(self) -> bool:
        """Whether the file is not known to be missing. Of one that may not be looked for, opening it says why."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass
        return True
