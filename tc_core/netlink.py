"""The kernel itself, by rtnetlink(7): the only place where traffic control is read and changed.

pyroute2 makes and reads the messages (:mod:`tc_core.requests`, :mod:`tc_core.answers`); the socket is our own, a plain
blocking one. pyroute2's synchronous ``IPRoute`` was tried first: it runs an asyncio event loop with a socket of its own
in every thread that touches it, which trio's changing worker threads would leave behind, and each of those sockets is
in the namespace of its thread rather than in that of the thread that asked for the object.

The socket belongs to the network namespace of the thread that made it and stays there. Any thread may call, one at a
time (a lock sees to it). Errors carry the kernel's own explanation (NETLINK_EXT_ACK) where it has one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Self

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, rtnl
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from tc_core import answers, requests
from tc_core.bpf import load
from tc_core.errors import KernelError
from tc_core.handles import Handle
from tc_core.kernel import AddFilter, AddLink, Change, Counters, ReplaceFilter, interface_not_found, refused
from tc_core.layouts import LAYOUTS
from tc_core.model import (
    EGRESS_HOOK,
    INGRESS_HOOK,
    BpfFilter,
    BpfFlavour,
    Clsact,
    Filter,
    HtbQdisc,
    Link,
    Observed,
    RedirectFilter,
)
from tc_core.socket_program import load_for_sockets
from tc_core.stats import with_leaf_drops

_SOL_NETLINK: Final = 270
_NETLINK_EXT_ACK: Final = 11
_NLM_F_DUMP_INTR: Final = 0x10
"""Set in a dump during which something changed: parts of it may be old, so it has to be asked again."""
_DUMP_ATTEMPTS: Final = 5
_RECEIVE_SIZE: Final = 1 << 16
"""Bytes; the kernel fills at most 32 KiB per message batch."""
_TIMEOUT: Final = 10.0
"""Seconds. The kernel answers before send() returns; waiting longer than this means that an answer was lost."""


class NetlinkKernel:
    """Traffic control in the network namespace of the thread that makes this object. See :class:`Kernel`.

    Raises :class:`KernelError` when no netlink socket can be had.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            self._socket.bind((0, 0))
        except OSError as error:
            raise refused("opening a netlink socket", error.errno or errno.EIO) from None
        self._socket.settimeout(_TIMEOUT)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._lock = threading.Lock()
        self._sequence = 0
        self._seen: dict[str, int] = {}
        """Indices of interfaces as they were last observed. To ask for one takes as long as to change a class."""
        self._marshal = MarshalRtnl()
        self._marshal.msg_map.update(LAYOUTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. The kernel's state stays as it is."""
        self._socket.close()

    # --- Kernel --------------------------------------------------------------------------------------------------

    def observe(self, interface: str) -> Observed:
        """What is there now. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`."""
        index, link_message = self._find(interface)
        self._seen[interface] = index
        link = answers.link_of(link_message)
        qdiscs = tuple(answers.qdisc_of(m) for m in self._dump_tc(rtnl.RTM_GETQDISC, index))
        observed = Observed(link, qdiscs)
        root, ingress_qdisc = observed.root, observed.ingress_qdisc
        classes = self._dump_tc(rtnl.RTM_GETTCLASS, index) if isinstance(root, HtbQdisc) else ()
        return replace(
            observed,
            classes=tuple(
                c
                for m in classes
                if (c := answers.class_of(m)) is not None and root is not None and c.handle.major == root.handle.major
            ),
            filters=tuple(f for qdisc in observed.filtering for f in self._filters(index, qdisc.handle)),
            ingress=self._filters(index, INGRESS_HOOK) if ingress_qdisc else (),
            # Asked for what leaves, an ``ingress`` qdisc tells what arrives.
            egress=self._filters(index, EGRESS_HOOK) if isinstance(ingress_qdisc, Clsact) else (),
        )

    def _filters(self, index: int, parent: Handle) -> tuple[Filter, ...]:
        messages = list(self._dump_tc(rtnl.RTM_GETTFILTER, index, parent))
        if parent in (INGRESS_HOOK, EGRESS_HOOK):
            names = self._names() if messages else {}
            found = [answers.hook_filter_of(m, names) for m in messages]
        else:
            found = [answers.filter_of(m) for m in messages]
        return tuple(dict.fromkeys(f for f in found if f is not None))

    def apply(self, interface: str, change: Change) -> None:
        """Make one change. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`."""
        operation = change.command(interface)
        if isinstance(change, AddLink):
            self._add_link(interface, change)
            return
        index = self._seen.get(interface)
        if index is not None:
            try:
                self._make(operation, index, change)
            except KernelError as error:
                if error.errno != errno.ENODEV:
                    raise
                del self._seen[interface]  # it is gone, or another one of this name has come
            else:
                return
        self._make(operation, self._find(interface)[0], change)

    def _make(self, operation: str, index: int, change: Change) -> None:
        match change:
            case AddFilter(BpfFilter(flavour=BpfFlavour.EBPF) as wanted) | ReplaceFilter(
                BpfFilter(flavour=BpfFlavour.EBPF) as wanted
            ):
                loaded = load(wanted.class_ids or frozenset(), wanted.parent)
                self._ask_with_program(operation, index, change, loaded)
            case AddFilter(RedirectFilter() as redirect) | ReplaceFilter(RedirectFilter() as redirect):
                device = next((i for i, name in self._names().items() if name == redirect.device), None)
                if device is None:
                    raise refused(operation, errno.ENODEV, f"There is no interface {redirect.device!r}")
                program = load_for_sockets(redirect.class_ids or frozenset()) if redirect.program else None
                self._ask_with_program(operation, index, change, program, device)
            case _:
                self._ask(operation, requests.request(index, change))

    def _ask_with_program(
        self, operation: str, index: int, change: Change, program: int | None, device: int | None = None
    ) -> None:
        """Make a change whose filter holds the loaded ``program`` from then on."""
        try:
            self._ask(operation, requests.request(index, change, program=program, device=device))
        finally:
            if program is not None:
                os.close(program)

    def _add_link(self, interface: str, change: AddLink) -> None:
        """Make the link, and set it up; when that fails it goes again."""
        operation = change.command(interface)
        self._ask(operation, requests.add_link_request(interface, change.kind))
        try:
            index, _ = self._find(interface)
            self._ask(operation, requests.request(index, change))
        except KernelError:
            self._ask(f"ip link del dev {interface}", requests.delete_link_request(interface))
            raise

    def counters(self, interface: str) -> Counters:
        """Counters of every HTB class by handle. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`."""
        index, _ = self._find(interface)
        queues = self._dump_tc(rtnl.RTM_GETQDISC, index)
        leaf_drops = {Handle.from_int(m["parent"]): answers.qdisc_stats_of(m).drops for m in queues}
        return {
            handle: with_leaf_drops(answers.class_stats_of(m), leaf_drops.get(handle, 0))
            for m in self._dump_tc(rtnl.RTM_GETTCLASS, index)
            if m.get_attr("TCA_KIND") == "htb"
            for handle in [Handle.from_int(m["handle"])]
        }

    def qdisc_counters(self, interface: str) -> Counters:
        """Counters of every qdisc that has a handle. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`."""
        index, _ = self._find(interface)
        return {
            handle: answers.qdisc_stats_of(m)
            for m in self._dump_tc(rtnl.RTM_GETQDISC, index)
            for handle in [Handle.from_int(m["handle"])]
            if handle.major
        }

    def interfaces(self) -> Mapping[str, Link]:
        """Every interface by name. Raises :class:`KernelError`."""
        links = [answers.link_of(m) for m in self._ask("ip link show", requests.link_request(None))]
        return {link.name: link for link in links}

    def default_route_interface(self) -> str | None:
        """The interface of the preferred default route, IPv4 before IPv6. Raises :class:`KernelError`."""
        for family in (socket.AF_INET, socket.AF_INET6):
            routes = self._ask("ip route show default", requests.routes_request(family))
            found = [route for m in routes if (route := answers.default_route_of(m)) is not None]
            if found:
                _, index = min(found)
                return self._names().get(index)
        return None

    # --- a place to try things -----------------------------------------------------------------------------------

    @contextmanager
    def temporary_link(self, name: str) -> Iterator[None]:
        """A veth pair, down, that goes with the block; one of that name that an aborted run left is replaced.

        Raises :class:`KernelError`, with EPERM without CAP_NET_ADMIN.
        """
        operation = f"ip link add {name} type veth"
        try:
            self._ask(operation, requests.add_link_request(name, "veth"))
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            self._ask(f"ip link del {name}", requests.delete_link_request(name))
            self._ask(operation, requests.add_link_request(name, "veth"))
        try:
            yield
        finally:
            self._ask(f"ip link del {name}", requests.delete_link_request(name))

    # --- asking --------------------------------------------------------------------------------------------------

    def _find(self, interface: str) -> tuple[int, Any]:
        """Index and RTM_NEWLINK message of an interface."""
        if not 0 < len(interface.encode()) < 16:  # IFNAMSIZ counts the closing zero; the kernel would say EINVAL
            raise interface_not_found(interface, self._names().values())
        try:
            message = self._ask(f"ip link show {interface}", requests.link_request(interface))[0]
        except KernelError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL):
                raise interface_not_found(interface, self._names().values()) from None
            raise
        return int(message["index"]), message

    def _names(self) -> dict[int, str]:
        links = self._ask("ip link show", requests.link_request(None))
        return {int(m["index"]): str(m.get_attr("IFLA_IFNAME")) for m in links}

    def _dump_tc(self, kind: int, index: int, parent: Handle | None = None) -> Iterator[Any]:
        """Dumped messages of one interface. Before Linux 4.20 the kernel lists qdiscs of all interfaces anyway."""
        for message in self._ask("reading traffic control", requests.dump_request(kind, index, parent)):
            if message["index"] == index:
                yield message

    def _ask(self, operation: str, request: Any) -> list[Any]:
        """Send a request; everything that the kernel answers. A dump that a change interrupted is asked again."""
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                parts, interrupted = self._exchange(operation, request)
                if not interrupted:
                    break
        return parts

    def _exchange(self, operation: str, request: Any) -> tuple[list[Any], bool]:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        request["header"]["sequence_number"] = self._sequence
        request["header"]["pid"] = 0
        request.reset()
        request.encode()
        try:
            self._socket.send(request.data)
            return self._receive(operation, request["header"]["flags"])
        except OSError as error:
            raise refused(operation, error.errno or errno.ETIMEDOUT) from None

    def _receive(self, operation: str, flags: int) -> tuple[list[Any], bool]:
        """Read until the last part of the answer: DONE for a dump, an acknowledgement, or the one message asked for."""
        parts: list[Any] = []
        interrupted = False
        several = flags & NLM_F_DUMP == NLM_F_DUMP
        while True:
            data = self._socket.recv(_RECEIVE_SIZE)
            for kind, message_flags, sequence, offset, length in _headers(data):
                if sequence != self._sequence:
                    continue  # the rest of an answer that an earlier error cut short
                interrupted = interrupted or bool(message_flags & _NLM_F_DUMP_INTR)
                if kind == NLMSG_ERROR:
                    self._raise_error(operation, message_flags, data, offset, length)
                    return parts, interrupted
                if kind == NLMSG_DONE:
                    return parts, interrupted
                parts.append(self._marshal.parse_one_message(kind, message_flags, sequence, data, offset, length))
                if not several and not flags & NLM_F_ACK:
                    return parts, interrupted

    def _raise_error(self, operation: str, flags: int, data: bytes, offset: int, length: int) -> None:
        """Raise what an NLMSG_ERROR says; 0 is the acknowledgement."""
        (code,) = struct.unpack_from("=i", data, offset + 16)
        if not code:
            return
        message = self._marshal.parse_one_message(NLMSG_ERROR, flags, self._sequence, data, offset, length)
        error = message["header"]["error"]
        words = error.args[1] if isinstance(error, NetlinkError) and len(error.args) > 1 else None
        raise refused(operation, -code, words)


def _headers(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(type, flags, sequence number, offset, length) of each message in a datagram (struct nlmsghdr)."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence = struct.unpack_from("=IHHI", data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, offset, length
        offset += (length + 3) & ~3
