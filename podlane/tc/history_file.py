"""The history that a call of ``podlane tc`` reads and writes."""

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
    """The history's file, None for the default one; or no history at all."""

    file: Path | None = None
    is_kept: bool = True

    @property
    def path(self) -> Path:
        """Its path. Raises :class:`HistoryError` if this user has no default one."""
        return self.file or default_path()

    @property
    def elsewhere(self) -> str:
        """A hint at root's history for other users; begins with a space if not empty."""
        return "" if self.file or not self.is_kept or os.geteuid() == 0 else " Root has a history of its own: try sudo."

    @contextmanager
    def writing(self, interface: str) -> Iterator[tuple[History | None, Standing | None]]:
        """The history to record changes of an interface in, created if missing, and its knowledge of the interface.

        None and None if no history is kept. Raises :class:`HistoryError`, with the option to do without.
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
        """The history to read from; an empty one if nothing was recorded. Raises :class:`HistoryError`."""
        if not self.is_kept:
            raise HistoryError("There is no history to look at with --no-history. Leave that option out.")
        history: History = SqliteHistory(self.path, read_only=True) if self._may_exist() else MemoryHistory()
        history.source = f"the history {self.path}"
        with history:
            yield history

    def standing(self, interface: str) -> Standing | None:
        """The history's knowledge of an interface here, for verbs that can do without.

        None if no history is kept, or if it cannot be read, which is reported.
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
        """Whether the file may exist. If that cannot be checked, opening it gives the reason."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass
        return True
