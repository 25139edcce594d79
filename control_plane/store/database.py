"""What the event store needs of a database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

Value = str | int


class Execute(Protocol):
    """Runs statements with ``?`` for their values, one after the other."""

    def __call__(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """Run one that has rows, and return them all."""

    def later(self, statement: str, values: Sequence[Value] = ()) -> None:
        """Run one that has none, without waiting for it: if it fails, the next call does, or the transaction's end."""

    def about(self, tenant: str) -> None:
        """From here on the transaction is about this tenant."""


class Database(Protocol):
    """Any thread may use it. Everything blocks, and raises :class:`~control_plane.store.errors.StoreError`.

    A transaction is about one tenant. PostgreSQL shows it no rows of others: without a tenant only ``heads``.
    """

    shared: bool
    """Whether several processes are meant to use it at once."""

    def writing(self, tenant: str = "") -> AbstractContextManager[Execute]:
        """A transaction, on disk when it ends; an exception takes it back."""

    def reading(self, tenant: str = "") -> AbstractContextManager[Execute]:
        """Statements that change nothing."""

    def alone(self, lock: int) -> AbstractContextManager[Execute | None]:
        """Statements that are each a transaction, by the one process that holds this lock; None: another has it.

        Once the lock is lost they fail.
        """

    def migrate(self) -> None:
        """Bring the tables to this version, by one transaction. Several processes may do so at once."""

    def close(self) -> None:
        """Give all connections back."""
