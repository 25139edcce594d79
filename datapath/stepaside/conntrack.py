"""Finds tracked connections by their mark, and changes it, over ctnetlink. Blocks; call it in a thread.

Works in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from datapath.errors import ConntrackError, PrivilegeError
from datapath.stepaside.conntrack_messages import ENTRY, Entry, dump, read_entry, update
from tc_core.netlink.codec import NetlinkError
from tc_core.netlink.netfilter import NFGENMSG_SIZE
from tc_core.netlink.socket import NETFILTER, NetlinkSocket
from traffic_policy.marks import Mark
from traffic_policy.ports import TransportProtocol

_TRIES: Final = 3
"""Attempts of a dump, which may lack entries if the table changes meanwhile."""


def entries(mark: Mark) -> list[Entry]:
    """The TCP connections and UDP flows with this mark under its mask.

    Raises :class:`ConntrackError`, :class:`PrivilegeError`.
    """
    found: dict[tuple[bytes, TransportProtocol], Entry] = {}
    with _socket("reading them") as sock:
        for _ in range(_TRIES):
            batch, complete = _dump(sock, mark)
            found.update(((entry.flow, entry.transport), entry) for entry in batch)
            if complete:
                break
    return list(found.values())


def change(changes: Iterable[tuple[Entry, Mark]]) -> int:
    """Write marks under their masks; returns how many connections still existed.

    Raises :class:`ConntrackError`, :class:`PrivilegeError`.
    """
    changed = 0
    with _socket("changing them") as sock:
        for entry, mark in changes:
            try:
                sock.ask(update(entry, mark))
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue  # the connection has ended
            changed += 1
    return changed


def rewrite(mark: Mark, choose: Callable[[Entry], Mark | None]) -> int:
    """Set the marks of connections with ``mark`` to ``choose(entry)`` (None: unchanged); returns the count."""
    return change((entry, new) for entry in entries(mark) if (new := choose(entry)) is not None)


def _dump(sock: NetlinkSocket, mark: Mark) -> tuple[list[Entry], bool]:
    """Entries, and whether the dump was complete. The kernel walks the table of all namespaces: milliseconds."""
    found: list[Entry] = []

    def take(kind: int, payload: bytes) -> None:
        entry = read_entry(payload, NFGENMSG_SIZE, len(payload)) if kind == ENTRY else None
        # Kernels before 3.16 do not filter.
        if entry is not None and entry.mark & mark.mask == mark.value:
            found.append(entry)

    complete = sock.dump(dump(mark), take)
    return found, complete


@contextmanager
def _socket(doing: str) -> Iterator[NetlinkSocket]:
    try:
        with NetlinkSocket(NETFILTER) as sock:
            yield sock
    except NetlinkError as error:
        said = f"The marks of tracked connections: {doing} failed: {error.detail}."
        if error.errno == errno.EPERM:
            raise PrivilegeError(f"{said} It takes CAP_NET_ADMIN: run as root or add the capability.") from None
        raise ConntrackError(f"{said} Load the module on the node: modprobe nf_conntrack_netlink.") from None
