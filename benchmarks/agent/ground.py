"""Network namespaces that stand for Pods, and ``podlane agent`` beside them as it is measured: the real process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import yaml

from benchmarks.candidates.base import stop
from benchmarks.errors import CandidateError
from benchmarks.processes import wait_until
from podlane.netns.namespace import Namespace

POLICY: Final = {
    "total": "100Mbit",
    "classes": [
        {"name": "api", "rate": "10Mbit", "match": {"host": "api.example.com"}},
        {"name": "shop", "rate": "10Mbit", "match": {"sni": "shop.example.com"}},
        {"name": "database", "rate": "10Mbit", "match": {"port": 5432}},
        {"name": "cache", "rate": "10Mbit", "match": {"port": 6379}},
    ],
}
_SET_UP: Final = """\
link add eth0 type veth peer name peer0
link set peer0 up
address add 10.9.0.2/24 dev eth0
link set eth0 up
route add default via 10.9.0.1
"""
_IN_FORCE: Final = re.compile(r"^(\S+) .*\blanes in force\b.*\bworkload=(\S+)$", re.MULTILINE)
_PATIENCE_S: Final = 300.0
_SAID: Final = 2000
"""Characters of its log that are told when it fails."""
_TICK: Final = os.sysconf("SC_CLK_TCK")


class Ground:
    """Namespaces, made one after the other and deleted at the end; a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def names(self, count: int) -> list[str]:
        """Names for so many more."""
        self._count += count
        return [f"bench-{os.getpid()}-{i}" for i in range(self._count - count, self._count)]

    def make(self, name: str) -> None:
        """Make one, with an eth0 that leads nowhere. Raises :class:`~podlane.errors.LabError`."""
        namespace = Namespace(name)
        self._stack.callback(namespace.delete)
        namespace.create()
        namespace.run(["ip", "-batch", "-"], stdin=_SET_UP)


class Agent:
    """An agent with a file of workloads in a folder, on one CPU together with the programs that it runs.

    Raises :class:`CandidateError` with its last words when it ends by itself.
    """

    def __init__(self, folder: Path, cpu: int, datapath: str) -> None:
        self._file = folder / "workloads.yaml"
        self._log = folder / "agent.log"
        self._command = [
            *("setpriv", "--pdeathsig", "KILL", "--"),  # it must not outlive a benchmark that is killed
            *("taskset", "-c", str(cpu)),
            *(sys.executable, "-m", "podlane", "agent", "--workloads", str(self._file)),
            *("--state", str(folder / "state"), "--admin-port", "0"),
            *("--datapath", datapath),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end(signal.SIGTERM)
        subprocess.run([*self._command, "--cleanup"], stderr=subprocess.DEVNULL, check=False, timeout=_PATIENCE_S)

    def name(self, namespaces: Sequence[str]) -> None:
        """These are its workloads from now on."""
        entries = [{"name": each, "netns": each, "policy": "policy.yaml"} for each in namespaces]
        (self._file.parent / "policy.yaml").write_text(yaml.safe_dump(POLICY))
        fresh = self._file.with_suffix(".fresh")
        fresh.write_text(yaml.safe_dump({"workloads": entries}))
        fresh.replace(self._file)

    def start(self) -> None:
        """Start it, with a log of its own, and do not wait."""
        with self._log.open("wb") as stream:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, process_group=0,
                env={name: value for name, value in os.environ.items() if not name.startswith("PODLANE_")},
            )  # fmt: skip

    def end(self, number: int) -> None:
        """Signal it, and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            stop(process, number)

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._process is None or self._process.poll() is not None:
            said = self._log.read_text(errors="replace").strip()[-_SAID:]
            raise CandidateError(f"podlane agent has ended. It said: {said or 'nothing'}")
        return self._process.pid

    def wait(self, namespaces: Sequence[str]) -> None:
        """Wait until its log has said of all these that their lanes are in force."""
        wanted = set(namespaces)
        wait_until("lanes in force", self.pid, lambda: wanted <= self.in_force().keys(), patience=_PATIENCE_S)

    def in_force(self) -> dict[str, float]:
        """When the lanes of each namespace were first in force (seconds since 1970), as its log says."""
        found: dict[str, float] = {}
        for at, name in _IN_FORCE.findall(self._log.read_text(errors="replace")):
            found.setdefault(name, datetime.fromisoformat(at).timestamp())
        return found

    def cpu_seconds(self) -> float:
        """CPU time of the process and of the programs that it ran, in seconds (resolution: a tick)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(each) for each in fields[11:15]) / _TICK  # utime, stime, cutime, cstime (proc_pid_stat(5))
