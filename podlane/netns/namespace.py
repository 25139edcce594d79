"""A named network namespace: creating, deleting and entering it.

Names are in /run/netns, where ``ip netns`` and other tools expect them (ip-netns(8)). Processes enter by nsenter(1),
which only calls setns and exec: unlike ``ip netns exec`` it creates no mount namespace, so mounts and namespace names
that such a process makes are visible to all.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datapath.network_namespace import NetworkNamespace
from podlane.errors import LabError
from podlane.netns.tools import find_tool, finished, ip, require_tool, run_tool

NAMES: Final = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace by its name."""

    name: str

    @property
    def path(self) -> Path:
        return NAMES / self.name

    def exists(self) -> bool:
        return self.path.exists()

    def create(self, *, sysctls: Mapping[str, str] | None = None) -> None:
        """Make it, with its loopback interface up; raises :class:`LabError`, also when the name is taken."""
        if self.exists():
            raise LabError(f"There is a network namespace {self.name} already. Choose another name.")
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        for key, value in (sysctls or {}).items():
            self.write_sysctl(key, value)

    def delete(self) -> None:
        """Delete the name, if it exists; the kernel frees the namespace when the last process leaves."""
        if self.exists():
            ip("netns", "delete", self.name)

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` inside; gives its output, raises :class:`LabError`."""
        return ip(*arguments, namespace=self.name)

    def ip_batch(self, *lines: str) -> None:
        """Run ``ip`` once for all of these inside, up to the first that fails; raises :class:`LabError`."""
        run_tool(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(lines))

    def pids(self) -> list[int]:
        """The processes inside."""
        return [int(pid) for pid in ip("netns", "pids", self.name).split()] if self.exists() else []

    def command(self, argv: Sequence[str]) -> list[str]:
        """``argv`` as a command that runs inside."""
        program = find_tool(argv[0]) or argv[0]
        return [require_tool("nsenter"), f"--net={self.path}", "--", program, *argv[1:]]

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside; ``options`` are those of subprocess.Popen. Its pid is the program's own."""
        return subprocess.Popen(self.command(argv), **options)

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 30.0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end (seconds: ``timeout``) and collect what it writes, as text.

        Raises :class:`LabError` with the program's words when ``check`` is set and it fails, or when time runs out.
        """
        try:
            done = finished(self.command(argv), timeout=timeout, stdin=stdin, env=env)
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or error.stdout or b"").decode(errors="replace").strip()
            raise LabError(f"In {self.name}: {' '.join(argv)} did not end within {timeout:g} s. {said}") from None
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f"In {self.name}: {' '.join(argv)} ended with {done.returncode}: {said}")
        return done

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Enter the namespace with the calling thread for the block: sockets opened there stay in it for their
        lifetime."""
        with NetworkNamespace(self.path) as namespace, namespace.entered():
            yield

    def read(self, path: str) -> str:
        """The text of a file as seen by a process inside (relevant below /proc/net and /proc/sys/net)."""
        with self.entered():
            # /proc/net is the main thread's view; only the calling thread has moved.
            return Path(path.replace("/proc/net/", "/proc/thread-self/net/", 1)).read_text()

    def write_sysctl(self, key: str, value: str) -> None:
        """Set a kernel setting by its dotted name; raises :class:`LabError` when there is none of that name."""
        path = sysctl_path(key)
        try:
            with self.entered():
                path.write_text(value)
        except OSError as error:
            raise LabError(f"In {self.name}: {key} cannot be set to {value!r}: {error.strerror}.") from None


def sysctl_path(key: str) -> Path:
    """``net.ipv4.ip_forward`` as a path; a slash in the name of an interface stands for its dot (sysctl(8))."""
    return Path("/proc/sys") / "/".join(part.replace("/", ".") for part in key.split("."))
