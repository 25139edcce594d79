"""Sockets of inbound connections: from the client's address to the program's loopback address.

The program must see its client's address, and the client the Pod's. So the upstream socket is transparent: it is bound
to the client's own address and port (ip(7), IP_TRANSPARENT), and connects to 127.0.0.1 or ::1 on the original port. It
cannot connect to the Pod's address: that connection would have the same 4-tuple as the client's own, by which the
kernel identifies connections. The program's answer comes back by a policy route (:mod:`datapath.netfilter.inbound`).

The answer is shaped, so the class mark goes on the *accepted* socket.
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
"""linux/in.h: the port is chosen at connect(2), where it must be free for this one destination only."""
_TAKEN: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})


class InboundSockets(TransparentSockets):
    """TPROXY listeners for inbound connections, and transparent dials to loopback."""

    def __init__(self, inherited: Sequence[SocketType] = (), listeners: Listeners | None = None) -> None:
        """``inherited``: listeners that are already open."""
        super().__init__(inherited)
        self._here = listeners if listeners is not None else Listeners()

    def _open(self, port: int, families: Sequence[int]) -> list[SocketType]:
        # The receive window of a remote client must fit the round-trip time, so the kernel sizes it.
        return transparent_listeners(port, families, near=False)

    def _original_destination(self, address: SocketAddress) -> OriginalDestination:
        return _original(address)

    def dial(self, original: OriginalDestination, mark: int, client: SocketType, *, speaks: bool) -> SocketType:
        """Mark what is sent to the client, then connect(2) from the client's address to the program.

        Raises OSError; ECONNREFUSED also for a port that is excluded.
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
        # An earlier connection of this client still has the port.
        return _dial_from((peer[0], 0, *peer[2:]), port, client.family, speaks=speaks)

    def change_mark(self, upstream: SocketType, mark: int, client: SocketType) -> None:  # noqa: ARG002
        """Change the class of what is sent to the client from now on."""
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
    """Cached, as for outbound connections: a Pod has few ports."""
    return OriginalDestination(Destination.parse(address[0], address[1], bound=Bound.INBOUND), address)
