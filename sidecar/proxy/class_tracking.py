"""The class of a connection: chosen when it is dialled, and again by a request, or by a new policy.

The part of :class:`sidecar.proxy.connection.Connection` that knows which class it is in, and what was counted for
which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from socket import SocketType
from typing import TYPE_CHECKING, Final

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.http1_requests import Http1Cutter
from datapath.protocols.http2_late import FirstRequestCutter, is_unnamed
from datapath.protocols.http2_requests import Http2Cutter
from datapath.protocols.requests import SWITCHED, Beyond, Cutter, Request
from datapath.sockets import SocketAddress
from sidecar.transport.direction import Direction
from sidecar.transport.kernel_sockets import Edge, Original
from sidecar.transport.observer import Outcome
from sidecar.transport.paced_direction import hold
from sidecar.transport.states import Event, State
from traffic_policy.policy import Bound, Requests

if TYPE_CHECKING:
    from sidecar.proxy.context import Proxy

UNDETECTED: Final = Detection(Protocol.OPAQUE, Reason.NOT_THIS)
"""For connections whose first bytes were not looked at, because they could not decide anything."""
_CUTTERS: Final[dict[Protocol, Callable[[], Cutter]]] = {Protocol.HTTP1: Http1Cutter, Protocol.HTTP2: Http2Cutter}
_CLOSED: Final = State.CLOSED
_NONE_TOLD: Final = (0, 0)


class Classed(ABC):
    """What a connection has to do with its class."""

    __slots__ = (
        "class_name",
        "client",
        "client_address",
        "detection",
        "doubtful",
        "down",
        "edge",
        "original",
        "proxy",
        "state",
        "told",
        "up",
        "upstream",
    )

    def __init__(
        self, proxy: Proxy, edge: Edge, client: SocketType, address: SocketAddress, original: Original
    ) -> None:
        self.proxy = proxy
        self.edge = edge
        self.client = client
        self.client_address = address
        self.original = original
        self.state = State.DETECTING
        self.detection = UNDETECTED
        self.class_name: str | None = None
        self.upstream: SocketType | None = None
        self.up: Direction | None = None
        self.down: Direction | None = None
        self.doubtful = False  # nobody can say where its requests begin
        self.told = _NONE_TOLD  # bytes up and down that were counted for classes it had before

    @abstractmethod
    def end(self, event: Event, outcome: Outcome) -> None:
        """End it now, with a reset to both sides."""

    @property
    def bytes_up(self) -> int:
        """Bytes of the client that the server's socket took."""
        return self.up.count if self.up is not None else 0

    @property
    def bytes_down(self) -> int:
        """Bytes of the server that the client's socket took."""
        return self.down.count if self.down is not None else 0

    def follows(self) -> bool:
        """Whether its requests are looked at: each, or the first one that did not come in time."""
        return self._requests_may_differ() or is_unnamed(self.detection)

    def cutter(self) -> Cutter:
        """What finds the requests of one that :meth:`follows`."""
        return _CUTTERS[self.detection.protocol]() if self._requests_may_differ() else FirstRequestCutter()

    def _requests_may_differ(self) -> bool:
        return self.detection.protocol in _CUTTERS and self.proxy.routing.requests_may_differ(
            self.original.destination, self.client_address
        )

    def begins(self, what: Request | Beyond) -> bool:
        """The client's next byte begins a request, or what cannot be followed; False: it is not to be sent."""
        proxy = self.proxy
        if what is SWITCHED:
            return True  # it stays in the class of the request that asked for it
        before = self.detection
        if isinstance(what, Request):
            self.detection = before._replace(reason=Reason.FOUND, host=what.host)
        elif not self._requests_may_differ():
            return True  # only its first request was to tell
        else:
            proxy.observer.doubted()
            if proxy.routing.table.requests is Requests.FOLLOW_STRICTLY:
                self.end(Event.CUT, Outcome.AMBIGUOUS)
                return False
            self.doubtful = True
        name = self._class_now()
        if name == self.class_name:
            return True
        settled = before.protocol is Protocol.HTTP2 and not is_unnamed(before)
        if settled and not self.doubtful and not self._is_stricter(name):
            # Its streams share the socket: the connection belongs to the strictest of the requests that it has carried.
            self.detection = before
            return True
        self.reroute()
        return True

    def _is_stricter(self, name: str) -> bool:
        strictness = self.proxy.routing.table.strictness
        # A class that is gone (a reload has not come here yet) holds nothing.
        return self.class_name not in strictness or strictness.index(name) < strictness.index(self.class_name)

    def _class_now(self) -> str:
        routing, destination = self.proxy.routing, self.original.destination
        if self.doubtful:
            return routing.strictest(destination, self.client_address)
        return routing.class_of(destination, self.client_address, self.detection)

    def reroute(self) -> bool:
        """Choose the class anew, by the routing in force now, for what is sent from now on; whether it is another.

        By what is known: first bytes that were not looked at then cannot decide now. Raises OSError when the mark
        cannot be set; then all is as before.
        """
        old = self.class_name
        if old is None or self.state is _CLOSED:
            return False
        proxy = self.proxy
        routing = proxy.routing
        name = self._class_now()
        if self.upstream is not None:
            # Also when the name is the same: its mark may not be.
            self.edge.remark(self.upstream, routing.mark_of(name), self.client)
        if name == old:
            return False
        up, down = now = self.bytes_up, self.bytes_down
        told_up, told_down = self.told
        proxy.observer.moved(old, name, self.detection.protocol, up - told_up, down - told_down)
        self.class_name, self.told = name, now
        return True

    def be_held(self) -> None:
        """Keep to the limits for what is received from the network, as long as there are any."""
        receiving = self.down if self.original.destination.bound is Bound.OUTBOUND else self.up
        if receiving is not None:
            hold(receiving, held=self.proxy.shop.pacer.holds)
