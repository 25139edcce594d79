"""Lists the connections of one interface: the kernel's sockets, with the verdicts that programs keep with them.

The kernel is asked when somebody wants to know (sock_diag(7)); nothing is written down meanwhile, so that lists cost
connections nothing. Everything here blocks, in the network namespace that has the sockets. A Pod may have very many:
they are read some tens of kilobytes at a time, and only those that are shown are kept.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic, monotonic_ns
from typing import Final

from daemon.log import Logger
from datapath.connection_list import ConnectionPage, LiveConnection, Order, select
from datapath.ebpf.beginnings import KnownName, mapped
from datapath.ebpf.datagrams import OpenedFlow
from datapath.ebpf.libbpf import BpfError, BpfObject, Map, frame_after
from datapath.ebpf.policy_maps import HashKeys, compile_table
from datapath.ebpf.program import CARRIED, load
from datapath.ebpf.socket_messages import (
    MOST_ASKED,
    SOCK_DIAG_BY_FAMILY,
    LaneSocket,
    age,
    answered,
    dump,
    dump_udp,
    questions,
    read_own_end,
    read_socket,
)
from datapath.errors import ConnectionListError
from datapath.protocols.detect import Protocol
from datapath.routing.table import RoutingTable
from datapath.stepaside.class_cache import addresses
from tc_core.netlink.codec import NetlinkError
from tc_core.netlink.socket import SOCK_DIAG, NetlinkSocket
from traffic_policy.marks import ClassIds
from traffic_policy.names import normalise_host
from traffic_policy.policy import Bound, TrafficPolicy

log = Logger()

MOST_SOCKETS: Final = 1 << 17
"""Sockets of a Pod that are looked at: some two seconds of a processor's time."""
SIFTED: Final = 1 << 12
"""Sockets that are collected before those are chosen that stay."""
_CLASS_BYTES: Final = 4


def list_connections(
    flows: int, ids: ClassIds, known: Callable[[int, int], KnownName | None], limit: int, order: Order
) -> ConnectionPage:
    """How many TCP connections have a verdict in the map with the descriptor ``flows``, and ``limit`` of them.

    ``known`` is what user space has read of a connection, by cookie and first byte. The class is that of what was sent
    last. Raises :class:`~datapath.errors.ConnectionListError`.
    """
    with CarriedBytes() as carried:
        chosen = ChosenSockets(limit, order, carried)
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                _read(family, flows, chosen)
        except TooManySocketsError:
            log.warning("not all connections were looked at for a list of them", most=MOST_SOCKETS)
        shown = chosen.finish()
    now = monotonic_ns()
    names = {class_id: name for name, class_id in ids.items()}
    return ConnectionPage(chosen.active, [_told(each, names, known, now) for each in shown])


def list_flows(udp_flows: int, opened: Sequence[OpenedFlow], ids: ClassIds) -> list[LiveConnection]:
    """Those of the flows of QUIC that have a class in the map with this descriptor, and whose socket is still there.

    None, where the kernel does not list UDP sockets.
    """
    if not opened:
        return []
    try:
        bound = {end for family in (socket.AF_INET, socket.AF_INET6) for end in _own_ends(family)}
    except NetlinkError as error:
        log.debug("UDP sockets are not listed (modprobe udp_diag)", error=error.detail)
        return []
    names = {class_id: name for name, class_id in ids.items()}
    classes, now = Map(udp_flows), monotonic()
    found = []
    for flow, name, since in opened:
        address, port = flow[: (len(flow) - 4) // 2], flow[-4:-2]
        value = classes.read(mapped(flow), _CLASS_BYTES) if bound & {(address, port), (b"", port)} else None
        if value is not None:
            class_name = names.get(int.from_bytes(value, sys.byteorder))
            found.append(
                LiveConnection(
                    *(class_name, *addresses(flow), Bound.OUTBOUND.value, name, Protocol.QUIC.value, "decided"),
                    *(now - since, None, None),
                )
            )
    return found


def _own_ends(family: socket.AddressFamily) -> Iterator[tuple[bytes, bytes]]:
    with NetlinkSocket(SOCK_DIAG) as link:
        yield from filter(None, map(read_own_end, link.ask(dump_udp(family))))


def _read(family: socket.AddressFamily, flows: int, chosen: ChosenSockets) -> None:
    try:
        with NetlinkSocket(SOCK_DIAG) as link:
            link.dump(dump(family, flows), chosen.take)
    except NetlinkError as error:
        if error.errno == errno.ENOENT and family == socket.AF_INET6 and chosen.answered:
            return  # a kernel without IPv6
        remedy = {
            errno.EPERM: "It takes CAP_BPF: run as root or add the capability.",
            errno.ENOENT: "It takes CONFIG_INET_DIAG (modprobe tcp_diag on the node).",
        }.get(error.errno or 0, "")
        raise ConnectionListError(
            f"The kernel does not list the connections with their verdicts: {error.detail}. {remedy}".rstrip()
        ) from None
    chosen.answered = True


class TooManySocketsError(Exception):
    """There are too many to read them all."""


class ChosenSockets:
    """Counts sockets as they come, and keeps those that are to be shown."""

    def __init__(self, limit: int, order: Order, carried: CarriedBytes) -> None:
        self.active = 0
        self.answered = False
        self._limit = limit
        self._order = order
        self._carried = carried
        self._looked_at = 0
        self._now = monotonic_ns()
        self._best: list[LaneSocket] = []
        self._new: list[LaneSocket] = []

    @property
    def held(self) -> int:
        """Sockets that are kept at present."""
        return len(self._best) + len(self._new)

    def take(self, kind: int, data: bytes) -> None:
        """One message of a dump. Raises :class:`TooManySocketsError`."""
        if self._looked_at == MOST_SOCKETS:
            raise TooManySocketsError
        self._looked_at += 1
        found = read_socket(data) if kind == SOCK_DIAG_BY_FAMILY else None
        if found is None:
            return
        self.active += 1
        self._new.append(found)
        if len(self._new) == SIFTED:
            self._sift()

    def finish(self) -> list[LaneSocket]:
        """Those to be shown, in order."""
        self._sift()
        return self._best if self._order is Order.LARGEST else list(self._carried.by(self._best))

    def _sift(self) -> None:
        new = self._carried.by(self._new) if self._order is Order.LARGEST else iter(self._new)
        self._best = select([*self._best, *new], self._limit, self._order, begun=self._begun, size=_size)
        self._new = []

    def _begun(self, found: LaneSocket) -> float:
        seconds = age(found.began, self._now)
        return float("-inf") if seconds is None else -seconds


def _size(found: LaneSocket) -> int:
    return (found.up or 0) + (found.down or 0)


class CarriedBytes:
    """Asks how many bytes sockets have carried, by a program (``programs/carried.h``) that is loaded for that."""

    def __init__(self) -> None:
        self._loaded: BpfObject | None = None

    def __enter__(self) -> CarriedBytes:
        table = RoutingTable.from_policy(TrafficPolicy.model_validate({"total": "1Mbit"}))
        try:
            self._loaded = load(compile_table(table, ClassIds.assign([]), HashKeys.draw()), names=(CARRIED,))
        except BpfError as error:
            self._give_up(error)
        return self

    def __exit__(self, *exception: object) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def by(self, sockets: list[LaneSocket]) -> Iterator[LaneSocket]:
        """The sockets with their bytes, where these can be had."""
        for at in range(0, len(sockets), MOST_ASKED):
            yield from self._of(sockets[at : at + MOST_ASKED])

    def _of(self, sockets: list[LaneSocket]) -> Iterable[LaneSocket]:
        if self._loaded is None:
            return sockets
        try:
            return answered(sockets, frame_after(self._loaded.program(CARRIED), questions(sockets)))
        except BpfError as error:
            self._give_up(error)
            return sockets

    def _give_up(self, error: BpfError) -> None:
        log.warning("connections are listed without their bytes", error=str(error).splitlines()[0])
        self.__exit__()


def _told(
    found: LaneSocket, names: dict[int, str], known: Callable[[int, int], KnownName | None], now: int
) -> LiveConnection:
    protocol, name = found.protocol, normalise_host(found.name.decode("ascii", "replace"))
    if protocol is None:
        protocol, name = known(found.cookie, found.first_byte) or (None, None)
    ours, theirs = (
        (str(ipaddress.ip_address(address)), int.from_bytes(port, "big"))
        for address, port in ((found.ours, found.our_port), (found.theirs, found.their_port))
    )
    client, destination = (theirs, ours) if found.inbound else (ours, theirs)
    return LiveConnection(
        names.get(found.class_id),
        client,
        destination,
        (Bound.INBOUND if found.inbound else Bound.OUTBOUND).value,
        name,
        protocol,
        found.state,
        age(found.began, now),
        found.up,
        found.down,
    )
