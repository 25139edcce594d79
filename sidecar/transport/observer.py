"""What the data path tells the outside: plain facts, by synchronous calls that must be cheap and must not raise."""

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
    """Both sides sent FIN, everything was handed on."""
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
    """Quiet for longest when all places were taken and others waited."""
    AMBIGUOUS = "ambiguous"
    """Nobody could say where its requests begin, and the policy wants each of them followed."""
    CUT = "cut"
    """Still open when the grace period of a drain ended."""
    FAULT = "fault"
    """A mistake in this program."""


class Refusal(enum.StrEnum):
    """Why a connection was turned away before it had a class."""

    NOT_DIVERTED = "not-diverted"
    """It was meant for the listener itself."""
    NO_DESCRIPTORS = "no-descriptors"
    """accept(2) had no descriptor or memory; the kernel keeps the connection, it is tried again."""


class ConnectionSummary(NamedTuple):
    """A finished connection that had a class. Bytes are those handed on, ``seconds`` are from accept to close."""

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
    """Of its bytes, those that :meth:`Observer.moved` told of already."""
    waited: float = 0.0
    """Seconds in which bytes waited because the socket that is shaped took no more; 0 when nobody wants to know."""


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
    """Who wants to know. Every ``routed`` is followed by exactly one ``closed``, perhaps with ``moved`` in between."""

    def detected(self, detection: Detection, seconds: float) -> None:
        """Detection ended, ``seconds`` after accepting. Not called when there was nothing to detect."""

    def routed(self, class_name: str, protocol: WireProtocol) -> None:
        """The class is chosen, the server is about to be dialled."""

    def moved(self, old: str, new: str, protocol: WireProtocol, bytes_up: int, bytes_down: int) -> None:
        """A connection has another class from now on; what it carried in the old one, since it came there."""

    def doubted(self) -> None:
        """Of a connection whose requests are followed nobody can say any more where the next one begins."""

    def refused(self, reason: str) -> None:
        """A connection came to nothing: a :class:`Refusal`, or the :class:`ConnectionOutcome` of one that was never
        relayed."""

    def closed(self, summary: ConnectionSummary) -> None:
        """A routed connection ended."""

    def lost_lines(self, count: int) -> None:
        """So many lines of the access log could not be kept or written. Comes from any thread."""


class NullObserver:
    """Takes note of nothing."""

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
