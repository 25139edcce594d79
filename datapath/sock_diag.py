"""Finds listening sockets, and ports whose listener on loopback differs from that on the Pod's own address.

The proxy connects inbound connections to the program at its loopback address (:mod:`sidecar.transport.inbound`). That
is correct if one program listens on every address. If a program listens only on the Pod's address, or has different
listeners there and on loopback, the proxy would reach the wrong one, possibly one that must not be reachable from
outside. Such ports are *apart*, and connections to them are not captured.

Listeners are read by sock_diag(7), at a cost independent of the number of connections.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from daemon.log import Logger
from datapath.routing.flow import Address
from tc_core.netlink.codec import DUMP, REQUEST, NetlinkError, attributes, message, number
from tc_core.netlink.socket import SOCK_DIAG, NetlinkSocket
from traffic_policy.errors import PodlaneError

_SOCK_DIAG_BY_FAMILY: Final = 20
_TCP_LISTEN: Final = 10
_REQUEST: Final = struct.Struct("=BBBBI48s")
"""linux/inet_diag.h, struct inet_diag_req_v2: family, protocol, extensions, padding, states, socket identity."""
_MESSAGE: Final = struct.Struct("=4s2s2s16s16sI8s12sII")
"""struct inet_diag_msg: what it is, ports, addresses, the interface it is bound to, a cookie, counters, user, inode."""
_ATTRIBUTE: Final = struct.Struct("=HH")
_V6ONLY, _MARK = 11, 15
"""INET_DIAG_SKV6ONLY, INET_DIAG_MARK"""
_FRESH_S: Final = 0.05
"""A program that opens a port twice is not caught out for longer."""

log = Logger()


class ListenersError(PodlaneError):
    """The kernel does not tell who listens."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening TCP socket. ``v6only``: an IPv6 wildcard that IPv4 does not reach; ``bound``: to one interface."""

    address: Address
    port: int
    v6only: bool = False
    bound: bool = False
    user: int = 0
    inode: int = 0

    def serves(self, version: int) -> bool:
        """Whether connections of this IP version could be for it."""
        address = self.address
        if address.version == 4 or address.ipv4_mapped is not None:
            return version == 4
        return version == 6 or (not int(address) and not self.v6only)

    @property
    def everywhere(self) -> bool:
        """Whether it takes connections to every address."""
        return not int(self.address) and not self.bound


def apart(listeners: Iterable[Listening]) -> frozenset[int]:
    """The ports that are apart (see above). Pure."""
    by_port: dict[int, list[Listening]] = defaultdict(list)
    for listener in listeners:
        by_port[listener.port].append(listener)
    return frozenset(port for port, there in by_port.items() if any(_differs(there, version) for version in (4, 6)))


def _differs(listeners: list[Listening], version: int) -> bool:
    mine = [each for each in listeners if each.serves(version)]
    somewhere = [each for each in mine if not each.everywhere]
    # Loopback only: not reachable from outside, so never captured.
    return any(not each.address.is_loopback for each in somewhere) or 0 < len(somewhere) < len(mine)


def listening() -> list[Listening]:
    """All TCP listeners of this network namespace. Raises :class:`ListenersError`."""
    try:
        with NetlinkSocket(SOCK_DIAG) as link:
            return [each for family in (socket.AF_INET, socket.AF_INET6) for each in _dump(link, family)]
    except NetlinkError as error:
        raise ListenersError(
            f"The kernel does not tell who listens: {error.detail}. It takes CONFIG_INET_DIAG (modprobe tcp_diag)."
        ) from None


def marked_udp_ports(mark: int) -> frozenset[int]:
    """Ports of the UDP sockets over IPv4 of this network namespace that have a mark (SO_MARK).

    The kernel tells marks to those who have CAP_NET_ADMIN. Raises :class:`ListenersError`.
    """
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_UDP, 0, 0, 0xFFFFFFFF, bytes(48))
    try:
        with NetlinkSocket(SOCK_DIAG) as link:
            found = link.ask(message(_SOCK_DIAG_BY_FAMILY, request, flags=REQUEST | DUMP))
    except NetlinkError as error:
        raise ListenersError(
            f"The kernel tells of no UDP sockets: {error.detail}. It takes CONFIG_INET_UDP_DIAG (modprobe udp_diag)."
        ) from None
    return frozenset(
        int.from_bytes(_MESSAGE.unpack_from(each)[1], "big")
        for each in found
        if number(attributes(each[_MESSAGE.size :]), _MARK) == mark
    )


class Listeners:
    """The exempted ports, read again when the cached result is older than some milliseconds."""

    def __init__(self, read: Callable[[], list[Listening]] = listening, *, fresh: float = _FRESH_S) -> None:
        """``fresh``: for how many seconds what was read holds."""
        self._read = read
        self._fresh = fresh
        self._apart: frozenset[int] = frozenset()
        self._until = 0.0
        self._warned = False

    def apart(self) -> frozenset[int]:
        """The ports. Where the kernel does not tell, those that it told of last, and a warning."""
        now = monotonic()
        if now >= self._until:
            self._until = now + self._fresh
            try:
                self._apart = apart(self._read())
            except ListenersError as error:
                if not self._warned:
                    self._warned = True
                    log.warning("programs that listen on some addresses alone cannot be told", error=str(error))
        return self._apart


def _dump(link: NetlinkSocket, family: int) -> list[Listening]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _TCP_LISTEN, bytes(48))
    try:
        found = link.ask(message(_SOCK_DIAG_BY_FAMILY, request, flags=REQUEST | DUMP))
    except NetlinkError as error:
        if error.errno == errno.ENOENT and family == socket.AF_INET6:
            return []  # a kernel without IPv6
        raise
    return [parse(each) for each in found]


def parse(data: bytes) -> Listening:
    """One listener of an answer, without its netlink header. Pure."""
    what, port, _, address, _, interface, _, _, user, inode = _MESSAGE.unpack_from(data)
    size = 4 if what[0] == socket.AF_INET else 16
    v6only = False
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _V6ONLY:
            v6only = bool(data[at + _ATTRIBUTE.size])
        at += max((length + 3) & ~3, _ATTRIBUTE.size)
    where = ipaddress.ip_address(address[:size])
    return Listening(where, int.from_bytes(port, "big"), v6only, bool(interface), user, inode)


def holder_of(port: int) -> str:
    """Who listens on a TCP port of this network namespace, for a message: user, and process if it is visible here."""
    try:
        there = [each for each in listening() if each.port == port]
    except ListenersError:
        there = []
    if not there:
        return "a socket that does not listen"
    holder = there[0]
    process = _process_with(f"socket:[{holder.inode}]")
    if process is None:
        return f"a process of user {holder.user}, not visible here"
    return f"process {process.name} ({(process / 'comm').read_text().strip()}) of user {holder.user}"


def _process_with(link: str) -> Path | None:
    """The directory in /proc of a process that has this file open (proc(5), /proc/PID/fd)."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or another user's is not to be seen
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) == link:
                    return process
    return None
