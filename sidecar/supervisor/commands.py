"""Runs prepared programs with their input, one after another."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic
from typing import Final, NamedTuple

_PATIENCE_S: Final = 15.0
"""iptables-legacy waits up to 10 s for its lock."""
_SHOWN_BYTES: Final = 2000


class Action(NamedTuple):
    """A program with its arguments and its standard input."""

    argv: tuple[str, ...]
    input: str


def run_all(actions: Sequence[Action], patience: float = _PATIENCE_S) -> str | None:
    """Run all of them, even after a failure; return the error output of the programs, or None.

    Uses posix_spawn and memory files: this takes little memory, the lack of which may have ended the proxy.
    """
    deadline = monotonic() + patience
    problems = [problem for action in actions if (problem := _Running(action).end(deadline)) is not None]
    return "; ".join(problems) or None


class _Running:
    def __init__(self, action: Action) -> None:
        self._name = action.argv[0].rpartition("/")[2]
        self._pid: int | None = None
        self._problem: str | None = None
        self._opened = ExitStack()
        self._said = -1
        try:
            self._said = self._memory("podlane-said")
            given = self._memory("podlane-input")
            os.write(given, action.input.encode())
            os.lseek(given, 0, os.SEEK_SET)
            self._pid = os.posix_spawn(
                action.argv[0],
                action.argv,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, self._said, 2)],
                # What a terminal sends to all must not end it halfway.
                setpgroup=0,
                setsigdef=(signal.SIGCHLD, signal.SIGPIPE),
            )
        except OSError as error:
            self._problem = f"{self._name}: {error.strerror}"

    def _memory(self, name: str) -> int:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        self._opened.callback(os.close, descriptor)
        return descriptor

    def end(self, deadline: float) -> str | None:
        """Wait for its end; return the error, or None."""
        with self._opened:
            if self._pid is not None:
                status = self._wait(self._pid, deadline)
                if status:
                    said = os.pread(self._said, _SHOWN_BYTES, 0).decode(errors="replace").strip()
                    self._problem = f"{self._name}: {said or f'it ended with {status}'}"
        return self._problem

    @staticmethod
    def _wait(pid: int, deadline: float) -> int:
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # no descriptor is left, so waiting with a timeout is not possible
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            if not select.select([descriptor], [], [], max(0.0, deadline - monotonic()))[0]:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
