"""The edge of connections that clients open towards us: from the client's address to the program's loopback address.

The program shall see its client's address, and the client the Pod's. So the upstream socket is transparent: it is
bound to the client's own address and port (ip(7), IP_TRANSPARENT), and connects to 127.0.0.1 or ::1 on the port that
the client meant. Why there and not to the Pod's address: that connection would have the very addresses of the client's
own, and the kernel tells connections apart by nothing else. What the program answers comes back by a policy route
(:mod:`datapath.netfilter.inbound`).

What is shaped is the answer, so the class mark goes on the *accepted* socket.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from functools import lru_cache
from socket import SocketType
from typing import Final

from datapath.routing.flow import Destination
from datapath.sock_diag import Listeners
from datapath.sockets import (
    IPV6_TRANSPARENT,
    SocketAddress,
    delay_handshake_ack,
    limit_received,
    set_mark,
    set_nodelay,
    stream_socket,
)
from sidecar.transport.kernel_sockets import (
    LISTENER_ADDRESSES,
    RECEIVED_LIMIT,
    OriginalDestination,
    TransparentSockets,
    connect,
    transparent_listeners,
)
from traffic_policy.marks import OWN
from traffic_policy.policy import Bound

_IP_BIND_ADDRESS_NO_PORT: Final = 24
"""linux/in.h: the port is chosen at connect(2), where it has to be free for this one destination only."""
_TAKEN: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})


class InboundSockets(TransparentSockets):
    """TPROXY listeners for what comes in, and transparent dials to loopback."""

    def __init__(self, inherited: Sequence[SocketType] = (), listeners: Listeners | None = None) -> None:
        """``inherited``: listeners that are open already."""
        super().__init__(inherited)
        self._here = listeners if listeners is not None else Listeners()

    def _open(self, port: int, families: Sequence[int]) -> list[SocketType]:
        # The window of a client at the network's other end must fit the distance, so it is left to the kernel.
        return transparent_listeners(port, families, near=False)

    def _original_destination(self, address: SocketAddress) -> OriginalDestination:
        return _original(address)

    def dial(self, original: OriginalDestination, mark: int, client: SocketType, *, speaks: bool) -> SocketType:
        """Mark what the client will get, then connect(2) from its address to the program.

        Raises OSError: ECONNREFUSED also for a port that is apart.
        """
        port = original.address[1]
        if port in self._here.apart():
            raise OSError(errno.ECONNREFUSED, f"port {port} has another listener on loopback than elsewhere")
        set_mark(client, mark)
        peer = client.getpeername()
        try:
            return _dial_from(peer, port, client.family, speaks=speaks)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        # Some other connection of this client has the port: an earlier one that has not quite ended.
        return _dial_from((peer[0], 0, *peer[2:]), port, client.family, speaks=speaks)

    def change_mark(self, upstream: SocketType, mark: int, client: SocketType) -> None:  # noqa: ARG002
        """What is sent to the client is in another class from now on."""
        set_mark(client, mark)


def _dial_from(source: SocketAddress, port: int, family: int, *, speaks: bool) -> SocketType:
    upstream = stream_socket(family)
    try:
        if family == socket.AF_INET6:
            upstream.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            upstream.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if source[1] == 0:
            upstream.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        set_mark(upstream, OWN.value)
        set_nodelay(upstream)
        limit_received(upstream, RECEIVED_LIMIT)
        if speaks:
            delay_handshake_ack(upstream)
        upstream.bind(source)
        connect(upstream, (LISTENER_ADDRESSES[socket.AddressFamily(family)], port))
    except BaseException:
        upstream.close()
        raise
    return upstream


@lru_cache(maxsize=1024)
def _original(address: SocketAddress) -> OriginalDestination:
    """Cached, as outbound: a Pod has few ports."""
    return OriginalDestination(Destination.parse(address[0], address[1], bound=Bound.INBOUND), address)
