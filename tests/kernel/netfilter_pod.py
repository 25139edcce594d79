"""What the netfilter tests share: a Pod that rules are installed in, policies, listeners and packet counters."""

from __future__ import annotations

import re
import select
import socket
from dataclasses import dataclass, field

from datapath.netfilter.backend import Backend, BackendKind
from datapath.netfilter.install import Installer, InstallReport
from datapath.netfilter.restore import RestoreBackend, installed_programs
from datapath.netfilter.rules import Family
from datapath.netfilter.ruleset import CaptureSettings, Ruleset, build_ruleset
from datapath.netfilter.select import has_python_iptables, python_backend
from podlane.netns import Host
from traffic_policy.marks import ClassIds, Mark
from traffic_policy.policy import TrafficPolicy

NO_PYTHON_IPTABLES = "python-iptables is not installed, or iptables-legacy is not: make test installs both"
PROXY_PORT = CaptureSettings().outbound_port
_IPV6_TRANSPARENT = 75
"""linux/in6.h; the socket module has no name for it."""
_PATIENCE = 10.0
"""Seconds to wait for a connection before the test fails."""


def policy(*matches: dict[str, object], quic: str = "classify") -> TrafficPolicy:
    """One class per match: c1, c2 ... with the class ids 1, 2 ..."""
    classes = [{"name": f"c{i}", "rate": "8kbit", "match": [match]} for i, match in enumerate(matches, 1)]
    return TrafficPolicy.model_validate({"total": "1Gbit", "classes": classes, "quic": quic})


def ruleset(
    *matches: dict[str, object], settings: CaptureSettings | None = None, quic: str = "classify", **options: bool
) -> Ruleset:
    traffic = policy(*matches, quic=quic)
    ids = ClassIds.assign(c.name for c in traffic.classes)
    return build_ruleset(traffic, ids, settings or CaptureSettings(), **options)


def installed_backends() -> dict[BackendKind, Backend]:
    """Every way to install rules that this machine has, by kind; whether its kernel goes along is another matter."""
    found: dict[BackendKind, Backend] = {**installed_programs()}
    if has_python_iptables() and BackendKind.LEGACY in found:
        # The tests look at what it did by the programs.
        found[BackendKind.PYTHON] = python_backend()
    return found


def legacy_release(host: Host) -> tuple[int, ...]:
    """The release of iptables that is installed, and so of libxtables: they come from one source."""
    said = host.run(["iptables-legacy", "--version"]).stdout
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
    assert found, said
    return tuple(int(number) for number in found.groups())


@dataclass
class Pod:
    """A namespace with one of the backends, and an installer that works in it."""

    host: Host
    backend: Backend
    installer: Installer = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    @property
    def programs(self) -> RestoreBackend:
        """The programs that see the tables of the backend: its own, or the legacy ones."""
        if isinstance(self.backend, RestoreBackend):
            return self.backend
        return installed_programs()[BackendKind.LEGACY]

    def restart(self) -> None:
        """A new installer that knows nothing of what the last one did."""
        self.installer = Installer(self.backend)

    def install(self, rules: Ruleset) -> InstallReport:
        with self.host.namespace.entered():
            return self.installer.install(rules)

    def remove(self) -> bool:
        with self.host.namespace.entered():
            return self.installer.remove()

    def present(self) -> bool:
        with self.host.namespace.entered():
            return self.installer.present()

    def iptables(self, family: Family, arguments: str) -> None:
        """Run ``iptables`` or ``ip6tables`` of this implementation."""
        program = {Family.V4: "iptables", Family.V6: "ip6tables"}[family]
        self.host.run([f"{program}-{self.programs.kind}", "-w", *arguments.split()])

    def save(self, family: Family, *, counters: bool = False) -> str:
        """All tables, without the lines that tell the time."""
        text = self.host.run([self.programs.tools[family].save, *(["-c"] if counters else [])]).stdout
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))

    def snapshot(self) -> dict[str, str]:
        """Rules and routes, byte for byte."""
        state = {f"{family} rules": self.save(family) for family in Family}
        for version in ("-4", "-6"):
            state[f"ip {version} rule"] = self.host.ip(version, "rule")
            state[f"ip {version} route"] = self.host.ip(version, "route", "show", "table", "all")
        return state

    def describe(self) -> str:
        parts = [self.save(family, counters=True) for family in Family]
        return "\n".join([*parts, *self.snapshot().values()])

    # --- packets --------------------------------------------------------------------------------------------------

    def count(self, family: Family, name: str, criteria: str) -> None:
        """Begin to count the packets that leave by eth0 and meet ``criteria``; see :meth:`counted`."""
        self.iptables(family, f"-t mangle -A POSTROUTING -o eth0 {criteria} -m comment --comment {name}")

    def count_mark(self, family: Family, name: str, mark: Mark, criteria: str = "") -> None:
        self.count(family, name, f"{criteria} -m mark --mark {mark}")

    def counted(self, family: Family, name: str) -> int:
        line = next(line for line in self.save(family, counters=True).splitlines() if f"--comment {name}" in line)
        found = re.match(r"\[(\d+):", line)
        assert found, line
        return int(found[1])

    def transparent_listener(self, family: Family) -> socket.socket:
        """Where TPROXY leads: a listening socket that may have any address."""
        with self.host.namespace.entered():
            if family is Family.V4:
                listener = socket.socket(socket.AF_INET)
                listener.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
                address = "127.0.0.1"
            else:
                listener = socket.socket(socket.AF_INET6)
                listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
                address = "::1"
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, PROXY_PORT))
            listener.listen()
        return listener

    def client(self, family: Family, kind: int = socket.SOCK_STREAM, mark: int = 0) -> socket.socket:
        """An unconnected socket of a program in the Pod."""
        with self.host.namespace.entered():
            made = socket.socket(socket.AF_INET if family is Family.V4 else socket.AF_INET6, kind)
        made.settimeout(_PATIENCE)
        if mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        return made


def accepted_by(*listeners: socket.socket) -> tuple[socket.socket, socket.socket]:
    """The listener a connection arrives at first, and the connection; fails when none does."""
    ready, _, _ = select.select(listeners, [], [], _PATIENCE)
    assert ready, "the connection arrived nowhere"
    assert len(ready) == 1, "the connection arrived twice"
    connection, _ = ready[0].accept()
    connection.settimeout(_PATIENCE)
    return ready[0], connection


def talks(a: socket.socket, b: socket.socket) -> bool:
    """Whether a few bytes get from each to the other."""
    a.sendall(b"to b")
    b.sendall(b"to a")
    return a.recv(4, socket.MSG_WAITALL) == b"to a" and b.recv(4, socket.MSG_WAITALL) == b"to b"
