"""The class of a connection: chosen when it is dialled, and again by a request or a new policy.

:class:`ClassTracking` holds the class of a connection and the reason for it. It touches no socket; the connection
(:mod:`sidecar.proxy.connection`) sets the mark.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final

from datapath.protocols.client_hello import ClientHello
from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.http1_requests import Http1Cutter
from datapath.protocols.http2_requests import FirstRequestCutter, Http2Cutter, is_unnamed
from datapath.protocols.requests import Beyond, Cutter, Request
from datapath.routing.flow import Destination
from datapath.sockets import SocketAddress
from sidecar.proxy.context import ConnectionContext
from traffic_policy.policy import Requests

UNDETECTED: Final = Detection(Protocol.OPAQUE, Reason.NOT_THIS)
"""For connections whose first bytes were not examined because they could not affect the class."""
_CUTTERS: Final[dict[Protocol, Callable[[], Cutter]]] = {Protocol.HTTP1: Http1Cutter, Protocol.HTTP2: Http2Cutter}
_NONE_COUNTED: Final = (0, 0)


class Change(enum.Enum):
    """The effect of a request on the class of its connection."""

    NONE = enum.auto()
    """The class stays."""
    OTHER = enum.auto()
    """The connection belongs to another class from now on."""
    LAXER = enum.auto()
    """The request belongs to a laxer class, which the connection may have once it has done with earlier requests."""
    REFUSED = enum.auto()
    """The beginning of the next request cannot be determined, and the policy requires each request to be followed."""


class ClassTracking:
    """The class of one connection, the reason for it, and the bytes counted per class.

    ``name`` is None until the class is chosen. ``counted``: bytes up and down counted for earlier classes. ``wanted``:
    the last request, if the connection has a stricter class because of earlier ones.

    **Never laxer at once.** The mark belongs to a socket, and what waits in it for an earlier request would change its
    class with it. So does the rest of an answer, where answers are shaped. With HTTP/2, where streams share the socket,
    and after a switch to another protocol, nobody knows when the connection has done with a request: it has the
    strictest class of all so far.
    """

    __slots__ = ("_client", "_context", "_destination", "_doubtful", "_stays", "counted", "detection", "name", "wanted")

    def __init__(self, context: ConnectionContext[Any], destination: Destination, client: SocketAddress) -> None:
        self._context = context
        self._destination = destination
        self._client = client
        self._doubtful = False  # the beginnings of its requests cannot be determined
        self._stays = False  # never gets laxer again
        self.detection = UNDETECTED
        self.wanted: Detection | None = None
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
        """Whether requests are followed: each one, or the first if it did not arrive in time."""
        return self._requests_may_differ() or is_unnamed(self.detection)

    def cutter(self) -> Cutter:
        """The parser that finds the requests of a connection that :meth:`follows`."""
        return _CUTTERS[self.detection.protocol]() if self._requests_may_differ() else FirstRequestCutter()

    def _requests_may_differ(self) -> bool:
        return self.detection.protocol in _CUTTERS and self._context.routing.requests_may_differ(
            self._destination, self._client
        )

    def begins(self, what: Request | Beyond) -> Change:
        """The client's next byte begins a request, or data that cannot be followed."""
        if isinstance(what, Request):
            before = self.detection
            if what.host == before.host and before.reason is Reason.FOUND and self.wanted is None:
                return Change.NONE  # as nearly always
            return self._asks(self.detection._replace(reason=Reason.FOUND, host=what.host))
        if not self._requests_may_differ():
            return Change.NONE  # only the first request decides
        self._context.observer.doubted()
        if self._context.routing.table.requests is Requests.FOLLOW_STRICTLY:
            return Change.REFUSED
        self._doubtful = True
        self.wanted = None
        return Change.NONE if self.now() == self.name else Change.OTHER

    def _asks(self, request: Detection) -> Change:
        name = self._context.routing.class_of(self._destination, self._client, request)
        if name == self.name or is_unnamed(self.detection) or self._is_stricter(name):
            self.detection, self.wanted = request, None
            return Change.NONE if name == self.name else Change.OTHER
        if self._stays or self.detection.protocol is Protocol.HTTP2:
            return Change.NONE
        self.wanted = request
        return Change.LAXER

    def settled(self) -> None:
        """The connection has done with all requests before the one that is ``wanted``: its class is due."""
        if self.wanted is not None:
            self.detection, self.wanted = self.wanted, None

    def stays(self) -> None:
        """From now on nobody knows when the connection has done with a request."""
        self._stays = True

    def hello_again(self, hello: ClientHello) -> Change:
        """The client has sent a second ClientHello: servers differ in which one counts, so the stricter class does."""
        before = self.detection
        self.detection = before._replace(sni=hello.sni, alpn=hello.alpn, ech=hello.ech)
        if self._is_stricter(self.now()):
            return Change.OTHER
        self.detection = before
        return Change.NONE

    def _is_stricter(self, name: str) -> bool:
        strictness = self._context.routing.table.strictness
        # A class that no longer exists (a reload is in progress) does not count.
        return self.name not in strictness or strictness.index(name) < strictness.index(self.name)

    def now(self) -> str:
        """The class by the routing in force now and the known properties. First bytes that were not examined when the
        connection was opened no longer count."""
        routing = self._context.routing
        if self._doubtful:
            return routing.strictest(self._destination, self._client)
        return routing.class_of(self._destination, self._client, self.detection)

    def move(self, name: str, carried: tuple[int, int]) -> bool:
        """Count further bytes for this class; return whether it is another. ``carried``: bytes up and down so far."""
        old = self.name
        if old is None or name == old:
            return False
        (up, down), (told_up, told_down) = carried, self.counted
        self._context.observer.moved(old, name, self.detection.protocol, up - told_up, down - told_down)
        self.name, self.counted = name, carried
        return True
