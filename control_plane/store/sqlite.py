"""A database in an SQLite file.

``synchronous=FULL``: a transaction is on disk when it ends. BEGIN IMMEDIATE takes the lock for writing before anything
is read, so that other processes may write, too. The write-ahead log needs shared memory: the file cannot be on a
network file system.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final

from control_plane.store.database import Execute, Value
from control_plane.store.errors import StoreError

_PATIENCE: Final = 30.0
"""Seconds to wait for other processes that write. A commit takes some ms, on a slow disk some hundred."""


class SqliteDatabase:
    """One connection writes, one reads; each is used by one thread at a time."""

    shared = False

    def __init__(self, path: Path) -> None:
        """The file is made where it is missing, for its owner alone. Raises :class:`StoreError`."""
        self._path = path
        with self._explained():
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise StoreError(f"{path} cannot be made: {error.strerror}. Name another folder by --state.") from None
            self._writer, self._write_lock = self._connect(), Lock()
            self._reader, self._read_lock = self._connect(), Lock()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"The database {self._path} failed: {error}. Look for a full disk, or another program that holds it."
            ) from None

    @contextmanager
    def writing(self, tenant: str = "") -> Iterator[Execute]:  # noqa: ARG002 - no rows are hidden
        with self._write_lock, self._explained():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield _Executing(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:  # also if the thread is interrupted: else the transaction would stay open
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self, tenant: str = "") -> Iterator[Execute]:  # noqa: ARG002
        with self._read_lock, self._explained():
            yield _Executing(self._reader)

    @contextmanager
    def alone(self, lock: int) -> Iterator[Execute | None]:
        path = self._path.with_name(f"{self._path.name}-lock-{lock:x}")
        with self._explained():
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise StoreError(f"{path} cannot be made: {error.strerror}. See who owns its folder.") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                yield None
                return
            try:
                yield _Separately(self)
            finally:
                os.close(descriptor)

    def migrate(self) -> None:
        from control_plane.store.migrate import migrate_sqlite

        migrate_sqlite(self._path)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class _Separately:
    """Each statement by itself, in turn with those of others."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def __call__(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        with self._database.reading() as execute:
            return execute(statement, values)

    def later(self, statement: str, values: Sequence[Value] = ()) -> None:
        with self._database.writing() as execute:
            execute.later(statement, values)

    def about(self, tenant: str) -> None:
        """Nothing to tell anybody."""


class _Executing:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __call__(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def later(self, statement: str, values: Sequence[Value] = ()) -> None:
        self._connection.execute(statement, values)

    def about(self, tenant: str) -> None:
        """Nothing to tell anybody."""
