"""Sessions of browsers. They are of no tenant: a user may have roles in several."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.store.database import Database


@dataclass(frozen=True, slots=True)
class StoredSession:
    """``id`` is a digest, ``sealed`` ciphertext: who reads the table can use neither. Times are Unix seconds."""

    id: str
    document: str
    sealed: str
    fresh_until: int
    ends_at: int


class SessionTable:
    """Any thread and any number of processes may use it. Blocks, and raises
    :class:`~control_plane.store.errors.StoreError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, session: StoredSession, now: int) -> None:
        """Add or replace one, and forget those that have ended."""
        with self._database.writing() as execute:
            execute.later("DELETE FROM sessions WHERE ends_at <= ?", (now,))
            execute.later("DELETE FROM sessions WHERE id = ?", (session.id,))
            execute.later(
                "INSERT INTO sessions (id, document, sealed, fresh_until, ends_at) VALUES (?, ?, ?, ?, ?)",
                (session.id, session.document, session.sealed, session.fresh_until, session.ends_at),
            )

    def get(self, id: str, now: int) -> StoredSession | None:
        """None: there is none, or it has ended."""
        with self._database.reading() as execute:
            rows = execute(
                "SELECT id, document, sealed, fresh_until, ends_at FROM sessions WHERE id = ? AND ends_at > ?",
                (id, now),
            )
        return StoredSession(*rows[0]) if rows else None

    def remove(self, id: str) -> None:
        with self._database.writing() as execute:
            execute.later("DELETE FROM sessions WHERE id = ?", (id,))
