"""Access to the kernel by rtnetlink(7): the only module that reads and changes traffic control.

Messages are made by :mod:`.requests`, read by :mod:`.answers`, and sent by
:class:`~tc_core.netlink.socket.NetlinkSocket`: it belongs to the network namespace of the thread that made it and stays
there, and any thread may call.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

from tc_core.bpf.socket_program import load_for_sockets
from tc_core.errors import KernelError
from tc_core.handles import Handle
from tc_core.kernel import AddFilter, AddLink, Change, Counters, ReplaceFilter, interface_not_found, refused
from tc_core.model import (
    EGRESS_HOOK,
    INGRESS_HOOK,
    Clsact,
    Filter,
    HtbClass,
    HtbQdisc,
    Link,
    Observed,
    RedirectFilter,
)
from tc_core.netlink.codec import NetlinkError
from tc_core.netlink.socket import NetlinkSocket
from tc_core.rtnetlink import answers, requests
from tc_core.rtnetlink import messages as m
from tc_core.rtnetlink.messages import LinkMessage, RouteMessage, TcMessage
from tc_core.stats import with_leaf_drops


class NetlinkKernel:
    """Traffic control in the network namespace of the thread that makes this object. See :class:`Kernel`.

    Raises :class:`KernelError` when no netlink socket can be had.
    """

    def __init__(self) -> None:
        try:
            self._netlink = NetlinkSocket()
        except NetlinkError as error:
            raise refused("opening a netlink socket", error.errno or errno.EIO) from None
        self._seen: dict[str, int] = {}
        """Indices of interfaces as they were last observed. To ask for one takes as long as to change a class."""
        self._counted: dict[str, tuple[int, list[bytes], Counters]] = {}
        """Interfaces by name: index, the kernel's answer about their classes, and what it says."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. The kernel's state stays as it is."""
        self._netlink.close()

    # --- Kernel --------------------------------------------------------------------------------------------------

    def observe(self, interface: str) -> Observed:
        """What is there now. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`."""
        index, link_message = self._find(interface)
        self._seen[interface] = index
        link = answers.link_of(link_message)
        qdiscs = tuple(answers.qdisc_of(each) for each in self._dump_tc(m.RTM_GETQDISC, index))
        observed = Observed(link, qdiscs)
        root, ingress_qdisc = observed.root, observed.ingress_qdisc
        classes = self._classes(index, root.handle.major) if isinstance(root, HtbQdisc) else ()
        return replace(
            observed,
            classes=classes,
            filters=tuple(f for qdisc in observed.filtering for f in self._filters(index, qdisc.handle)),
            ingress=self._filters(index, INGRESS_HOOK) if ingress_qdisc else (),
            # Asked for what leaves, an ``ingress`` qdisc tells what arrives.
            egress=self._filters(index, EGRESS_HOOK) if isinstance(ingress_qdisc, Clsact) else (),
        )

    def _classes(self, index: int, major: int) -> tuple[HtbClass, ...]:
        found = map(answers.class_of, self._dump_tc(m.RTM_GETTCLASS, index))
        return tuple(c for c in found if c is not None and c.handle.major == major)

    def _filters(self, index: int, parent: Handle) -> tuple[Filter, ...]:
        messages = list(self._dump_tc(m.RTM_GETTFILTER, index, parent))
        if parent in (INGRESS_HOOK, EGRESS_HOOK):
            names = self._names() if messages else {}
            found = [answers.hook_filter_of(each, names) for each in messages]
        else:
            found = [answers.filter_of(each) for each in messages]
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
            case AddFilter(RedirectFilter() as redirect) | ReplaceFilter(RedirectFilter() as redirect):
                device = next((i for i, name in self._names().items() if name == redirect.device), None)
                if device is None:
                    raise refused(operation, errno.ENODEV, f"There is no interface {redirect.device!r}")
                program = load_for_sockets(redirect.class_ids or frozenset()) if redirect.program else None
                try:
                    self._ask(operation, requests.request(index, change, program=program, device=device))
                finally:
                    if program is not None:  # the filter holds it from then on
                        os.close(program)
            case _:
                self._ask(operation, requests.request(index, change))

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
        """Counters of every HTB class by handle. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`.

        The same object as before while no packet passes: nearly all of many interfaces are idle at any time.
        """
        index, seen, counters = self._counted.get(interface, (0, [], {}))
        classes = self._dump(m.RTM_GETTCLASS, index) if index else []
        if not classes:  # not counted before, or another interface of this name has come
            index, _ = self._find(interface)
            classes = self._dump(m.RTM_GETTCLASS, index)
        if classes != seen:
            counters = self._read_counters(index, classes)
            self._counted[interface] = index, classes, counters
        return counters

    def _read_counters(self, index: int, classes: list[bytes]) -> Counters:
        queues = self._dump_tc(m.RTM_GETQDISC, index)
        leaf_drops = {Handle.from_int(each.parent): answers.qdisc_stats_of(each).drops for each in queues}
        return {
            handle: with_leaf_drops(answers.class_stats_of(each), leaf_drops.get(handle, 0))
            for each in map(TcMessage.parse, classes)
            if answers.kind_of(each) == "htb"
            for handle in [Handle.from_int(each.handle)]
        }

    def qdisc_counters(self, interface: str) -> Counters:
        """Counters of every qdisc that has a handle. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`."""
        index, _ = self._find(interface)
        return {
            handle: answers.qdisc_stats_of(each)
            for each in self._dump_tc(m.RTM_GETQDISC, index)
            for handle in [Handle.from_int(each.handle)]
            if handle.major
        }

    def interfaces(self) -> Mapping[str, Link]:
        """Every interface by name. Raises :class:`KernelError`."""
        links = [answers.link_of(each) for each in self._links()]
        return {link.name: link for link in links}

    def default_route_interface(self) -> str | None:
        """The interface of the preferred default route, IPv4 before IPv6. Raises :class:`KernelError`."""
        for family in (socket.AF_INET, socket.AF_INET6):
            routes = self._ask("ip route show default", requests.routes_request(family))
            found = [
                route for each in routes if (route := answers.default_route_of(RouteMessage.parse(each))) is not None
            ]
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

    def _find(self, interface: str) -> tuple[int, LinkMessage]:
        """Index and RTM_NEWLINK message of an interface."""
        if not 0 < len(interface.encode()) < 16:  # IFNAMSIZ counts the closing zero; the kernel would say EINVAL
            raise interface_not_found(interface, self._names().values())
        try:
            [payload] = self._ask(f"ip link show {interface}", requests.link_request(interface))
        except KernelError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL):
                raise interface_not_found(interface, self._names().values()) from None
            raise
        message = LinkMessage.parse(payload)
        return message.index, message

    def _names(self) -> dict[int, str]:
        return {each.index: answers.link_of(each).name for each in self._links()}

    def _links(self) -> list[LinkMessage]:
        return [LinkMessage.parse(each) for each in self._ask("ip link show", requests.link_request(None))]

    def _dump_tc(self, kind: int, index: int, parent: Handle | None = None) -> Iterator[TcMessage]:
        """Dumped messages of one interface. Before Linux 4.20 the kernel lists qdiscs of all interfaces anyway."""
        for payload in self._dump(kind, index, parent):
            message = TcMessage.parse(payload)
            if message.index == index:
                yield message

    def _dump(self, kind: int, index: int, parent: Handle | None = None) -> list[bytes]:
        return self._ask("reading traffic control", requests.dump_request(kind, index, parent))

    def _ask(self, operation: str, request: bytes) -> list[bytes]:
        try:
            return self._netlink.ask(request)
        except NetlinkError as error:
            raise refused(operation, error.errno or errno.EIO, error.words) from None
