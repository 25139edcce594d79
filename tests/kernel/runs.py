"""A simulated host for the tests of ``podlane run``: its rules, links and settings are not this machine's.

    host eth0 -- eth0 server

The server has no route to the networks that runs use, so an answer proves that the host translates addresses.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import read_until
from waiting import until

from podlane.netns import Host, Lab, Namespace, VethPair
from podlane.run.outside import end_processes

POLICY = """\
total: 100Mbit
classes:
  - name: slow
    rate: 1Mbit
    ceil: 1Mbit
    match: [{port: [5001]}]
  - name: web
    rate: 20Mbit
    ceil: 80Mbit
    match: [{host: ["*.example.test"]}, {sni: ["*.example.test"]}]
"""

_numbers = itertools.count()


@dataclass(frozen=True)
class Remains:
    """What a run could leave behind on its host; equal before and after."""

    links: str
    rules: str
    routes: str
    settings: str
    firewall: tuple[str, ...]
    namespaces: tuple[str, ...]
    records: tuple[str, ...]


@dataclass
class RunHost:
    """A host with an uplink on which ``podlane run`` is called."""

    host: Host
    server: Host
    uplink: VethPair
    policy: Path
    names: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, lab: Lab, folder: Path) -> RunHost:
        host, server = lab.host("host"), lab.host("server")
        policy = folder / "policy.yaml"
        policy.write_text(POLICY)
        uplink = lab.link(host, "eth0", server, "eth0", gateway=True)
        # The kernel adds a route to an IPv6 address of its own when the link's carrier has come up.
        until(
            "the address's own route",
            lambda: f"local {uplink.a.ipv6} " in host.ip("-6", "route", "show", "table", "local"),
        )
        return cls(host, server, uplink, policy)

    @property
    def server_ipv4(self) -> str:
        return str(self.uplink.b.ipv4)

    @property
    def server_ipv6(self) -> str:
        return str(self.uplink.b.ipv6)

    def command(self, argv: Sequence[str], options: Sequence[str] = (), name: str | None = None) -> list[str]:
        """``podlane run`` with a name of its own, which :attr:`names` remembers."""
        self.names.append(name or f"t{os.getpid()}-{next(_numbers)}")
        start = [sys.executable, "-m", "podlane", "run", f"--policy={self.policy}", f"--name={self.names[-1]}"]
        return [*start, *options, "--", *argv]

    @property
    def namespace(self) -> Namespace:
        """The namespace of the run that was started last."""
        return Namespace(f"podlane-{self.names[-1]}")

    def run(self, argv: Sequence[str], options: Sequence[str] = (), **more: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end; the exit code is the test's business."""
        return self.host.run(self.command(argv, options), check=False, timeout=60, **more)

    def start(self, script: str, options: Sequence[str] = (), **more: Any) -> subprocess.Popen[str]:
        """Start ``sh -c script`` under ``podlane run`` and wait until it has printed a line with "up"."""
        process = self.host.popen(
            self.command(["sh", "-c", script], options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        read_until(process, "up")
        return process

    def clear(self) -> None:
        """Take away what runs of a failed test have left outside the lab."""
        for name in (f"podlane-{name}" for name in self.names):
            end_processes(Namespace(name))
            Namespace(name).delete()
            for path in Path("/run/podlane").glob(f"*/{name}.json"):
                shutil.rmtree(path.parent)

    def proxy_pid(self) -> int:
        """The process id of the running proxy."""
        return next(pid for pid in self.namespace.pids() if b"\0sidecar\0" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def remains(self) -> Remains:
        """What is there now. Empty built-in iptables tables, which stay once one has been used, do not count."""
        firewall = [
            line
            for tool in ("iptables-save", "ip6tables-save")
            for line in self.host.run([tool]).stdout.splitlines()
            if line.startswith("-A") or (line.startswith(":") and line.split()[1] != "ACCEPT")
        ]
        mine = tuple(f"podlane-{name}" for name in self.names)
        return Remains(
            links=" ".join(line.split(":")[0] for line in self.host.read("/proc/net/dev").splitlines()[2:]),
            rules=self.host.run(["ip", "rule"]).stdout + self.host.run(["ip", "-6", "rule"]).stdout,
            routes="\n".join(
                line
                for line in self.host.run(["ip", "route", "show", "table", "all"]).stdout.splitlines()
                # What the kernel adds by itself, some time after a link comes up or forwarding changes.
                if not any(word in line for word in ("fe80::", "ff00::", "anycast"))
            ),
            settings=self.host.read("/proc/sys/net/ipv4/ip_forward")
            + self.host.read("/proc/sys/net/ipv6/conf/all/forwarding"),
            firewall=tuple(firewall),
            namespaces=tuple(name for name in mine if Namespace(name).exists()),
            records=tuple(str(path) for name in mine for path in Path("/run/podlane").glob(f"*/{name}.json")),
        )
