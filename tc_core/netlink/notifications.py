"""Whether the kernel has announced changes, without reading what they are. See netlink(7), "Multicast groups".

Only that something changed is of interest, so a small buffer does: when it overflows, the next call says so too. Nobody
is woken by an announcement.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from tc_core.bpf import classic_assembler as asm
from tc_core.netlink.codec import NetlinkError
from tc_core.netlink.socket import NETFILTER, ROUTE

_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_BUFFER: Final = 8192
_SO_ATTACH_FILTER: Final = 26
_INSTRUCTION: Final = struct.Struct("=HBBI")
"""struct sock_filter (linux/filter.h)"""
_INTERFACE_AT: Final = 20
"""Of its number in a message, behind struct nlmsghdr: the same in struct ifinfomsg and struct tcmsg."""
_WHOLE: Final = 0xFFFFFFFF
TRAFFIC_CONTROL: Final = (ROUTE, (1, 4))
"""RTNLGRP_LINK and RTNLGRP_TC of linux/rtnetlink.h: interfaces, qdiscs, classes and filters."""
ROUTING: Final = (ROUTE, (7, 8, 11, 19))
"""RTNLGRP_IPV4_ROUTE, IPV4_RULE, IPV6_ROUTE and IPV6_RULE."""
NFTABLES: Final = (NETFILTER, (7,))
"""NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h; it takes CAP_NET_ADMIN."""


class Notifications:
    """A socket of the network namespace of the thread that makes it, for one protocol and some of its groups."""

    def __init__(self, protocol: int, groups: Sequence[int]) -> None:
        """Raises :class:`NetlinkError`."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO) from None
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise NetlinkError(error.errno or errno.EIO) from None

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def only_about(self, interfaces: Iterable[int]) -> None:
        """Hear of these interfaces alone from now on, by their numbers: where there are hundreds, what changes at one
        would wake those who look after the others. For :data:`TRAFFIC_CONTROL`. Raises :class:`NetlinkError`."""
        program = b"".join(_INSTRUCTION.pack(*each) for each in _about(interfaces))
        instructions = ctypes.create_string_buffer(program, len(program))
        whole = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(instructions))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, whole)  # in the place of an earlier one
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO) from None

    def arrived(self) -> bool:
        """Whether anything was announced since the last call."""
        found = False
        while True:
            try:
                self._socket.recv(1)  # the rest of the message is discarded
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # announcements were lost
                    raise
            found = True


def _about(interfaces: Iterable[int]) -> Sequence[asm.Instruction]:
    """A filter that takes messages about these."""
    program, takes = asm.Assembler(), asm.Label()
    program.op(asm.LD_WORD, _INTERFACE_AT)
    for number in interfaces:
        program.jump(asm.IF_EQUAL, socket.htonl(number), yes=takes)  # it is loaded as if in network byte order
    program.op(asm.RETURN, 0)
    program.place(takes)
    program.op(asm.RETURN, _WHOLE)
    return program.assemble()
