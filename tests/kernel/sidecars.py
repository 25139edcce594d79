"""A real ``podlane sidecar`` process in a test's Pod."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from waiting import until

from podlane.netns.lab import Host

ADMIN_PORT = 15109
ADMIN = f"http://127.0.0.1:{ADMIN_PORT}"


@dataclass(slots=True)
class RunningSidecar:
    """A started sidecar; its log is in ``log``."""

    pod: Host
    process: subprocess.Popen[bytes]
    policy: Path
    log: Path

    @property
    def proxy(self) -> int:
        """The proxy's process, once there is one: the supervisor's only child."""
        return until("a proxy", lambda: children(self.process.pid))[0]

    def get(self, path: str) -> str:
        """What the admin server answers, whatever the status."""
        with self.pod.namespace.entered(), closing(HTTPConnection("127.0.0.1", ADMIN_PORT, timeout=30)) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def classes(self) -> dict[str, dict[str, Any]]:
        """The ``/classes`` document by class name."""
        return {c["name"]: c for c in json.loads(self.get("/classes"))["classes"]}

    def connections(self, name: str) -> dict[str, int]:
        """Connections that a class has had, by protocol."""
        return dict(self.classes()[name]["connections"]["by_protocol"])

    def reload(self, text: str) -> None:
        """Change the policy, send SIGHUP, and wait until it is in force or refused."""
        seen = self.log.stat().st_size
        self.policy.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        self._answered(seen)

    def change(self, text: str) -> str:
        """Change the policy by renaming a file and wait until it is in force or refused; what was logged meanwhile."""
        seen = self.log.stat().st_size
        fresh = self.policy.with_name("fresh.yaml")
        fresh.write_text(text)
        fresh.replace(self.policy)
        return self._answered(seen)

    def _answered(self, seen: int) -> str:
        def answer() -> str:
            with self.log.open("rb") as stream:
                stream.seek(seen)
                said = stream.read().decode()
            return said if any(word in said for word in ("policy in force", "not used")) else ""

        return until("an answer to the change", answer, patience=60.0)  # of 5,000 names, on a busy machine

    def stop(self, number: int = signal.SIGTERM, *, patience: float = 30.0) -> int:
        """Signal it and wait for its end; gives its exit code. SIGKILL is for all of its processes in one moment."""
        proxies: list[int] = []
        if number == signal.SIGKILL:
            # The supervisor stops first, so that it does not see the end of its proxy. (The other way round the kernel
            # would wake the proxy: stopped processes whose parent ends get SIGCONT.)
            self.process.send_signal(signal.SIGSTOP)
            until("a stopped supervisor", lambda: stopped(self.process.pid))
            proxies = children(self.process.pid)
            for proxy in proxies:
                os.kill(proxy, signal.SIGKILL)
        self.process.send_signal(number)
        code = self.process.wait(patience)
        until("the end of its proxy", lambda: all(map(stopped, proxies)))
        return code


def stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped, or have gone."""
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended after it was listed
            if path.read_text().rpartition(")")[2].split()[0] not in "TZX":
                return False
    return True


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there; none when it has gone itself."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command_of(pid: int) -> str:
    """The name that ps shows of a process; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or after (fs/proc/base.c, comm_show())
        return ""


NO_SYS_ADMIN = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon", "--inh-caps=-all")
NO_CAP_BPF = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all")
"""In front of a command: with NET_ADMIN alone, as in a container without BPF."""


def start_sidecar(
    pod: Host, policy: str, folder: Path, *options: str, watch: bool = False, wrapped: Sequence[str] = ()
) -> RunningSidecar:
    """Start it, ``wrapped`` in another command, and wait until it is ready; fails with its log when it ends instead.

    With ``watch`` it follows its file, for :meth:`~RunningSidecar.change`; without, :meth:`~RunningSidecar.reload` has
    one answer only.
    """
    path = folder / "policy.yaml"
    path.write_text(policy)
    watching = "--watch" if watch else "--no-watch"
    arguments = ("--policy", str(path), "--log-level", "debug", watching, *options)
    return _start(pod, path, folder, *arguments, wrapped=wrapped)


def start_annotated(pod: Host, annotations: Path, folder: Path, *options: str) -> RunningSidecar:
    """The same for one whose policy is in a Pod's annotations."""
    return _start(pod, annotations, folder, "--annotations", str(annotations), *options)


def _start(pod: Host, path: Path, folder: Path, *options: str, wrapped: Sequence[str] = ()) -> RunningSidecar:
    log = folder / "sidecar.log"
    ready, theirs = os.pipe()
    with log.open("wb") as stream:
        process = pod.popen(
            [*wrapped, sys.executable, "-m", "podlane", "sidecar", "--ready-fd", str(theirs), *options],
            stdout=stream, stderr=stream, pass_fds=[theirs],
        )  # fmt: skip
    os.close(theirs)
    with os.fdopen(ready) as pipe:
        if not pipe.readline():
            raise AssertionError(f"the sidecar ended with {process.wait(10)}:\n{log.read_text()}")
    return RunningSidecar(pod, process, path, log)


def refused_sidecar(pod: Host, *arguments: str, wrapped: Sequence[str] = ()) -> tuple[int, str]:
    """Run a sidecar that is expected to end by itself; gives exit code and what it said."""
    done = pod.run([*wrapped, sys.executable, "-m", "podlane", "sidecar", *arguments], check=False)
    return done.returncode, done.stderr


def outputs(pod: Host, commands: Iterable[str], *, check: bool = True) -> list[str]:
    """What each of these commands prints: by one shell, since to enter a namespace takes as long as most of them."""
    script = "".join(f"{command}\nprintf '\\036'\n" for command in commands)
    path = "PATH=$PATH:/usr/sbin:/sbin\n"  # where an ordinary user's does not lead
    return pod.run(["sh", "-ec" if check else "-c", path + script], check=check).stdout.split("\036")[:-1]


def state_of(pod: Host) -> str:
    """Everything that a sidecar could leave behind. Each start draws another group for its sockets."""
    # Whoever uses a table first makes its built-in chains, and they stay (iptables-nft): so use it here.
    used = [
        f"{tool} -t {table} -{change} used"
        for tool in ("iptables", "ip6tables") for table in ("mangle", "filter") for change in "NX"
    ]  # fmt: skip
    commands = [
        "iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save",
        "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "tc qdisc", "tc class show dev eth0",
        "sysctl net.ipv4.ip_local_reserved_ports", "ip -d link show dev eth0",
    ]  # fmt: skip
    lines = []
    for command, said in zip(commands, outputs(pod, [*used, *commands])[len(used) :], strict=True):
        shown = said.splitlines()
        # The kernel lists classes by a table that grows with them and does not shrink.
        lines += sorted(shown) if command.startswith("tc") else shown
    # Link-local addresses come by themselves, a second after the interface.
    kept = (line for line in lines if not line.startswith("#") and "fe80:" not in line)
    return re.sub(r"--gid-owner \d{5,}", "--gid-owner DRAWN", "\n".join(kept))


def enforced(pod: Host) -> str:
    """All that is to be there."""
    # To read a legacy table would make it.
    if_there = "! grep -q mangle /proc/net/ip_tables_names ||"
    commands = [
        "iptables-save -t mangle", "ip6tables-save -t mangle", f"{if_there} iptables-legacy-save -t mangle",
        f"{if_there} ip6tables-legacy-save -t mangle", "ip rule", "ip -6 rule",
        "ip route show table 15101", "ip -6 route show table 15101", "tc qdisc", "tc class show dev eth0",
        "tc class show dev ifb-eth0", "tc filter show dev eth0", "tc filter show dev eth0 ingress", "tc filter show dev ifb-eth0",
    ]  # fmt: skip
    lines = [line for said in outputs(pod, commands, check=False) for line in sorted(said.splitlines())]
    text = "\n".join(line for line in lines if not line.startswith("#") and "SOMEBODYS" not in line)
    # Numbers of kernel objects, which change, and counters.
    return re.sub(
        r"\[\d+:\d+\]|(fh|id|jited|tag|index|handle|qdisc \S+|leaf|ref|r2q|direct_packets_stat) \S+|: ifindex \d+",
        "",
        text,
    )
