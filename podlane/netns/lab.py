"""Hosts and links on one machine: network namespaces that are removed with the block that created them.

    with Lab("demo") as lab:
        pod, node = lab.host("pod"), lab.host("node", forward=True)
        link = lab.link(pod, "eth0", node, "pod0", gateway=True)
        pod.run(["curl", f"http://{link.b.ipv4}/"])

Names consist of the lab's prefix, this process's id and the host's name, so labs never collide. Every link gets an IPv4
and an IPv6 network of its own, numbered in the order of creation: the same program gets the same addresses each time.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from podlane.errors import LabError
from podlane.netns.namespace import Namespace
from podlane.netns.tools import ip

_IPV4_POOL: Final = ipaddress.IPv4Network("10.77.0.0/16")
_IPV6_POOL: Final = ipaddress.IPv6Network("fd77:1ab::/48")
_TERMINATE_PATIENCE: Final = 3.0
"""Seconds between SIGTERM and SIGKILL for a program of the lab."""
_LOOK_S: Final = 0.01
_MOST_LOOKS: Final = 1000


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """One end of a link: its host, the interface's name, and its addresses."""

    host: Host
    interface: str
    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class VethPair:
    """A veth pair between two hosts, with a /24 and a /64 on it."""

    a: LinkEnd
    b: LinkEnd
    ipv4: ipaddress.IPv4Network
    ipv6: ipaddress.IPv6Network


@dataclass(eq=False)
class Host:
    """A network namespace that plays a host. Programs started by :meth:`popen` end with the lab."""

    short_name: str
    namespace: Namespace
    _processes: list[subprocess.Popen[Any]] = field(default_factory=list, repr=False)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program here (options: subprocess.Popen's); the lab ends it at the latest."""
        process = self.namespace.popen(argv, **options)
        self._processes.append(process)
        return process

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program here to its end (options: those of :meth:`Namespace.run`)."""
        return self.namespace.run(argv, **options)

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` here; raises :class:`LabError`."""
        return self.namespace.ip(*arguments)

    def read(self, path: str) -> str:
        """The text of a file as a process here sees it."""
        return self.namespace.read(path)

    def add_address(self, interface: str, address: str) -> None:
        """Give an interface a further address, such as ``10.1.2.3/24``; usable at once (no duplicate detection)."""
        self.ip("address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))

    def route(self, network: str, via: LinkEnd) -> None:
        """Send what goes to ``network`` through a neighbour."""
        version = ipaddress.ip_network(network).version
        self.ip(f"-{version}", "route", "replace", network, "via", str(via.ipv6 if version == 6 else via.ipv4))

    def end_programs(self) -> None:
        """End everything that :meth:`popen` started: politely, then by force."""
        end_processes(self._processes)


def end_processes(processes: list[subprocess.Popen[Any]]) -> None:
    """End them all, politely, then by force, and empty the list."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(_TERMINATE_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    processes.clear()


class Lab:
    """Hosts and links that exist while the ``with`` block runs. ``prefix`` begins every namespace's name."""

    def __init__(self, prefix: str = "lab") -> None:
        self._stack = ExitStack()
        self._prefix = f"{prefix}-{os.getpid()}"
        self._links = 0
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, tb)
        self.hosts.clear()

    def host(self, name: str, *, forward: bool = False, sysctls: Mapping[str, str] | None = None) -> Host:
        """Make a host. ``forward`` makes it a router; ``sysctls`` are set by their dotted names. Raises LabError."""
        namespace = Namespace(f"{self._prefix}-{name}")
        if forward:
            sysctls = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", **(sysctls or {})}
        # Registered first: a namespace that is made halfway is deleted too.
        taken = namespace.exists()
        if not taken:
            self._stack.callback(namespace.delete)
        namespace.create(sysctls=sysctls)
        host = Host(name, namespace)
        self._stack.callback(host.end_programs)
        self.hosts.append(host)
        return host

    def link(self, a: Host, a_interface: str, b: Host, b_interface: str, *, gateway: bool = False) -> VethPair:
        """Join two hosts by a veth pair: ``b`` gets the first address of the networks, ``a`` the second.

        ``gateway``: ``b`` becomes ``a``'s default route. Raises :class:`LabError`.
        """
        self._links += 1
        if self._links > 255:
            raise LabError("A lab has numbers for 255 links. Use another Lab.")
        ipv4 = ipaddress.IPv4Network((int(_IPV4_POOL.network_address) + (self._links << 8), 24))
        ipv6 = ipaddress.IPv6Network((int(_IPV6_POOL.network_address) + (self._links << 64), 64))
        link = VethPair(
            LinkEnd(a, a_interface, ipv4[2], ipv6[2]), LinkEnd(b, b_interface, ipv4[1], ipv6[1]), ipv4, ipv6
        )
        ip(
            *("link", "add", a_interface, "netns", a.namespace.name, "type", "veth"),
            *("peer", "name", b_interface, "netns", b.namespace.name),
        )
        # b first: so its peer has a carrier at once, and IPv6 its routes.
        _configure(link.b)
        routes = (f"route replace 0.0.0.0/0 via {link.b.ipv4}", f"route replace ::/0 via {link.b.ipv6}")
        _configure(link.a, *(routes if gateway else ()))
        _wait_until_up(link.a)  # and with it its peer
        return link


def _configure(end: LinkEnd, *more: str) -> None:
    """Give an end its addresses, usable at once, and set it up; then do ``more`` of ip(8) there."""
    end.host.namespace.ip_batch(
        f"address add {end.ipv4}/24 dev {end.interface}",
        f"address add {end.ipv6}/64 dev {end.interface} nodad",
        f"link set {end.interface} up",
        *more,
    )


def _wait_until_up(end: LinkEnd) -> None:
    """The kernel says by and by that there is a carrier, once a second at worst (net/core/link_watch.c)."""
    for _ in range(_MOST_LOOKS):
        if " state UP " in end.host.ip("link", "show", "dev", end.interface):
            return
        time.sleep(_LOOK_S)
    raise LabError(f"{end.interface} in {end.host.namespace.name} has no carrier. Look at `ip link` there.")
