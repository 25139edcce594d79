"""The proxy's interface to the kernel: listening, finding the original destination, dialling.

:class:`KernelSockets` is the protocol that the proxy needs, :class:`TransparentSockets` its implementation with TPROXY
(Documentation/networking/tproxy.rst):

* The listeners are IP_TRANSPARENT, so the kernel hands them connections to any address, and getsockname(2) of an
  accepted socket is the client's original destination. A connection whose destination is the listener itself was not
  diverted: a client connected to the port, or the proxy to itself.
* The listeners carry the OWN mark and accepted sockets inherit it, SYN-ACKs included: nothing that is sent back to the
  client is ever captured.
* A dialling socket carries OWN and the class from before connect(2), so the SYN is already in its class.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from socket import SocketType
from typing import Final, Protocol

from daemon.errors import PortInUseError
from daemon.log import Logger
from datapath.errors import PrivilegeError
from datapath.mesh.owner import stream_socket_of
from datapath.mesh.types import MeshProxy
from datapath.routing.flow import Destination
from datapath.sock_diag import holder_of
from datapath.sockets import (
    IPV6_TRANSPARENT,
    TCP_SAVE_SYN,
    SocketAddress,
    delay_first_ack,
    delay_handshake_ack,
    keep_alive,
    limit_received,
    saved_dscp,
    set_dscp,
    set_mark,
    set_nodelay,
    stream_socket,
)
from traffic_policy.errors import ConfigError
from traffic_policy.marks import OWN

log = Logger()

LISTENER_ADDRESSES: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
"""Loopback only: a listener cannot be reached from outside the Pod."""
BACKLOG: Final = 65_535
"""Connections waiting to be accepted; the kernel lowers it to net.core.somaxconn."""
RECEIVED_LIMIT: Final = 1 << 19
"""Bytes of a client that wait to be read (the kernel counts up to twice as many). By default the kernel lets the buffer
grow with the rate to 32 MiB and more, and keeps the size when the path to the server turns slow: half a minute's
data at 10 Mbit/s. Between two sockets on one machine such a window does not limit the rate; 256 KiB would cost 10 %
more per byte. On the network side the kernel sizes the window, as it must fit the round-trip time."""


@dataclass(frozen=True, slots=True)
class OriginalDestination:
    """The original destination: as the routing table sees it, and exactly as the kernel reported it (with an IPv6
    scope)."""

    destination: Destination
    address: SocketAddress


class NoFamilyError(ConfigError):
    """This address family is not available."""


class KernelSockets(Protocol):
    """The proxy's interface to the kernel; unprivileged unit tests provide another."""

    def listen(self, port: int, families: Sequence[int]) -> list[SocketType]:
        """Non-blocking listeners, one per address family."""

    def original_destination(self, accepted: SocketType) -> OriginalDestination | None:
        """The original destination of an accepted connection; None if it was meant for the listener."""

    def dial(self, original: OriginalDestination, mark: int, client: SocketType, *, speaks: bool) -> SocketType:
        """A connecting non-blocking socket, which sends under ``mark`` and the DSCP of ``client``'s SYN.

        ``speaks``: bytes will be sent as soon as it is connected. Raises OSError if connect(2) fails at once.
        """

    def change_mark(self, upstream: SocketType, mark: int, client: SocketType) -> None:
        """Send further bytes of a connection under another mark. Raises OSError."""


class TransparentSockets:
    """TPROXY listeners and marked dials for outbound connections."""

    def __init__(self, inherited: Sequence[SocketType] = (), *, mesh: MeshProxy | None = None) -> None:
        """``inherited``: listeners that are already open, passed to this process.

        With a ``mesh``, dialling sockets carry its proxy's mark, or belong to its user, so that the mesh lets them
        pass.
        """
        self._inherited = list(inherited)
        self._user = mesh.user if mesh is not None else None
        self._more = mesh.mark.value if mesh is not None and mesh.mark is not None else 0
        self._own: set[tuple[str, int]] = set()

    def listen(self, port: int, families: Sequence[int]) -> list[SocketType]:
        """Listen on loopback, in each address family that this namespace has.

        Raises PortInUseError, PrivilegeError, ConfigError (no family is available).
        """
        listeners = self._inherited or self._open(port, families)
        self._own = {listener.getsockname()[:2] for listener in listeners}
        return listeners

    def _open(self, port: int, families: Sequence[int]) -> list[SocketType]:
        return transparent_listeners(port, families)

    def original_destination(self, accepted: SocketType) -> OriginalDestination | None:
        """getsockname(2), which TPROXY leaves at the original destination."""
        address = accepted.getsockname()
        if address[:2] in self._own:
            return None
        return self._original_destination(address)

    def _original_destination(self, address: SocketAddress) -> OriginalDestination:
        return _original(address)

    def dial(self, original: OriginalDestination, mark: int, client: SocketType, *, speaks: bool) -> SocketType:
        """Mark, then connect(2) to the exact original destination."""
        upstream = stream_socket(client.family) if self._user is None else stream_socket_of(self._user, client.family)
        try:
            set_mark(upstream, mark | self._more)
            set_nodelay(upstream)
            keep_alive(upstream)
            dscp = saved_dscp(client)
            if dscp:
                set_dscp(upstream, dscp)
            if speaks:
                delay_handshake_ack(upstream)
            connect(upstream, original.address)
        except BaseException:
            upstream.close()
            raise
        return upstream

    def change_mark(self, upstream: SocketType, mark: int, client: SocketType) -> None:  # noqa: ARG002
        """The kernel copies a socket's mark to each packet, retransmissions too (__ip_queue_xmit, net/ipv4)."""
        set_mark(upstream, mark | self._more)


def transparent_listeners(
    port: int, families: Sequence[int], *, shared: bool = False, near: bool = True
) -> list[SocketType]:
    """Listen on loopback, in each address family that this namespace has.

    ``shared``: other processes of this user may also listen there with SO_REUSEPORT, and the kernel chooses one for
    each connection. ``near``: clients are on this machine, so a small receive buffer suffices. Raises PortInUseError,
    PrivilegeError, ConfigError (no family is available).
    """
    listeners: list[SocketType] = []
    missing: list[NoFamilyError] = []
    try:
        for family in families:
            try:
                listeners.append(_transparent_listener(family, port, shared=shared, near=near))
            except NoFamilyError as error:
                missing.append(error)
        if missing and not listeners:
            raise missing[0]
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    for reason in missing:
        log.info("an address family is not served", reason=str(reason))
    return listeners


def free_port(port: int) -> int:
    """The port, or another one if a listener of ours could not have it on loopback, or for 0. Raises OSError."""
    if port and _is_free(port):
        return port
    while True:  # the kernel's choice for IPv4 may be taken for IPv6
        with socket.socket(socket.AF_INET) as chosen:
            chosen.bind((LISTENER_ADDRESSES[socket.AF_INET], 0))
            other: int = chosen.getsockname()[1]
        if _is_free(other):
            return other


def _is_free(port: int) -> bool:
    for family, address in LISTENER_ADDRESSES.items():
        try:
            with socket.socket(family) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind((address, port))
                tried.listen(0)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False  # other errors: this family is not there, or the listener's own error says more
    return True


def shared_listeners(port: int, families: Sequence[int], count: int, *, near: bool = True) -> list[list[SocketType]]:
    """``count`` copies of the same listeners, over which the kernel spreads connections (socket(7), SO_REUSEPORT).

    Raises as :func:`transparent_listeners`.
    """
    opened: list[list[SocketType]] = []
    try:
        for _ in range(count):
            # The first copy has already logged what is missing.
            had = [listener.family for listener in opened[0]] if opened else families
            opened.append(transparent_listeners(port, had, shared=True, near=near))
    except BaseException:
        for listener in chain.from_iterable(opened):
            listener.close()
        raise
    return opened


@lru_cache(maxsize=4096)
def _original(address: SocketAddress) -> OriginalDestination:
    """Cached: an application has few destinations, and parsing an address takes as long as accepting a connection."""
    return OriginalDestination(Destination.parse(address[0], address[1]), address)


def connect(sock: SocketType, address: SocketAddress) -> None:
    """Begin to connect a non-blocking socket. Raises OSError if it fails at once."""
    number = sock.connect_ex(address)
    if number not in (0, errno.EINPROGRESS):
        raise OSError(number, f"connect to {address[0]} port {address[1]}")


def _transparent_listener(family: int, port: int, *, shared: bool, near: bool) -> SocketType:
    """A listener for one family, with all options that accepted sockets inherit."""
    address = LISTENER_ADDRESSES[socket.AddressFamily(family)]
    try:
        listener = stream_socket(family)
    except OSError as error:
        raise NoFamilyError(f"This kernel has no {_name(family)} ({error.strerror}).") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        set_mark(listener, OWN.value)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        set_nodelay(listener)
        if near:
            limit_received(listener, RECEIVED_LIMIT)
        else:
            keep_alive(listener)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        delay_first_ack(listener)
    except OSError as error:
        listener.close()
        raise _listen_error(error, family, address, port) from error
    return listener


def _listen_error(error: OSError, family: int, address: str, port: int) -> Exception:
    """The error for a refused listener, with its remedy."""
    where = f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return PrivilegeError(
            f"A transparent listener on {where} needs CAP_NET_ADMIN in this network namespace. "
            "Run as root, or give the process the capability (ambient, or on the file)."
        )
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"{where} is in use, by {holder_of(port)}. Stop that program, or choose another port for the proxy."
        )
    return ConfigError(f"Cannot listen on {where}: {error.strerror}.")


def _name(family: int) -> str:
    return "IPv6" if family == socket.AF_INET6 else "IPv4"
