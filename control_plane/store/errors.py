"""Exceptions of the event store. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class StoreError(PodlaneError):
    """The database cannot be reached, read or written."""


class StaleError(PodlaneError):
    """Others have written since the state was read: read on, and decide again."""


class KeyReusedError(PodlaneError):
    """An idempotency key was used for another request."""


class ChainError(PodlaneError):
    """The log of a tenant is not what was written. ``position`` is the first one at which that shows."""

    def __init__(self, tenant: str, position: int, what: str) -> None:
        self.position = position
        super().__init__(
            f"The log of tenant {tenant} was altered: {what} Restore a backup, and find out who wrote to the database."
        )


class BackupError(PodlaneError):
    """A backup cannot be written, read, or restored here."""
