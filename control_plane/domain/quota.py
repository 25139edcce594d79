"""How much a tenant may have. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from control_plane.domain.errors import InvalidError, StateConflictError

_MOST: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class TenantQuota:
    """``agents`` and ``policies`` (those with a draft or a revision in force) at most; None: as many as it likes.

    What is there already stays, also beyond a quota that was lowered.
    """

    agents: int | None = None
    policies: int | None = None

    def check(self) -> None:
        """Raises :class:`InvalidError` for numbers that are none."""
        if any(each is not None and not 0 <= each <= _MOST for each in (self.agents, self.policies)):
            raise InvalidError(
                f"A quota is a number from 0 to {_MOST}.", "Write one, or leave it out: without a limit."
            )

    def allow_agent(self, tenant: str, there: int) -> None:
        """Whether one more may join. Raises :class:`StateConflictError`."""
        _allow(self.agents, tenant, there, "agents", "Revoke agents that are gone")

    def allow_policy(self, tenant: str, there: int) -> None:
        """Whether there may be one policy more. Raises :class:`StateConflictError`."""
        _allow(self.policies, tenant, there, "policies", "Remove policies that nobody needs")


NO_QUOTA: Final = TenantQuota()


def _allow(most: int | None, tenant: str, there: int, what: str, instead: str) -> None:
    if most is not None and there >= most:
        raise StateConflictError(
            f"The quota of the tenant {tenant} for {what} is {most}, and it has {there}.",
            f"{instead}, or ask the platform's administrators for a higher quota.",
        )
