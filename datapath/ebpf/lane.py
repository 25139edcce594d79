"""The programs in force at one interface: put there, gone on with after a restart, and taken away.

They live on at the interface when this process ends, and so do the verdicts, which are kept with the sockets. A new
policy is a new object with maps of its own, attached in the place of the old one; of the maps only those are taken
over that are not about the policy (:data:`~datapath.ebpf.program.LASTING`, and those that programs of several
interfaces share), as they are by the next process with SYS_ADMIN. One without goes on with programs that mean what it
wants; when it puts others there, connections that are open go by port. No packet goes without a program meanwhile.

All calls block, and are about the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Final

from daemon.log import Logger
from datapath.ebpf.clsact import ClsactHook
from datapath.ebpf.datagrams import MAX_FLOWS
from datapath.ebpf.hooks import Point, ProgramHook, hook_at
from datapath.ebpf.libbpf import BpfError, BpfObject, LibbpfMissingError, map_entries, maps_of_program, may_look_up
from datapath.ebpf.node_link import NodeLink, check_free
from datapath.ebpf.policy_maps import ETHERNET, NOTHING_EXCLUDED, Exclusions, HashKeys, PolicyMaps, compile_table
from datapath.ebpf.program import EGRESS, INGRESS, LASTING, OBJECT, SHARED, TO_POD, UDP_FLOWS, ObjectMissingError
from datapath.ebpf.shared_maps import LaneMaps, SharedMaps
from datapath.network_namespace import here
from datapath.routing.table import RoutingTable
from tc_core.compile.mark_tree import ROOT_HANDLE
from tc_core.compile.packet_tree import ifb_name
from tc_core.errors import InterfaceNotFoundError
from tc_core.kernel import interface_not_found
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Bound

log = Logger()

_SIOCGIFHWADDR: Final = 0x8927
_NAMES: Final = {Point.EGRESS: EGRESS, Point.INGRESS: INGRESS}
"""By the way that packets go, as the Pod sees it."""
_NAMES_AT_NODE: Final = {Point.EGRESS: EGRESS, Point.INGRESS: TO_POD}
_WITH_ETHERNET_HEADERS: Final = (1, 772)
"""ARPHRD_ETHER and ARPHRD_LOOPBACK (linux/if_arp.h)"""


class Lane:
    """The programs of one interface."""

    def __init__(self, interface: str, shared: SharedMaps | None = None, link: NodeLink | None = None) -> None:
        """``shared``: maps that it has in common with others; without them it has its own. ``link``: the interface is
        the node's end of it, not the Pod's, so that what the Pod sends arrives there."""
        self._interface = interface
        self._link = link
        self._shared = shared or SharedMaps()
        self._number = 0
        self._maps: dict[str, int] = {}
        """Descriptors that are this object's to close."""
        self._retired: list[int] = []
        """Those of maps that are not in force any more: somebody may still be reading the old ones."""
        self._listens = False  # whether what clients send may decide
        self._there: dict[Point, tuple[int, ProgramHook, int]] = {}
        """The interface's index, the hook, and the id of the program that was left there."""

    @property
    def lasting(self) -> LaneMaps | None:
        """The maps that outlive a policy.

        None while programs of an earlier process are in force whose maps this one may not open.
        """
        return LaneMaps(self._number, {**self._shared.fds, **self._maps}) if self._maps else None

    def put(
        self,
        table: RoutingTable,
        ids: ClassIds,
        exclude: Exclusions = NOTHING_EXCLUDED,
        meaning: str | None = None,
        received: frozenset[int] = frozenset(),
    ) -> bool:
        """Put a routing table in force; returns whether programs of ours were there already.

        ``meaning`` says all of it in words of its own: programs that an earlier call has put there with the same ones
        are left as they are. None: they are always replaced. ``received``: ids of classes that limit what arrives.

        Raises :class:`~datapath.ebpf.libbpf.BpfError`, :class:`~datapath.ebpf.program.ObjectMissingError`,
        :class:`ConfigError`, :class:`InterfaceNotFoundError`.
        """
        self._listens = table.captures(Bound.INBOUND) or table.hears_quic or bool(received)
        hooks = {point: self._hook(point) for point in self._points}
        hook, link_header = hooks[Point.EGRESS], self._link_header()
        # While it is there no other namespace has the number, nor another one when the next process asks.
        self._number = self._link.lane if self._link is not None else here()[1] & 0xFFFFFFFF
        generation = 1 + secrets.randbelow(2**32 - 1)
        if meaning is not None:
            place = f"{self._link} {sorted(received)}" if self._link is not None else ""
            generation = _generation(f"{link_header} {self._shared.sizes} {meaning}{place}")
            if all(each.generation() == generation for each in hooks.values()):
                self._adopt(hook)
                self._maps = self._shared.offer(self._maps)
                self._remember(hooks)
                return True
        maps = compile_table(
            table,
            ids,
            HashKeys.draw(),
            generation=generation,
            link_header=link_header,
            lane=self._number,
            exclude=exclude,
            sockets=None if self._link is None else self._link.sockets,
            received=received,
        )
        adopted = hook.attached()
        if adopted:
            self._adopt(hook)
        with self._load(maps, {UDP_FLOWS: MAX_FLOWS if table.reads_quic else 1}) as loaded:
            hook.attach(loaded.program(EGRESS), generation)
            if self._listens:
                hooks[Point.INGRESS].attach(loaded.program(self._name(Point.INGRESS)), generation)
            else:
                self._hook(Point.INGRESS).detach()
            for name in LASTING:
                if name not in self._maps:
                    self._maps[name] = os.dup(loaded.map(name).fd)
        self._retire(SHARED)
        self._remember(hooks)
        return adopted

    @property
    def _points(self) -> tuple[Point, ...]:
        """The hooks at which programs are wanted."""
        return (Point.EGRESS, Point.INGRESS) if self._listens else (Point.EGRESS,)

    def _remember(self, hooks: Mapping[Point, ProgramHook]) -> None:
        """Which programs are there, so that to miss them takes little."""
        self._there = {}
        for point, hook in hooks.items():
            program = hook.program()
            if program is not None:
                self._there[point] = self._index(point), hook, program

    def _adopt(self, hook: ProgramHook) -> None:
        """Go on with the maps of an earlier process, if they can be had."""
        if self._maps:
            return
        if not may_look_up():
            log.info("to go on with the maps of another process takes SYS_ADMIN")
            return
        program = hook.ours()
        if program is None:
            return
        try:
            self._maps = maps_of_program(program, (*LASTING, *SHARED))
        finally:
            os.close(program)

    def _retire(self, names: Iterable[str]) -> None:
        self._retired += [self._maps.pop(name) for name in names if name in self._maps]

    def _load(self, maps: PolicyMaps, sizes: Mapping[str, int]) -> BpfObject:
        """With the maps that outlive a policy; new ones if another build has left some that cannot be used."""
        self._retire([n for n, most in sizes.items() if n in self._maps and map_entries(self._maps[n]) != most])
        names = [self._name(point) for point in self._points]
        try:
            return self._shared.load(maps, self._maps, sizes, names)
        except BpfError as error:
            if not self._maps:
                raise
            # If that fails too, the maps are not the reason.
            loaded = self._shared.load(maps, {}, sizes, names)
            log.warning("connections that are open go by port from now on", reason=str(error).splitlines()[0])
            self._retire(list(self._maps))
            return loaded

    def close(self) -> None:
        """Let go of the maps; what is attached stays."""
        self._retire(list(self._maps))
        while self._retired:
            os.close(self._retired.pop())

    def missing(self) -> list[str]:
        """What is not there any more. Raises :class:`~datapath.ebpf.libbpf.BpfError`, and at the node's end
        :class:`~datapath.ebpf.node_link.NoNodeLinkError` when others have come there."""
        if self._link is not None:
            with NetlinkKernel() as kernel:
                check_free(kernel, self._interface)
        return [f"the program {self._name(point)} at {self._interface}" for point in self._points if self._lacks(point)]

    def _lacks(self, point: Point) -> bool:
        index, there = self._index(point), self._there.get(point)
        return there is None or there[0] != index or not there[1].holds(there[2])

    def remove(self) -> None:
        """Take the programs away, and with them the maps and verdicts. Raises what :meth:`missing` raises."""
        self.close()
        for point in Point:  # that for what leaves last: with it goes the clsact qdisc that came with it
            with suppress(InterfaceNotFoundError):
                self._hook(point).detach()

    def _link_header(self) -> int:
        """Bytes before the network header of what leaves: those of Ethernet, or none (tunnels)."""
        request = struct.pack("16sH22x", self._interface.encode(), 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, request)
        return ETHERNET if struct.unpack_from("=H", answer, 16)[0] in _WITH_ETHERNET_HEADERS else 0

    def _name(self, point: Point) -> str:
        return _NAMES[point] if self._link is None else _NAMES_AT_NODE[point]

    def _hook(self, point: Point = Point.EGRESS) -> ProgramHook:
        """Where the program is for what the Pod sends, or for what it receives."""
        if self._link is None:
            return hook_at(self._index(point), _NAMES[point], point)
        if point is Point.EGRESS:
            return ClsactHook(self._index(point), EGRESS, int(ROOT_HANDLE))
        return hook_at(self._index(point), TO_POD, Point.EGRESS)

    def _index(self, point: Point) -> int:
        """Of the interface; what a Pod sends waits in a queue of another one at the node's end."""
        elsewhere = self._link is not None and point is Point.EGRESS
        device = ifb_name(self._interface) if elsewhere else self._interface
        try:
            return socket.if_nametoindex(device)
        except OSError:
            raise interface_not_found(device, (name for _, name in socket.if_nameindex())) from None


def _generation(meaning: str) -> int:
    """The number of what is in force: the same for the same programs and meaning."""
    whole = hashlib.sha256(f"{_programs_digest()} {meaning}".encode()).digest()
    return int.from_bytes(whole[:4], "little") or 1


@cache
def _programs_digest() -> str:
    try:
        return hashlib.sha256(OBJECT.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise ObjectMissingError from None


def remove_programs(interface: str, *, at_node: bool = False) -> None:
    """Take programs away that an earlier process has left at an interface. Without libbpf there are none.

    ``at_node``: it is the node's end of a Pod's link.

    Raises :class:`~datapath.ebpf.libbpf.BpfError` where they are and cannot be taken away.
    """
    try:
        Lane(interface, link=NodeLink(interface, 0, 0) if at_node else None).remove()
    except LibbpfMissingError:
        return
    except BpfError as error:
        if error.number not in (errno.EPERM, errno.EACCES):
            raise
        # Who may not look has not put any there.
