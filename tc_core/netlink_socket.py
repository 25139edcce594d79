"""A socket for rtnetlink(7): one question, all of its answers.

pyroute2 encodes and decodes the messages; the socket is our own, a plain blocking one. pyroute2's synchronous
``IPRoute`` was tried first: it runs an asyncio event loop with a socket of its own in every thread that touches it,
which trio's changing worker threads would leave behind, and each of those sockets is in the namespace of its thread
rather than in that of the thread that asked for the object.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, Final, Self

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, rtnl
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tc_core.kernel import refused
from tc_core.layouts import LAYOUTS

_SOL_NETLINK: Final = 270
_NETLINK_EXT_ACK: Final = 11
_NLM_F_DUMP_INTR: Final = 0x10
"""Set in a dump during which something changed: parts of it may be old, so it has to be asked again."""
_DUMP_ATTEMPTS: Final = 5
_RECEIVE_SIZE: Final = 1 << 16
"""Bytes; the kernel fills at most 32 KiB per message batch."""
_TIMEOUT: Final = 10.0
"""Seconds. The kernel answers before send() returns; waiting longer than this means that an answer was lost."""
_ANSWERS: Final = {rtnl.RTM_NEWLINK: ifinfmsg, rtnl.RTM_NEWROUTE: rtmsg, rtnl.RTM_NEWRULE: fibmsg, **LAYOUTS}


class NetlinkSocket:
    """A socket that belongs to the network namespace of the thread that makes it, and stays there.

    Any thread may ask, one at a time (a lock sees to it). Errors carry the kernel's own explanation (NETLINK_EXT_ACK)
    where it has one. Raises :class:`KernelError` when no netlink socket can be had.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            self._socket.bind((0, 0))
        except OSError as error:
            raise refused("opening a netlink socket", error.errno or errno.EIO) from None
        self._socket.settimeout(_TIMEOUT)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._lock = threading.Lock()
        self._sequence = 0
        self._marshal = Marshal()
        self._marshal.msg_map.update(_ANSWERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it. The kernel's state stays as it is."""
        self._socket.close()

    def ask(self, operation: str, request: Any) -> list[Any]:
        """Send a request; everything that the kernel answers. A dump that a change interrupted is asked again.

        Raises :class:`KernelError`; ``operation`` says in it what was refused.
        """
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                parts, interrupted = self._exchange(operation, request)
                if not interrupted:
                    break
        return parts

    def _exchange(self, operation: str, request: Any) -> tuple[list[Any], bool]:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        request["header"]["sequence_number"] = self._sequence
        request["header"]["pid"] = 0
        request.reset()
        request.encode()
        try:
            self._socket.send(request.data)
            return self._receive(operation, request["header"]["flags"])
        except OSError as error:
            raise refused(operation, error.errno or errno.ETIMEDOUT) from None

    def _receive(self, operation: str, flags: int) -> tuple[list[Any], bool]:
        """Read until the last part of the answer: DONE for a dump, an acknowledgement, or the one message asked for."""
        parts: list[Any] = []
        interrupted = False
        several = flags & NLM_F_DUMP == NLM_F_DUMP
        while True:
            data = self._socket.recv(_RECEIVE_SIZE)
            for kind, message_flags, sequence, offset, length in _headers(data):
                if sequence != self._sequence:
                    continue  # the rest of an answer that an earlier error cut short
                interrupted = interrupted or bool(message_flags & _NLM_F_DUMP_INTR)
                if kind == NLMSG_ERROR:
                    self._raise_error(operation, message_flags, data, offset, length)
                    return parts, interrupted
                if kind == NLMSG_DONE:
                    return parts, interrupted
                parts.append(self._marshal.parse_one_message(kind, message_flags, sequence, data, offset, length))
                if not several and not flags & NLM_F_ACK:
                    return parts, interrupted

    def _raise_error(self, operation: str, flags: int, data: bytes, offset: int, length: int) -> None:
        """Raise what an NLMSG_ERROR says; 0 is the acknowledgement."""
        (code,) = struct.unpack_from("=i", data, offset + 16)
        if not code:
            return
        message = self._marshal.parse_one_message(NLMSG_ERROR, flags, self._sequence, data, offset, length)
        error = message["header"]["error"]
        words = error.args[1] if isinstance(error, NetlinkError) and len(error.args) > 1 else None
        raise refused(operation, -code, words)


def _headers(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(type, flags, sequence number, offset, length) of each message in a datagram (struct nlmsghdr)."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence = struct.unpack_from("=IHHI", data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, offset, length
        offset += (length + 3) & ~3
