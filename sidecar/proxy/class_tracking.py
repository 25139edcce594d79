"""The class of a connection: chosen when it is dialled, and again by a request, or by a new policy.

A :class:`ClassTracking` knows which class a connection has, and why. It touches no socket: the connection it belongs to
(:mod:`sidecar.proxy.connection`) sets the mark.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.http1_requests import Http1Cutter
from datapath.protocols.http2_requests import FirstRequestCutter, Http2Cutter, is_unnamed
from datapath.protocols.requests import SWITCHED, Beyond, Cutter, Request
from datapath.routing.flow import Destination
from datapath.sockets import SocketAddress
from sidecar.proxy.context import ConnectionContext
from traffic_policy.policy import Requests

UNDETECTED: Final = Detection(Protocol.OPAQUE, Reason.NOT_THIS)
"""For connections whose first bytes were not looked at, because they could not decide anything."""
_CUTTERS: Final[dict[Protocol, Callable[[], Cutter]]] = {Protocol.HTTP1: Http1Cutter, Protocol.HTTP2: Http2Cutter}
_NONE_COUNTED: Final = (0, 0)


class Change(enum.Enum):
    """What a request does to the class of its connection."""

    NONE = enum.auto()
    """It stays."""
    OTHER = enum.auto()
    """The request belongs to another class."""
    REFUSED = enum.auto()
    """Nobody can say where the next request begins, and the policy wants each of them followed."""


class ClassTracking:
    """The class of one connection, what it follows from, and what was counted for which.

    ``name`` is None until it is chosen. ``told``: bytes up and down that were counted for classes it had before.
    """

    __slots__ = ("_client", "_context", "_destination", "_doubtful", "counted", "detection", "name")

    def __init__(self, context: ConnectionContext[Any], destination: Destination, client: SocketAddress) -> None:
        self._context = context
        self._destination = destination
        self._client = client
        self._doubtful = False  # nobody can say where its requests begin
        self.detection = UNDETECTED
        self.name: str | None = None
        self.counted = _NONE_COUNTED

    def detected(self, detection: Detection, seconds: float) -> None:
        """The first bytes have been read, ``seconds`` after the connection was accepted."""
        self.detection = detection
        self._context.observer.detected(detection, seconds)

    def choose(self) -> None:
        """Choose the class for the first time."""
        context = self._context
        self.name = context.routing.class_of(self._destination, self._client, self.detection)
        context.observer.routed(self.name, self.detection.protocol)

    def follows(self) -> bool:
        """Whether its requests are looked at: each, or the first one that did not come in time."""
        return self._requests_may_differ() or is_unnamed(self.detection)

    def cutter(self) -> Cutter:
        """What finds the requests of one that :meth:`follows`."""
        return _CUTTERS[self.detection.protocol]() if self._requests_may_differ() else FirstRequestCutter()

    def _requests_may_differ(self) -> bool:
        return self.detection.protocol in _CUTTERS and self._context.routing.requests_may_differ(
            self._destination, self._client
        )

    def begins(self, what: Request | Beyond) -> Change:
        """The client's next byte begins a request, or what cannot be followed."""
        if what is SWITCHED:
            return Change.NONE  # it stays in the class of the request that asked for it
        before = self.detection
        if isinstance(what, Request):
            self.detection = before._replace(reason=Reason.FOUND, host=what.host)
        elif not self._requests_may_differ():
            return Change.NONE  # only its first request was to tell
        else:
            self._context.observer.doubted()
            if self._context.routing.table.requests is Requests.FOLLOW_STRICTLY:
                return Change.REFUSED
            self._doubtful = True
        name = self.now()
        if name == self.name:
            return Change.NONE
        settled = before.protocol is Protocol.HTTP2 and not is_unnamed(before)
        if settled and not self._doubtful and not self._is_stricter(name):
            # Its streams share the socket: the connection belongs to the strictest of the requests that it has carried.
            self.detection = before
            return Change.NONE
        return Change.OTHER

    def _is_stricter(self, name: str) -> bool:
        strictness = self._context.routing.table.strictness
        # A class that is gone (a reload has not come here yet) holds nothing.
        return self.name not in strictness or strictness.index(name) < strictness.index(self.name)

    def now(self) -> str:
        """The class by the routing in force now, and by what is known: first bytes that were not looked at when the
        connection was opened cannot decide any more."""
        routing = self._context.routing
        if self._doubtful:
            return routing.strictest(self._destination, self._client)
        return routing.class_of(self._destination, self._client, self.detection)

    def move(self, name: str, carried: tuple[int, int]) -> bool:
        """Count what comes from now on for this class; whether it is another. ``carried``: bytes up and down so far."""
        old = self.name
        if old is None or name == old:
            return False
        (up, down), (told_up, told_down) = carried, self.counted
        self._context.observer.moved(old, name, self.detection.protocol, up - told_up, down - told_down)
        self.name, self.counted = name, carried
        return True
