"""Accepts connections in bounded batches, while there is room.

When the proxy is full it stops polling its listeners; the kernel's backlog then holds new connections, and when that is
full, clients' SYNs wait. No connection is refused; :mod:`sidecar.proxy.idle_eviction` makes room.

The path of a connection through the modules begins here:

1. It is accepted here,
2. and adopted by the server (:mod:`sidecar.proxy.server`),
3. which asks for the original destination; later it dials there and marks what is sent
   (:mod:`sidecar.transport.kernel_sockets`).
4. A connection object is made (:mod:`sidecar.proxy.connection`), which takes all further steps in order.
5. It asks the routing in force whether a name could decide, and later for the class (:mod:`datapath.routing.cached`).
6. The routing evaluates its table for what is not cached (:mod:`datapath.routing.table`).
7. The first bytes are read (:mod:`sidecar.proxy.sniffer`),
8. their protocol is detected (:mod:`datapath.protocols.detect`)
9. and parsed: :mod:`~datapath.protocols.client_hello`, :mod:`~datapath.protocols.http1` or
   :mod:`~datapath.protocols.http2`.
10. The class is chosen (:mod:`sidecar.proxy.class_tracking`).
11. Once the server is dialled there are two directions (:mod:`sidecar.transport.pair`),
12. which move the bytes (:mod:`sidecar.transport.direction`).
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from socket import SocketType
from typing import Final

from datapath.sockets import SocketAddress
from sidecar.transport.loop import EventLoop
from sidecar.transport.observer import Refusal

ACCEPT_BATCH: Final = 16
"""Connections accepted per event, so that a burst does not delay existing connections: each new one is usually read,
routed and dialled at once, so this is a millisecond."""
RETRY_S: Final = 0.1
"""Seconds to wait after accept(2) failed for lack of descriptors or memory, unless a connection closes earlier."""
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of calls that create a socket when resources are exhausted."""
# accept(2), "Error handling": Linux passes pending network errors of the new connection on; continue with the next.
_THIS_ONE_ONLY: Final = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET}
    | {errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM}
)
_NON_BLOCKING_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


class Acceptor:
    """A listener in the loop. Level-triggered: connections left by a batch are reported again."""

    def __init__(
        self,
        loop: EventLoop,
        listener: SocketType,
        adopt: Callable[[SocketType, SocketAddress], None],
        has_room: Callable[[], bool],
        make_room: Callable[[], bool],
        exhausted: Callable[[Acceptor, Refusal], None],
    ) -> None:
        self._loop = loop
        self.listener = listener
        self._adopt = adopt
        self._has_room = has_room
        self._make_room = make_room
        self._exhausted = exhausted
        self.paused = False
        loop.watch(listener.fileno(), self, select.EPOLLIN)

    def on_events(self, events: int) -> None:  # noqa: ARG002 (only one kind is registered)
        """Accept a batch. If the proxy is full, make room for one connection: there may be no second."""
        if not self._has_room() and not self._make_room():
            self.pause()
        else:
            self.accept(ACCEPT_BATCH)

    def on_turn(self) -> None:
        """Not used: the level trigger brings the next batch."""

    def crashed(self, error: Exception) -> None:
        """A listener that cannot accept ends the server, not just one connection."""
        raise error

    def accept(self, limit: int) -> int:
        """Accept up to ``limit`` connections; return the number accepted."""
        listener = self.listener
        family = listener.family
        for accepted in range(limit):
            if not self._has_room():
                return accepted  # if more are waiting, another event follows
            try:
                # What socket.socket.accept() calls; without its second Python-level socket object it takes half the
                # time.
                descriptor, address = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return accepted
            except OSError as error:
                if error.errno in _THIS_ONE_ONLY:
                    continue
                if error.errno not in EXHAUSTED:
                    raise
                self.pause()
                self._exhausted(self, Refusal.NO_DESCRIPTORS)
                return accepted
            client = SocketType(family, _NON_BLOCKING_STREAM, 0, descriptor)
            client.setblocking(False)
            self._adopt(client, address)
        return limit

    def pause(self) -> None:
        """Leave new connections to the kernel's backlog."""
        if not self.paused:
            self.paused = True
            self._loop.set_events(self.listener.fileno(), 0)

    def resume(self) -> None:
        """Accept again."""
        if self.paused:
            self.paused = False
            self._loop.set_events(self.listener.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Stop listening; the kernel resets the connections in the backlog unless another process has the listener
        open."""
        self._loop.unwatch(self.listener.fileno())
        self._loop.close_deferred(self.listener)
