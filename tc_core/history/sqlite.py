"""A history in an SQLite file, for any number of writing and reading processes.

The file has one table, ``events``: number, JSON text, checksum. The other columns are generated from the text, so that
they can be queried with the sqlite3 command and cannot contradict the text. Triggers reject UPDATE, DELETE and gaps: a
guard against mistakes, not against root.

Guarantees:

* Events are atomic, even if the writer dies: each is one transaction, in a write-ahead log whose frames have checksums
  (https://www.sqlite.org/wal.html). If the writer is killed before the commit returns, the event may become visible
  only when the log is next opened by a single process: complete, and last.
* An event is on disk when :meth:`append` returns: synchronous=FULL syncs the log at each commit.
* Readers and writers do not wait for each other: a reader sees the log as it was when its query began.
* Numbers have no gaps with several writers: BEGIN IMMEDIATE takes the write lock before the last number is read.
* The file never exists incomplete: it is created under another name and linked into place, which only one process can
  do. A process killed at that moment leaves a small hidden file (.history.db.*.new), which is never read.

The file has mode 0600 and its directory, if created, 0700, since states and command lines are private. The write-ahead
log needs shared memory: the file cannot be on a network file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from tc_core.errors import HistoryError
from tc_core.history.log import History, full_file_system, now

_APPLICATION: Final = 0x506F644C
"""``PRAGMA application_id``: "PodL". Tells our files from all others."""
_VERSION: Final = 1
"""``PRAGMA user_version``: of the schema and of the events' JSON."""
_PATIENCE: Final = 10.0
"""Seconds to wait for other writers. A commit takes some ms, on a slow disk some hundred."""

_SCHEMA: Final = f"""
BEGIN;
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    document TEXT NOT NULL,
    checksum TEXT NOT NULL,
    kind TEXT AS (json_extract(document, '$.kind')),
    at TEXT AS (json_extract(document, '$.at')),
    interface TEXT AS (json_extract(document, '$.interface')),
    namespace TEXT AS (json_extract(document, '$.namespace')),
    action TEXT AS (json_extract(document, '$.action')),
    change INTEGER AS (json_extract(document, '$.change')),
    result TEXT AS (json_extract(document, '$.result'))
);
CREATE UNIQUE INDEX a_change_ends_once ON events (change);
CREATE INDEX changes_of_an_interface ON events (interface, namespace);
CREATE TRIGGER no_gaps BEFORE INSERT ON events
    WHEN NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM events)
    BEGIN SELECT RAISE(ABORT, 'events are numbered without gaps'); END;
CREATE TRIGGER no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class SqliteHistory(History):
    """The history in the file at ``path``, which is made when it is missing; with ``read_only`` it must exist."""

    def __init__(self, path: Path | str, *, read_only: bool = False, clock: Callable[[], datetime] = now) -> None:
        """Raises :class:`HistoryError` when the file cannot be made or opened, is damaged, or is not a history."""
        self.path = Path(path).absolute()
        self.source = f"the history {self.path}"
        self.place = str(self.path)
        self.read_only = read_only
        with self._explained():
            if not self.path.exists():
                if read_only:
                    raise HistoryError(f"There is no history at {self.path}: nothing was recorded there yet.")
                _make(self.path)
            if not self.path.is_file():
                raise HistoryError(f"{self.path} is not a regular file. Name another one to keep the history in.")
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode={'ro' if read_only else 'rw'}",
                uri=True,
                timeout=_PATIENCE,
                isolation_level=None,  # transactions are begun here, not by the module
                check_same_thread=False,  # the lock of History serialises
            )
            super().__init__(connection, clock)
            try:
                self._prepare()
            except BaseException:
                connection.close()
                raise

    def _prepare(self) -> None:
        """Refuse what is not ours before anything is changed, then set up the connection."""
        if self.path.stat().st_size == 0:
            raise HistoryError(f"{self.path} is empty: no history, or a lost one. Remove it to begin a new history.")
        if self._number("PRAGMA application_id") != _APPLICATION:
            raise HistoryError(
                f"{self.path} is a database of another program. Name another file, or move this one away."
            )
        version = self._number("PRAGMA user_version")
        if version != _VERSION:
            raise HistoryError(
                f"{self.path} has format version {version}, and this Podlane reads {_VERSION}: a newer one wrote it. "
                f"Upgrade Podlane, or name another file."
            )
        self._connection.execute("PRAGMA synchronous = FULL")
        self._last_number()
        # Not before the file is open: opening to write can give it another inode (overlayfs copies it up).
        self._file = self._which_file()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self.read_only:
            raise HistoryError(f"{self.path} was opened for reading only. Open it for writing to record a change.")
        with self._explained():
            if self._which_file() != self._file:
                raise HistoryError(f"{self.path} was removed or replaced while it was in use. Open it again.")
        with super()._writing():
            yield

    def _which_file(self) -> tuple[int, int] | None:
        """What tells the file from any other that may take its name; None when nothing has it."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the system complains of, too."""
        try:
            with super()._explained():
                yield
        except OSError as error:
            remedy = full_file_system(self.place) if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
            remedy = remedy or "Check that you may read and write it and its directory, or name another file"
            raise HistoryError(f"{self.path} cannot be used: {error}. {remedy}.") from error


class MemoryHistory(History):
    """A history that ends with the process: for tests, and where nothing may be written."""

    def __init__(self, clock: Callable[[], datetime] = now) -> None:
        super().__init__(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False), clock)
        self._connection.executescript(_SCHEMA)


def _make(path: Path) -> None:
    """Make an empty history at ``path``, unless another process is faster."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)  # 0600
    os.close(handle)
    try:
        connection = sqlite3.connect(name, isolation_level=None)
        try:
            [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise HistoryError(
                    f"{path.parent} is on a file system that cannot hold a history (no shared memory for SQLite's "
                    f"write-ahead log). Name a file on a local disk."
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
        finally:
            connection.close()
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
        _sync_directory(path.parent)
    finally:
        os.unlink(name)


def _sync_directory(directory: Path) -> None:
    """Make a new name in a directory survive a power cut, as fsync(2) says."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
