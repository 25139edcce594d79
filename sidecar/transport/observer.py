"""The events that the data path reports, by synchronous calls that must be cheap and must not raise."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from datapath.protocols.detect import Detection
from datapath.protocols.detect import Protocol as WireProtocol
from datapath.routing.flow import Destination
from datapath.sockets import SocketAddress
from sidecar.transport.states import ConnectionState


class ConnectionOutcome(enum.StrEnum):
    """How a connection ended."""

    COMPLETE = "complete"
    """Both sides sent FIN, and all bytes were relayed."""
    CLIENT_RESET = "client-reset"
    SERVER_RESET = "server-reset"
    REFUSED = "refused"
    """The server refused the connection (RST or an ICMP error)."""
    UNREACHABLE = "unreachable"
    CONNECT_TIMEOUT = "connect-timeout"
    LOCAL_ERROR = "local-error"
    """This machine could not dial: no ephemeral port, no descriptor, no memory, forbidden."""
    IDLE = "idle"
    """No byte for the idle timeout."""
    CROWDED_OUT = "crowded-out"
    """Idle longest when all places were taken and new connections waited."""
    AMBIGUOUS = "ambiguous"
    """The beginning of a request could not be determined, and the policy requires each request to be followed."""
    CUT = "cut"
    """Still open when the grace period of a drain ended."""
    FAULT = "fault"
    """A bug in this program."""


class Refusal(enum.StrEnum):
    """The reason for closing a connection before it had a class."""

    NOT_DIVERTED = "not-diverted"
    """It was meant for the listener itself."""
    NO_DESCRIPTORS = "no-descriptors"
    """accept(2) had no descriptor or memory; the kernel keeps the connection, and accepting is retried."""


class ConnectionSummary(NamedTuple):
    """A finished connection that had a class. Bytes are those relayed, ``seconds`` are from accept to close."""

    client: SocketAddress
    destination: Destination
    class_name: str
    detection: Detection
    bytes_up: int
    bytes_down: int
    seconds: float
    outcome: ConnectionOutcome
    told_up: int = 0
    told_down: int = 0
    """The part of its bytes already reported by :meth:`Observer.moved`."""
    waited: float = 0.0
    """Seconds in which bytes waited because the shaped socket was full; 0 if this is not measured."""


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A live connection, for ``/classes`` and diagnosis."""

    client: SocketAddress
    destination: Destination
    state: ConnectionState
    class_name: str | None
    detection: Detection
    bytes_up: int
    bytes_down: int
    seconds: float


class Observer(Protocol):
    """Receives the events. Every ``routed`` is followed by exactly one ``closed``, possibly with ``moved`` in
    between."""

    def detected(self, detection: Detection, seconds: float) -> None:
        """Detection ended, ``seconds`` after accept. Not called if there was nothing to detect."""

    def routed(self, class_name: str, protocol: WireProtocol) -> None:
        """The class is chosen, the server is about to be dialled."""

    def moved(self, old: str, new: str, protocol: WireProtocol, bytes_up: int, bytes_down: int) -> None:
        """A connection has changed its class; the bytes are those of the old class since the last change."""

    def doubted(self) -> None:
        """The beginning of the next request of a followed connection can no longer be determined."""

    def refused(self, reason: str) -> None:
        """A connection was closed early: a :class:`Refusal`, or the :class:`ConnectionOutcome` of one that was never
        relayed."""

    def closed(self, summary: ConnectionSummary) -> None:
        """A routed connection ended."""

    def lost_lines(self, count: int) -> None:
        """This number of access log lines could not be buffered or written. May be called from any thread."""


class NullObserver:
    """Ignores all events."""

    def detected(self, detection: Detection, seconds: float) -> None:
        """Nothing."""

    def routed(self, class_name: str, protocol: WireProtocol) -> None:
        """Nothing."""

    def moved(self, old: str, new: str, protocol: WireProtocol, bytes_up: int, bytes_down: int) -> None:
        """Nothing."""

    def doubted(self) -> None:
        """Nothing."""

    def refused(self, reason: str) -> None:
        """Nothing."""

    def closed(self, summary: ConnectionSummary) -> None:
        """Nothing."""

    def lost_lines(self, count: int) -> None:
        """Nothing."""
