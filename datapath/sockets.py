"""The few socket options of the data path, by name, with their sources.

Sockets here are ``socket.SocketType``, the C class below ``socket.socket``: same calls, but no Python-level
constructor and close (about 4 us less per proxied connection, of some 60).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from socket import SocketType
from typing import Final

IPV6_TRANSPARENT: Final = 75  # linux/in6.h
TCP_SAVE_SYN: Final = 27  # linux/tcp.h: keep the headers of the SYN for the accepted socket
TCP_SAVED_SYN: Final = 28  # linux/tcp.h: read them (once; reading frees them)
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_SYN_HEADERS: Final = 128  # bytes: an IPv6 and a TCP header with all options
_DSCP: Final = 0xFC  # RFC 2474: the upper six bits; the lower two are ECN and belong to each connection's own kernel
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
"""Seconds, and probes. Common NATs forget a connection after some minutes of silence, strict ones after one."""
DEAD_AFTER_S: Final = 90
"""Seconds from the last answer of an idle peer to the end of the connection, by the above: 30 + 6 * 10."""
_UNSIGNED: Final = struct.Struct("=I").pack
_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""As the socket module has them: (host, port), for IPv6 with flow information and scope."""


def stream_socket(family: int) -> SocketType:
    """A non-blocking TCP socket. Raises OSError (EMFILE ...)."""
    return SocketType(family, _STREAM)


def set_nodelay(sock: SocketType) -> None:
    """No Nagle (the sender's own kernel has already chosen the segments), and urgent bytes stay in the stream.

    Without SO_OOBINLINE recv(2) leaves urgent bytes out, and the server would miss them.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def keep_alive(sock: SocketType) -> None:
    """Probe a silent peer (tcp(7), SO_KEEPALIVE), and end the connection after :data:`DEAD_AFTER_S` without an answer.

    For the sockets whose peer is elsewhere. Set on a listener, accepted sockets inherit it. Not TCP_USER_TIMEOUT: that
    would also end connections to a peer that answers and does not read for so long (tcp_probe_timer(),
    net/ipv4/tcp_timer.c, since Linux 5.11).
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def limit_received(listener: SocketType, size: int) -> None:
    """Let the kernel keep at most about ``size`` bytes that were received and not read, per accepted socket.

    Accepted sockets inherit it (socket(7), SO_RCVBUF; the kernel doubles it for its bookkeeping). By force, since the
    limit for ordinary users (net.core.rmem_max) is often lower; without CAP_NET_ADMIN that limit has to do.
    """
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def limit_unsent(sock: SocketType, size: int) -> None:
    """Take no more bytes while ``size`` of them wait unsent (tcp(7), TCP_NOTSENT_LOWAT). What is in flight is extra."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)


def delay_handshake_ack(sock: SocketType) -> None:
    """Before connect(2), when bytes are there to be sent at once: let them carry the last ACK of the handshake.

    The kernel holds that ACK back for the data (net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process()) and acknowledges
    quickly again afterwards. HAProxy calls the same "tcp-smart-connect"; it saves a packet per connection.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def delay_first_ack(listener: SocketType) -> None:
    """Let the answer acknowledge what a client says first, not a packet of its own; accepted sockets inherit it.

    To be called after listen(2), which forgets it (inet_csk_delack_init(), include/net/inet_connection_sock.h).

    The kernel waits up to 40 ms for the answer (tcp_delack_timer(), net/ipv4/tcp_timer.c). A client with Nagle's
    algorithm (RFC 1122 4.2.3.4) that has more to say waits for the acknowledgement: then :func:`acknowledge`. HAProxy
    calls the same "tcp-smart-accept".
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def acknowledge(sock: SocketType) -> None:
    """Acknowledge now what was held back and is read, and be quick about the next ones, as on any other socket."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def saved_dscp(sock: SocketType) -> int:
    """The DSCP of the client's SYN in its place in the TOS or traffic class byte; 0 when unknown.

    From the IP header that TCP_SAVE_SYN kept (tcp(7) has not described it yet; Linux 4.3, commit cd8ae85299d5).
    """
    try:
        header = sock.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, _SYN_HEADERS)
    except OSError:
        return 0
    if len(header) < 2:
        return 0
    # IPv4 has version, header length, TOS; IPv6 has version, traffic class, flow label, not on byte boundaries.
    tos = header[1] if header[0] >> 4 == 4 else ((header[0] & 0x0F) << 4 | header[1] >> 4)
    return tos & _DSCP


def set_mark(sock: SocketType, mark: int) -> None:
    """Send under this mark (socket(7), SO_MARK). As bytes: class ids above 127 do not fit in a signed int."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _UNSIGNED(mark))


def set_dscp(sock: SocketType, dscp: int) -> None:
    """Send with this TOS or traffic class byte (ip(7), ipv6(7))."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp)


def reset_on_close(sock: SocketType) -> None:
    """Make close(2) send RST and drop what is queued (socket(7), SO_LINGER with 0 s)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def pending_error(sock: SocketType) -> int:
    """The socket's error number, 0 for none; reading clears it (socket(7), SO_ERROR)."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def unacknowledged(sock: SocketType) -> int:
    """Bytes sent that the peer's kernel has not acknowledged, a FIN counting as one (tcp(7), SIOCOUTQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int.from_bytes(answer, sys.byteorder, signed=True)
