"""Notices cheaply that a mangle table may have changed, so that it need not be read all the time.

nftables announces changes. Legacy tables do not, but the kernel tells the number and the size of a table's rules in one
call (linux/netfilter_ipv4/ip_tables.h, IPT_SO_GET_INFO).
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

from datapath.netfilter.backend import BackendKind, legacy_tables
from datapath.netfilter.rules import Family
from tc_core.netlink.codec import NetlinkError
from tc_core.netlink.notifications import NFTABLES, Notifications

_GET_INFO: Final = 64
"""IPT_SO_GET_INFO and IP6T_SO_GET_INFO."""
_INFO_BYTES: Final = 84
"""struct ipt_getinfo: the table's name (32 bytes), hooks, entry points, number and size of the entries."""
_MANGLE: Final = b"mangle".ljust(_INFO_BYTES, b"\0")
_FAMILIES: Final = {
    Family.V4: (socket.AF_INET, socket.IPPROTO_IP),
    Family.V6: (socket.AF_INET6, socket.IPPROTO_IPV6),
}


class MangleChanges:
    """Notices changes of the mangle tables in the network namespace of the thread that makes it."""

    def __init__(self, kind: BackendKind) -> None:
        self._announced: Notifications | None = None
        self._legacy = kind is not BackendKind.NFT
        self._sizes = _sizes() if self._legacy else ()
        if not self._legacy:
            with suppress(NetlinkError):
                self._announced = Notifications(*NFTABLES)

    def fileno(self) -> int | None:
        """A descriptor that is readable when there is news; None: it has to be asked each time."""
        return None if self._announced is None else self._announced.fileno()

    def close(self) -> None:
        """Close its socket."""
        if self._announced is not None:
            self._announced.close()

    def arrived(self) -> bool:
        """Whether there may have been a change since the last call. With legacy tables, one that keeps number and size
        of all rules is not seen."""
        if self._legacy:
            before, self._sizes = self._sizes, _sizes()
            return self._sizes != before
        return self._announced is None or self._announced.arrived()


def _sizes() -> tuple[bytes | None, ...]:
    return tuple(_size(family) for family in _FAMILIES)


def _size(family: Family) -> bytes | None:
    """What the kernel tells of a family's table; None if there is none."""
    if "mangle" not in (legacy_tables(family) or ()):
        return None  # asking would create it
    number, level = _FAMILIES[family]
    with suppress(OSError), socket.socket(number, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        return _get_info(sock, level)
    return None


def _get_info(sock: socket.socket, level: int) -> bytes:
    """getsockopt(2) whose buffer holds the request, which the socket module cannot make."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_MANGLE, _INFO_BYTES)
    length = ctypes.c_uint32(_INFO_BYTES)
    if libc.getsockopt(sock.fileno(), level, _GET_INFO, buffer, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, "getsockopt")
    return buffer.raw
