"""Exceptions of the agent's connection to a control plane. Each message names the fault and its remedy."""

from __future__ import annotations

from typing import Final

from traffic_policy.errors import PodlaneError

_REFUSALS: Final = (7, 16)
"""PERMISSION_DENIED and UNAUTHENTICATED (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md)."""


class CallEndedError(Exception):
    """A call is over. ``status`` is gRPC's code: 0 is none of a failure."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message or f"gRPC status {status}")

    @property
    def refused(self) -> bool:
        """Whether the control plane will not have this agent: asking again soon is of no use."""
        return self.status in _REFUSALS


class UnreachableError(Exception):
    """There is no connection to a control plane. The message has the reason."""


class EnrolmentError(PodlaneError):
    """The agent has no certificate, and no way to get one."""
