"""The hook of kernels before Linux 6.6, and of processes that may not look programs up: a filter of the clsact qdisc.

Everything is done by rtnetlink, which takes NET_ADMIN alone. The filter's name says whose program it is and of which
generation, so that a process that may not open a program of another one (BPF_PROG_GET_FD_BY_ID takes SYS_ADMIN) still
knows what it finds, replaces it, and takes it away.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Final

from datapath.ebpf.libbpf import BpfError, program_by_id
from tc_core.netlink.codec import NetlinkError, attribute, attributes, number, string, text, u32
from tc_core.netlink.socket import NetlinkSocket
from tc_core.qdiscs.hooks import (
    EGRESS_HOOK,
    INGRESS,
    INGRESS_HANDLE,
    INGRESS_HOOK,
    PROGRAM_PRIO,
    PROGRAM_PRIO_ARRIVING,
)
from tc_core.rtnetlink import messages as m
from tc_core.rtnetlink.messages import TcMessage, tc_message

_HOOKS: Final = (int(EGRESS_HOOK), int(INGRESS_HOOK))
_HANDLE: Final = 1
_ETH_P_ALL: Final = 3
_MADE: Final = "+clsact"
"""Suffix of the name of a filter that the qdisc came with: then it goes with it, if no others have come to use it."""
_DIRECT_ACTION: Final = 1
"""TCA_BPF_FLAG_ACT_DIRECT (linux/pkt_cls.h): what the program returns is what becomes of the packet."""
_TCA_BPF_CLASSID: Final = 3
_TCA_BPF_FLAGS: Final = 8
_TCA_BPF_ID: Final = 11


@dataclass(frozen=True, slots=True)
class _Filter:
    """Our filter: what its name says, and the id of its program. ``made``: the clsact qdisc came with it."""

    generation: int
    program: int
    made: bool


class ClsactHook:
    """A filter of the clsact qdisc, in direct-action mode; or of an HTB qdisc, whose classes the program then names."""

    def __init__(self, ifindex: int, name: str, parent: int = int(EGRESS_HOOK)) -> None:
        """``name`` is that of the program's function, ``parent`` a hook of clsact, or the handle of an HTB qdisc."""
        self._ifindex = ifindex
        self._name = name
        self._parent = parent
        priority = PROGRAM_PRIO_ARRIVING if parent == int(INGRESS_HOOK) else PROGRAM_PRIO
        self._info = priority << 16 | socket.htons(_ETH_P_ALL)

    def attach(self, program: int, generation: int = 0) -> None:
        """Attach a program, in the place of ours if there is one. Raises :class:`BpfError`."""
        before = self._find()
        made = before.made if before is not None else self._parent in _HOOKS and self._make_clsact()
        name = f"{self._name}:{generation}{_MADE if made else ''}"
        options = u32(m.TCA_BPF_FD, program) + text(m.TCA_BPF_NAME, name) + u32(_TCA_BPF_FLAGS, _DIRECT_ACTION)
        if self._parent not in _HOOKS:
            options += u32(_TCA_BPF_CLASSID, self._parent)  # to which the program adds the minor number
        data = text(m.TCA_KIND, "bpf") + attribute(m.TCA_OPTIONS, options)
        wanted = tc_message(m.RTM_NEWTFILTER, m.PUT, self._ifindex, _HANDLE, self._parent, self._info, data)
        _ask("the program could not be attached (clsact)", wanted)

    def attached(self) -> bool:
        """Whether our program is there. Raises :class:`BpfError`."""
        return self._find() is not None

    def program(self) -> int | None:
        """The id of our program there. Raises :class:`BpfError`."""
        found = self._find()
        return None if found is None else found.program

    def holds(self, program: int) -> bool:
        """Whether the program with this id is there. Raises :class:`BpfError`."""
        return self.program() == program

    def generation(self) -> int | None:
        """The generation with which it was attached. Raises :class:`BpfError`."""
        found = self._find()
        return None if found is None else found.generation

    def ours(self) -> int | None:
        """A descriptor of our program there, for the caller to close. Takes SYS_ADMIN. Raises :class:`BpfError`."""
        found = self._find()
        return None if found is None else program_by_id(found.program)

    def detach(self) -> None:
        """Take our program away, if it is there. Raises :class:`BpfError`."""
        found = self._find()
        if found is None:
            return
        data = text(m.TCA_KIND, "bpf")
        gone = tc_message(m.RTM_DELTFILTER, m.DELETE, self._ifindex, _HANDLE, self._parent, self._info, data)
        _ask("the filter could not be taken away", gone, errno.ENOENT)
        if found.made and not any(self._filters(parent) for parent in _HOOKS):
            gone = self._clsact(m.RTM_DELQDISC, m.DELETE)
            _ask("clsact could not be taken away", gone, errno.ENOENT)

    def _make_clsact(self) -> bool:
        """Whether there was none."""
        try:
            _ask("clsact could not be made", self._clsact(m.RTM_NEWQDISC, m.MAKE))
        except BpfError as error:
            if error.number != errno.EEXIST:
                raise
            return False
        return True

    def _clsact(self, kind: int, flags: int) -> bytes:
        data = text(m.TCA_KIND, "clsact")
        return tc_message(kind, flags, self._ifindex, int(INGRESS_HANDLE), int(INGRESS), data=data)

    def _filters(self, parent: int) -> list[bytes]:
        dump = tc_message(m.RTM_GETTFILTER, m.ASK_ALL, self._ifindex, 0, parent)
        # Without the qdisc the kernel says EINVAL or nothing.
        return _ask("the filters of the interface could not be listed", dump, errno.EINVAL)

    def _find(self) -> _Filter | None:
        for payload in self._filters(self._parent):
            message = TcMessage.parse(payload)
            data = message.attributes.get(m.TCA_OPTIONS)
            if data is None or message.handle != _HANDLE or message.info != self._info:
                continue
            options = attributes(data)
            whole = string(options, m.TCA_BPF_NAME)
            name, _, generation = whole.removesuffix(_MADE).partition(":")
            if name == self._name and generation.isdecimal():
                return _Filter(int(generation), number(options, _TCA_BPF_ID), whole.endswith(_MADE))
        return None


def _ask(what: str, request: bytes, tolerated: int = 0) -> list[bytes]:
    """What the kernel answers; nothing where it says the error that is ``tolerated``. Raises :class:`BpfError`."""
    try:
        with NetlinkSocket() as netlink:
            return netlink.ask(request)
    except NetlinkError as error:
        number_ = error.errno or errno.EIO
        if number_ == tolerated:
            return []
        raise BpfError(what, number_) from None
