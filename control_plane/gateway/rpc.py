"""What the agents' port and what answers there know of each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class GrpcStatus(IntEnum):
    """https://github.com/grpc/grpc/blob/master/doc/statuscodes.md"""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """Ends a call with this status. The message is for who operates the agent: what is wrong, and the remedy."""

    def __init__(self, status: GrpcStatus, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who has connected. ``certificate`` is DER, checked against the roots; empty: it has shown none."""

    address: str
    certificate: bytes = b""


class Call(Protocol):
    """A stream of messages with one agent. To be used in the gateway's thread alone."""

    @property
    def peer(self) -> Peer: ...

    @property
    def unsent(self) -> int:
        """Bytes that wait for the agent to take them."""

    def send(self, message: bytes) -> None:
        """Send a message with its header, as :func:`fleet_api.framing.frame` makes it once for all who get it."""

    def end(self, status: GrpcStatus = GrpcStatus.OK, message: str = "") -> None:
        """End the call; :meth:`CallListener.closed` is called."""


class CallListener(Protocol):
    """Who hears what a call brings. Raising :class:`RpcError` ends the call."""

    def received(self, message: bytes) -> None:
        """The next message."""

    def drained(self) -> None:
        """All that was sent has been taken."""

    def closed(self) -> None:
        """It is over; called once."""


class CallHandler(Protocol):
    """What answers at the agents' port. Called in the gateway's thread, and must not block it."""

    def unary(self, method: str, peer: Peer, request: bytes, reply: Callable[[bytes | RpcError], None]) -> None:
        """Answer a call with one message, now or later, by ``reply``, which any thread may call."""

    def opened(self, method: str, call: Call) -> CallListener:
        """A stream of messages begins. Raises :class:`RpcError` to refuse it."""
