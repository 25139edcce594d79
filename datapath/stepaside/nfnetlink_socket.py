"""The edge under :mod:`datapath.stepaside.nfnetlink`: a socket, and all objects of a kind that the kernel has.

Works in the network namespace of the calling thread, and blocks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from datapath.stepaside.nfnetlink import DUMP_INTERRUPTED, NLMSG_DONE, NLMSG_ERROR, error_of, read_messages

NETLINK_NETFILTER: Final = 12
"""linux/netlink.h"""
CHUNK: Final = 1 << 17
"""Bytes that are received at once: more than the kernel puts into one answer."""


@contextmanager
def opened(patience: float) -> Iterator[socket.socket]:
    """A socket whose answers are waited for so many seconds each. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
        sock.settimeout(patience)
        sock.bind((0, 0))
        yield sock


def dumped(sock: socket.socket, request: bytes, kind: int, take: Callable[[bytearray, int, int], None]) -> bool:
    """Send a request for a dump, and hand over each message of that kind, whose attributes are ``data[start:end]``.

    False: something changed meanwhile, and some may be missing. Raises OSError.
    """
    sock.send(request)
    complete = True
    buffer = bytearray(CHUNK)
    while True:
        size = sock.recv_into(buffer)
        for each in read_messages(buffer, size):
            complete = complete and not each.flags & DUMP_INTERRUPTED
            if each.kind == NLMSG_DONE:
                return complete
            if each.kind == NLMSG_ERROR:
                number = error_of(buffer, each)
                raise OSError(number, os.strerror(number))
            if each.kind == kind:
                take(buffer, each.start, each.end)
