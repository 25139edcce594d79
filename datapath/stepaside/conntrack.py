"""The edge to ctnetlink: finding tracked connections by their mark, and changing it. Blocks; call it in a thread.

Works in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from datapath.errors import ConntrackError, PrivilegeError
from datapath.stepaside.conntrack_messages import AF_INET, AF_INET6, ENTRY, Entry, dump, read_entry, update
from datapath.stepaside.nfnetlink import NLMSG_ERROR, error_of, read_messages
from datapath.stepaside.nfnetlink_socket import CHUNK, dumped, opened
from traffic_policy.marks import Mark
from traffic_policy.ports import TransportProtocol

_PATIENCE: Final = 10.0
"""Seconds for one answer; a dump comes in many."""
_TRIES: Final = 3
"""Dumps of a table that changes meanwhile may lack entries: try again, but not for ever."""
_FAMILIES: Final = (AF_INET, AF_INET6)


def entries(mark: Mark) -> list[Entry]:
    """The TCP connections and UDP flows with this mark under its mask.

    Raises :class:`ConntrackError`, :class:`PrivilegeError`.
    """
    found: dict[tuple[bytes, TransportProtocol], Entry] = {}
    with _socket("reading them") as sock:
        for family in _FAMILIES:
            for _ in range(_TRIES):
                batch, complete = _dump(sock, family, mark)
                found.update(((entry.flow, entry.transport), entry) for entry in batch)
                if complete:
                    break
    return list(found.values())


def change(changes: Iterable[tuple[Entry, Mark]]) -> int:
    """Write marks under their masks; how many connections were still there.

    Raises :class:`ConntrackError`, :class:`PrivilegeError`.
    """
    changed = 0
    with _socket("changing them") as sock:
        for sequence, (entry, mark) in enumerate(changes, 1):
            sock.send(update(entry, mark, sequence=sequence))
            number = _answer(sock)
            if number not in (0, errno.ENOENT):  # ENOENT: it has ended meanwhile
                raise OSError(number, os.strerror(number))
            changed += not number
    return changed


def rewrite(mark: Mark, choose: Callable[[Entry], Mark | None]) -> int:
    """Give connections with ``mark`` the one that ``choose`` says, None for as it is; how many were changed."""
    return change((entry, new) for entry in entries(mark) if (new := choose(entry)) is not None)


def _dump(sock: socket.socket, family: int, mark: Mark) -> tuple[list[Entry], bool]:
    """Entries of one family, and whether that was all."""
    found: list[Entry] = []

    def take(data: bytearray, start: int, end: int) -> None:
        entry = read_entry(data, start, end)
        # Kernels before 3.16 do not filter.
        if entry is not None and entry.mark & mark.mask == mark.value:
            found.append(entry)

    complete = dumped(sock, dump(family, mark, sequence=1), ENTRY, take)
    return found, complete


def _answer(sock: socket.socket) -> int:
    buffer = bytearray(CHUNK)
    size = sock.recv_into(buffer)
    return next(error_of(buffer, m) for m in read_messages(buffer, size) if m.kind == NLMSG_ERROR)


@contextmanager
def _socket(doing: str) -> Iterator[socket.socket]:
    try:
        with opened(_PATIENCE) as sock:
            yield sock
    except OSError as error:
        said = f"The marks of tracked connections: {doing} failed: {error.strerror or error}."
        if error.errno == errno.EPERM:
            raise PrivilegeError(f"{said} It takes CAP_NET_ADMIN: run as root or add the capability.") from None
        raise ConntrackError(f"{said} Load the module on the node: modprobe nf_conntrack_netlink.") from None
