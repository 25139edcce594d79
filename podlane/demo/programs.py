"""Finds and starts the system's programs that the demo uses."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from podlane.errors import DemoError, ToolMissingError
from podlane.netns.tools import PACKAGES, find_tool, require_tool

_PROGRAMS: Final = ("nginx", "curl", "openssl", "bash", "dd", "cat", "ip", "iptables", "nsenter", "setpriv")
"""What the demo runs."""
_LAST_LINES: Final = 8


def require_programs() -> None:
    """Raise :class:`ToolMissingError` naming everything that is missing, and the packages to install."""
    missing = [name for name in _PROGRAMS if find_tool(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES.get(name, name) for name in missing))
        verb = "is" if len(missing) == 1 else "are"
        raise ToolMissingError(
            f"{', '.join(missing)} {verb} not installed; the demo uses real programs. "
            f"Install: apt-get install {packages}"
        )


def guarded(argv: Sequence[str]) -> list[str]:
    """``argv`` as a command that the kernel kills when the demo ends, however it ends (PR_SET_PDEATHSIG, prctl(2))."""
    return [require_tool("setpriv"), "--pdeathsig", "KILL", *argv]


def last_words(log: Path) -> str:
    """The end of a log, to append to an error message; empty if there is no log."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-_LAST_LINES:])


class ProgramStarter(Protocol):
    """Where programs are started: a host in a namespace, or this machine."""

    def popen(self, argv: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program there; ``options`` are those of subprocess.Popen."""


class DemoProgram:
    """A program that runs in a host: its standard error goes to a log, its standard output to a pipe."""

    def __init__(
        self, name: str, host: ProgramStarter, argv: Sequence[str], log: Path, stdin: Any, **options: Any
    ) -> None:
        """Start it; ``name`` begins sentences about it, ``options`` are those of subprocess.Popen."""
        self._name = name
        self._log = log
        options = {"stdout": subprocess.PIPE, "env": {**os.environ, "LC_ALL": "C"}, **options}
        with log.open("ab") as stream:
            self.process: subprocess.Popen[Any] = host.popen(
                # Unbuffered: select(2) must see every line that has not been read yet.
                guarded(argv), stdin=stdin, stderr=stream, bufsize=0, start_new_session=True, **options
            )  # fmt: skip

    def check(self, lane: str = "") -> None:
        """Raise :class:`DemoError` when it has ended; ``lane``: in the middle of that lane's transfer."""
        if self.process.poll() is not None:
            where = " in the middle of its transfer" if lane else ""
            error = self.error(f"ended with {self.process.returncode}{where}.")
            raise DemoError(f"{lane}: {error}") if lane else error

    def error(self, what: str) -> DemoError:
        """An error about it, with its last output."""
        return DemoError(f"{self._name} {what}{last_words(self._log)}")

    def stop(self, patience: float) -> None:
        """SIGTERM, and wait for its end. Raises :class:`DemoError` when it does not end well."""
        self.process.terminate()
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise self.error(f"did not end within {patience:g} s.") from None
        if status:
            self.check()

    def line(self, patience: float) -> str:
        """The next line that it prints; empty if none arrives within ``patience`` seconds, or at end of file."""
        stream = self.process.stdout
        assert stream is not None
        # It writes whole lines; once something is there, a line is.
        return stream.readline().decode().strip() if select.select([stream], [], [], patience)[0] else ""

    def wait_ready(self, patience: float) -> None:
        """Wait for its line ``ready``. Raises :class:`DemoError` if it ends, or after ``patience`` seconds."""
        deadline = time.monotonic() + patience
        if self.line(patience) != "ready":
            if time.monotonic() < deadline:
                with suppress(subprocess.TimeoutExpired):  # its output has ended, and so will it
                    self.process.wait(patience)
            self.check()
            raise self.error(f"is not ready within {patience:g} s.")

    def output(self, patience: float) -> tuple[bytes, str | None]:
        """Wait for its end, ``patience`` seconds at most; return its output, and the error, if any."""
        try:
            said, _ = self.process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            return b"", f"{self._name} did not finish within {patience:g} s"
        if self.process.returncode:
            return said, f"{self._name} ended with {self.process.returncode}{last_words(self._log)}"
        return said, None
