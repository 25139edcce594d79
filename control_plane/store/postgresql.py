"""A PostgreSQL database, by a pool of connections that block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from control_plane.store.database import Execute, Value
from control_plane.store.errors import StoreError
from control_plane.store.migrations.versions.v0021_row_security import ROLE

_CONNECTIONS: Final = 8
_PATIENCE: Final = 10.0
"""Seconds to wait for one of them."""
_ALIVE: Final = (("tcp_keepalives_idle", "5"), ("tcp_keepalives_interval", "2"), ("tcp_keepalives_count", "3"))
"""https://www.postgresql.org/docs/current/runtime-config-connection.html#RUNTIME-CONFIG-TCP-SETTINGS"""

_Connection = psycopg.Connection[tuple[Any, ...]]


def _as_tenant(connection: _Connection) -> None:
    """Make a connection one of the role of :mod:`~control_plane.store.migrations.versions.v0021_row_security`.

    Where there is none, it stays one of the tables' owner, who sees no more: row-level security is forced.
    """
    with connection.transaction():
        found = connection.execute(
            "SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = %s", (ROLE,)
        ).fetchone()
        if found and found[0]:
            connection.execute(f"SET ROLE {ROLE}")


class PostgresDatabase:
    """Transactions are READ COMMITTED: the row of a tenant's head, locked first, is what orders its writers."""

    shared = True

    def __init__(self, url: str) -> None:
        """``url`` as in ``postgresql://user@host/database``. Raises :class:`StoreError`."""
        self._url = url
        with self._explained():
            self._pool = self._open()

    def _open(self, configure: Callable[[_Connection], None] | None = None) -> ConnectionPool[_Connection]:
        pool = ConnectionPool(
            self._url, min_size=1, max_size=_CONNECTIONS, timeout=_PATIENCE, open=False, configure=configure
        )
        pool.open(wait=True, timeout=_PATIENCE)
        return pool

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, PoolTimeout) as error:
            # Not the URL, which may have a password.
            told = str(error).partition("\n")[0]
            raise StoreError(f"PostgreSQL failed: {told}. See that it runs, and what --database says.") from None

    @contextmanager
    def writing(self, tenant: str = "") -> Iterator[Execute]:
        with self._explained(), self._pool.connection() as connection, connection.pipeline():
            execute = _Executing(connection)
            execute.about(tenant)
            yield execute

    @contextmanager
    def reading(self, tenant: str = "") -> Iterator[Execute]:
        with self.writing(tenant) as execute:
            yield execute

    @contextmanager
    def alone(self, lock: int) -> Iterator[Execute | None]:
        with self._explained(), psycopg.connect(self._url, autocommit=True) as connection:
            execute = _Executing(connection)
            # Of a host that is gone without a word, the server would keep the lock for hours.
            for name, value in _ALIVE:
                execute("SELECT set_config(?, ?, false)", (name, value))
            [(granted,)] = execute("SELECT pg_try_advisory_lock(?)", (lock,))
            yield execute if granted else None

    def migrate(self) -> None:
        from control_plane.store.migrate import migrate_postgresql

        migrate_postgresql(self._url)
        # Its connections are from now on of the role that sees one tenant at a time.
        with self._explained():
            self._pool.close()
            self._pool = self._open(_as_tenant)

    def close(self) -> None:
        self._pool.close()


class _Executing:
    """In a pipeline ``later`` waits for no answer: a round trip less for each."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def __call__(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement.replace("?", "%s"), values).fetchall()

    def later(self, statement: str, values: Sequence[Value] = ()) -> None:
        self._connection.execute(statement.replace("?", "%s"), values)

    def about(self, tenant: str) -> None:
        # For this transaction alone: what a session sets would be seen by the next that has the connection.
        self.later("SELECT set_config('app.tenant', ?, true)", (tenant,))
