"""A netlink socket: one request, all of its answers. Blocks.

A library's socket was tried first: pyroute2's runs an event loop with a socket of its own in every thread that touches
it, and each is in the network namespace of its thread rather than in that of the thread that asked for the object.
"""

from __future__ import annotations

import errno
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final, Self

from tc_core.netlink.codec import (
    ACK,
    DUMP,
    DUMP_INTERRUPTED,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSGHDR,
    NetlinkError,
    error_of,
    read_messages,
    words_of,
)

ROUTE: Final = 0
SOCK_DIAG: Final = 4
NETFILTER: Final = 12
"""NETLINK_ROUTE, NETLINK_SOCK_DIAG and NETLINK_NETFILTER of linux/netlink.h."""
_SOL_NETLINK: Final = 270
_NETLINK_EXT_ACK: Final = 11
_SO_NETNS_COOKIE: Final = 71
_DUMP_ATTEMPTS: Final = 5
_RECEIVE_SIZE: Final = 1 << 17
"""Bytes that are received at once: more than the kernel puts into one answer."""
_TIMEOUT: Final = 10.0
"""Seconds. The kernel answers before send() returns; waiting longer than this means that an answer was lost."""


class NetlinkSocket:
    """A socket that belongs to the network namespace of the thread that makes it, and stays there.

    Any thread may ask, one at a time (a lock sees to it). Raises :class:`NetlinkError` when no such socket can be had.
    """

    def __init__(self, protocol: int = ROUTE) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO) from None
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        except OSError as error:
            self._socket.close()
            raise NetlinkError(error.errno or errno.EIO) from None
        self._socket.settimeout(_TIMEOUT)
        self._lock = threading.Lock()
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it. The kernel's state stays as it is."""
        self._socket.close()

    def namespace(self) -> int:
        """The cookie of its network namespace, which no other one has until the next boot (SO_NETNS_COOKIE).

        Raises :class:`NetlinkError` before Linux 5.14.
        """
        try:
            data = self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO) from None
        return int.from_bytes(data, sys.byteorder)

    def ask(self, request: bytes) -> list[bytes]:
        """Send a request; all that the kernel answers, without headers. A dump that a change interrupted is repeated.

        Several messages in one request are a batch, of which one asks for an acknowledgement.

        Raises :class:`NetlinkError`, with ETIMEDOUT when no answer comes.
        """
        parts: list[bytes] = []
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                parts.clear()
                if self._exchange(request, lambda _, part: parts.append(part)):
                    break
        return parts

    def dump(self, request: bytes, take: Callable[[int, bytes], None]) -> bool:
        """Send a request for a dump, and hand over type and payload of each message as it comes.

        False: something changed meanwhile, and some may be missing. Raises as :meth:`ask` does.
        """
        with self._lock:
            return self._exchange(request, take)

    def _exchange(self, request: bytes, take: Callable[[int, bytes], None]) -> bool:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        data = bytearray(request)
        flags = 0
        for each in read_messages(data, len(data)):
            NLMSGHDR.pack_into(data, each.start - NLMSGHDR.size, each.size, each.kind, each.flags, self._sequence, 0)
            flags |= each.flags
        try:
            self._socket.send(data)
            return self._receive(flags, take)
        except NetlinkError:
            raise
        except OSError as error:
            raise NetlinkError(error.errno or errno.ETIMEDOUT) from None

    def _receive(self, flags: int, take: Callable[[int, bytes], None]) -> bool:
        """Read until the last part of the answer: DONE for a dump, an acknowledgement, or the one message asked for."""
        complete = True
        while True:
            data = self._socket.recv(_RECEIVE_SIZE)
            for each in read_messages(data, len(data)):
                if each.sequence != self._sequence:
                    continue  # the rest of an answer that an earlier error cut short
                complete = complete and not each.flags & DUMP_INTERRUPTED
                if each.kind == NLMSG_ERROR:
                    if number := error_of(data, each):
                        raise NetlinkError(number, words_of(data, each))
                    return complete
                if each.kind == NLMSG_DONE:
                    return complete
                take(each.kind, data[each.start : each.end])
                if flags & DUMP != DUMP and not flags & ACK:
                    return complete
