"""What this network namespace's sockets know of a TCP connection: which bytes have arrived. By sock_diag(7).

A packet that was shown need not arrive. Whether its bytes did, only the socket here tells. A question is about one
connection, so it costs the same however many there are.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, Protocol

from tc_core.netlink.codec import REQUEST, message
from tc_core.netlink.socket import SOCK_DIAG

_BY_FAMILY: Final = 20
"""SOCK_DIAG_BY_FAMILY of linux/sock_diag.h: the type of the question, and of its answer."""
_KIND: Final = struct.Struct("=4xH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_HEADER: Final = 16
_UNSENT_AT: Final = _HEADER + 60
"""Where idiag_wqueue is in an answer, behind struct nlmsghdr (linux/inet_diag.h, struct inet_diag_msg)."""
_ATTRIBUTES_AT: Final = _HEADER + 72
_STATE_AT: Final = _HEADER + 1
_LISTEN, _NEW = 10, 12
"""TCP_LISTEN and TCP_NEW_SYN_RECV of net/tcp_states.h: not, or not yet, a socket of the connection."""
_INFO: Final = 2
_ASK_INFO: Final = 1 << (_INFO - 1)
"""INET_DIAG_INFO as an attribute's type, and in the question."""
_RECEIVED_AT: Final = 128
"""tcpi_bytes_received of struct tcp_info (linux/tcp.h)."""
_ALL_STATES: Final = 0xFFFFFFFF
_NO_COOKIE: Final = b"\xff" * 8
_PATIENCE_S: Final = 1.0
"""The kernel answers before send() returns."""


class Sockets(Protocol):
    """What is asked. ``flow`` has addresses and ports of a connection: its client's first."""

    def unacknowledged(self, flow: bytes) -> int | None:
        """Bytes that the client here has written, and that its peer has not acknowledged; None: not known."""

    def received(self, flow: bytes) -> int | None:
        """Bytes that the server here has received in order; None: not known."""


class TcpSockets:
    """The kernel's answers, from :meth:`open` on; to be asked by one thread. Where there are none, nothing is known."""

    def __init__(self, *, may_wait: bool = True) -> None:
        """``may_wait``: :meth:`received` asks. The kernel answers that when no program is busy with the socket, and a
        program can be so for long.
        """
        self._may_wait = may_wait
        self._socket: socket.socket | None = None
        self._answer = bytearray(4096)

    def open(self) -> None:
        """Ask in the network namespace of the calling thread. Raises OSError when there is no sock_diag."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, SOCK_DIAG)
        self._socket.settimeout(_PATIENCE_S)

    def close(self) -> None:
        """Ask no more."""
        if self._socket is not None:
            self._socket.close()

    def unacknowledged(self, flow: bytes) -> int | None:
        """See :class:`Sockets`. Never waits for a program."""
        return int.from_bytes(self._answer[_UNSENT_AT : _UNSENT_AT + 4], _ORDER) if self._ask(flow, 0) else None

    def received(self, flow: bytes) -> int | None:
        """See :class:`Sockets`. Here the server is the connection's other end."""
        if not self._may_wait:
            return None
        half = (len(flow) - 4) // 2
        mine = flow[half : 2 * half] + flow[:half] + flow[-2:] + flow[-4:-2]
        end = self._ask(mine, _ASK_INFO)
        at = _ATTRIBUTES_AT
        while at + _ATTRIBUTE.size <= end:
            length, kind = _ATTRIBUTE.unpack_from(self._answer, at)
            if kind == _INFO and length >= _ATTRIBUTE.size + _RECEIVED_AT + 8:
                at += _ATTRIBUTE.size + _RECEIVED_AT
                return int.from_bytes(self._answer[at : at + 8], _ORDER)
            if length < _ATTRIBUTE.size:
                break
            at += length + 3 & ~3
        return None

    def _ask(self, flow: bytes, extensions: int) -> int:
        """Ask about the socket with this end first; the answer's size, 0 when there is none."""
        if self._socket is None:
            return 0
        try:
            self._socket.send(question(flow, extensions))
            size = self._socket.recv_into(self._answer)
        except OSError:  # as without sock_diag
            return 0
        if size < _ATTRIBUTES_AT or _KIND.unpack_from(self._answer)[0] != _BY_FAMILY:
            return 0  # an error: no such socket
        return 0 if self._answer[_STATE_AT] in (_LISTEN, _NEW) else size


_ORDER: Final = "little" if struct.pack("=H", 1)[0] else "big"


def question(flow: bytes, extensions: int = 0) -> bytes:
    """The request for one socket, whose own address and port come first in ``flow``. Pure."""
    half = (len(flow) - 4) // 2
    family = socket.AF_INET if half == 4 else socket.AF_INET6
    ends = flow[:half].ljust(16, b"\0") + flow[half : 2 * half].ljust(16, b"\0")
    what = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, extensions, 0, _ALL_STATES)
    return message(_BY_FAMILY, what + flow[-4:] + ends + bytes(4) + _NO_COOKIE, flags=REQUEST)
