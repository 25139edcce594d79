"""The programs in force at one interface: put there, gone on with after a restart, and taken away.

They live on at the interface when this process ends, and so do the verdicts, which are kept with the sockets. A new
policy is a new object with maps of its own, attached in the place of the old one; of the maps only that with the
verdicts is taken over, as it is by the next process. No packet goes without a program meanwhile.

All calls block, and are about the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import Final

from datapath.ebpf.hooks import EgressHook, egress_hook
from datapath.ebpf.libbpf import BpfError, LibbpfMissingError, map_of_program
from datapath.ebpf.policy_maps import ETHERNET, HashKeys, compile_table
from datapath.ebpf.program import EGRESS, FLOWS, load
from datapath.routing.table import RoutingTable
from tc_core.errors import InterfaceNotFoundError
from tc_core.kernel import interface_not_found
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Network, PortRange

_SIOCGIFHWADDR: Final = 0x8927
_WITH_ETHERNET_HEADERS: Final = (1, 772)
"""ARPHRD_ETHER and ARPHRD_LOOPBACK (linux/if_arp.h)"""


class Lane:
    """The programs of one interface."""

    def __init__(self, interface: str) -> None:
        self._interface = interface

    def put(
        self,
        table: RoutingTable,
        ids: ClassIds,
        exclude_ports: Sequence[PortRange] = (),
        exclude_networks: Sequence[Network] = (),
    ) -> bool:
        """Put a routing table in force; returns whether programs of ours were there already.

        Raises :class:`~datapath.ebpf.libbpf.BpfError`, :class:`~datapath.ebpf.program.ObjectMissingError`,
        :class:`ConfigError`, :class:`InterfaceNotFoundError`.
        """
        maps = compile_table(
            table,
            ids,
            HashKeys.draw(),
            generation=1 + secrets.randbelow(2**32 - 1),
            link_header=self._link_header(),
            exclude_ports=exclude_ports,
            exclude_networks=exclude_networks,
        )
        hook = self._hook()
        flows = _flows(hook)
        try:
            with load(maps, {} if flows is None else {FLOWS: flows}) as loaded:
                hook.attach(loaded.program(EGRESS))
        finally:
            if flows is not None:
                os.close(flows)
        return flows is not None

    def missing(self) -> list[str]:
        """What is not there any more. Raises :class:`~datapath.ebpf.libbpf.BpfError`."""
        program = self._hook().ours()
        if program is None:
            return [f"the program {EGRESS} at {self._interface}"]
        os.close(program)
        return []

    def remove(self) -> None:
        """Take the programs away, and with them the maps and verdicts. Raises what :meth:`missing` raises."""
        self._hook().detach()

    def _link_header(self) -> int:
        """Bytes before the network header of what leaves: those of Ethernet, or none (tunnels)."""
        request = struct.pack("16sH22x", self._interface.encode(), 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, request)
        return ETHERNET if struct.unpack_from("=H", answer, 16)[0] in _WITH_ETHERNET_HEADERS else 0

    def _hook(self) -> EgressHook:
        try:
            index = socket.if_nametoindex(self._interface)
        except OSError:
            raise interface_not_found(self._interface, (name for _, name in socket.if_nameindex())) from None
        return egress_hook(index, EGRESS)


def _flows(hook: EgressHook) -> int | None:
    """A descriptor of the map with the verdicts, of programs that are attached."""
    program = hook.ours()
    if program is None:
        return None
    try:
        return map_of_program(program, FLOWS)
    finally:
        os.close(program)


def remove_programs(interface: str) -> None:
    """Take programs away that an earlier process has left at an interface. Without libbpf there are none.

    Raises :class:`~datapath.ebpf.libbpf.BpfError` where they are and cannot be taken away.
    """
    try:
        Lane(interface).remove()
    except (LibbpfMissingError, InterfaceNotFoundError):
        return
    except BpfError as error:
        if error.number not in (errno.EPERM, errno.EACCES):
            raise
        # Who may not look has not put any there.
