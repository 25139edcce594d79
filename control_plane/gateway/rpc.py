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
    """A stream of messages with one agent. To be used in the gateway's thread alone. Once ended, it does nothing."""

    @property
    def peer(self) -> Peer: ...

    @property
    def unsent(self) -> int:
        """Bytes that wait for the agent to take them."""

    def send(self, message: bytes) -> None:
        """Send a message with its header, as :func:`fleet_api.framing.frame` makes it once for all who get it.

        It is kept, not copied, until the agent takes it. Look at :attr:`unsent` first: with more than 8 MiB the call is
        reset.
        """

    def end(self, status: GrpcStatus = GrpcStatus.OK, message: str = "") -> None:
        """End the call after what was sent; :meth:`CallListener.closed` is called soon, not within this."""


class CallListener(Protocol):
    """Who hears what a call brings. :class:`RpcError` from ``received`` and ``drained`` ends the call.

    When the agent ends its side, the call is ended with OK.
    """

    def received(self, message: bytes) -> None:
        """The next message."""

    def drained(self) -> None:
        """All that was sent has left: :attr:`Call.unsent` is 0 again."""

    def closed(self) -> None:
        """It is over; called once."""


class CallHandler(Protocol):
    """What answers at the agents' port. Called in the gateway's thread, and must not block it.

    Any other exception than :class:`RpcError` is logged as a fault and costs the agent its connection.
    """

    def unary(self, method: str, peer: Peer, request: bytes, reply: Callable[[bytes | RpcError], None]) -> None:
        """Answer a call with one message, now or later, by ``reply``, which any thread may call; the first one counts.

        Also asked for methods that do not exist, and by who has no certificate. May raise :class:`RpcError`.
        """

    def opened(self, method: str, call: Call) -> CallListener:
        """A stream of messages begins, with an agent that has a certificate. Raises :class:`RpcError` to refuse it."""
