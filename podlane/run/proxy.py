"""The proxy of one run: ``podlane sidecar`` as a child process in the run's namespace.

It is a process of its own, so that its end, of whatever kind, can be detected and handled here. It reports readiness
through one inherited pipe and its last counters through another; end of file on the first without a message means that
it failed, and has printed why.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemon.documents.classes import Classes
from daemon.documents.codec import DocumentError, from_json
from podlane.errors import RunError
from podlane.netns.namespace import Namespace
from podlane.netns.spawn import Child, ProgramSpec, spawn
from podlane.netns.syscalls import read_signal
from podlane.run.outside import INSIDE

_START_PATIENCE: Final = 60.0
"""Seconds until everything is in force; mostly imports and probing the kernel's features."""
_CLEANUP_PATIENCE: Final = 20.0
"""Seconds for removing a dead proxy's rules."""
_GRACE: Final = 5.0
"""Seconds that connections may last after COMMAND has ended, for answers that are no longer read."""
_STOP_MARGIN: Final = 15.0
"""Seconds after the grace period in which the proxy removes what it installed."""
_CHUNK: Final = 65536


def sidecar_command(*options: str) -> list[str]:
    """The sidecar's command with this same interpreter. ``-P``: modules in the working directory must not run as
    root."""
    return [sys.executable, "-P", "-m", "podlane", "sidecar", "--alone", *options]


@dataclass
class Proxy:
    """A running ``podlane sidecar``."""

    namespace: Namespace
    child: Child
    _interruption: int
    """A signalfd: a signal ends waiting early."""
    _environment: Mapping[str, str]
    _ready: int
    _summary: int
    _said: bytes = field(default=b"", repr=False)
    ended: bool = False

    @classmethod
    def start(
        cls, namespace: Namespace, options: Sequence[str], environment: Mapping[str, str], interruption: int
    ) -> Proxy:
        """Start it; call :meth:`wait_ready` next. Raises SpawnError."""
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        summary_read, summary_write = os.pipe2(os.O_CLOEXEC)
        try:
            child = spawn(
                ProgramSpec(
                    sidecar_command(
                        *options,
                        f"--interface={INSIDE}",
                        f"--grace={_GRACE:g}s",
                        "--admin-port=0",
                        f"--ready-fd={ready_write}",
                        f"--summary-fd={summary_write}",
                    ),
                    environment,
                    namespace=namespace,
                    detached=True,
                    inherited=(ready_write, summary_write),
                )
            )
        finally:
            os.close(ready_write)
            os.close(summary_write)
        return cls(namespace, child, interruption, environment, ready_read, summary_read)

    def wait_ready(self) -> bool:
        """Wait until everything is in force; False if a signal arrived first.

        Raises :class:`RunError` if the proxy ends or takes too long.
        """
        readable, _, _ = select.select([self._ready, self._interruption], [], [], _START_PATIENCE)
        if self._interruption in readable:
            return False
        if not readable:
            raise RunError(f"The proxy did not get ready within {_START_PATIENCE:g} s. Is the machine overloaded?")
        if not os.read(self._ready, _CHUNK):
            raise RunError("The proxy could not start; the reason is above. `podlane check` says what is missing here.")
        return True

    def stop(self, *, hurry: bool = False) -> Classes | None:
        """Let it drain, remove what it installed, and end; return its last ``/classes`` document if it wrote one.

        A signal is consumed and makes the proxy hurry, as ``hurry`` does from the start. If it has ended already, only
        return the document.
        """
        if not self.ended:
            self.child.send(signal.SIGTERM)
            if hurry:
                # Not a second SIGTERM: two pending ones count as one.
                self.child.send(signal.SIGINT)
            self._wait_for_end()
            self.reap()
        try:
            return from_json(Classes, json.loads(self._said))
        except (ValueError, DocumentError):
            return None

    def _wait_for_end(self) -> None:
        deadline = time.monotonic() + _GRACE + _STOP_MARGIN
        watched = {self.child.descriptor, self._summary, self._interruption}
        while True:
            readable, _, _ = select.select(list(watched), [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                self.child.send(signal.SIGKILL)
                deadline = time.monotonic() + _STOP_MARGIN
            if self._interruption in readable:
                read_signal(self._interruption)
                self.child.send(signal.SIGINT)
            if self._summary in readable and not self._read_summary():
                watched.discard(self._summary)
            if self.child.descriptor in readable:
                return

    def reap(self) -> str:
        """Reap the ended proxy, and read its last output; return how it ended, for a sentence."""
        status = self.child.reap()
        self.ended = True
        while self._read_summary():
            pass
        os.close(self._summary)
        os.close(self._ready)
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"

    def remove_leftovers(self) -> bool:
        """After a crash: remove its rules, so that connections go direct from now on. False if that failed."""
        cleaner = spawn(
            ProgramSpec(
                sidecar_command("--cleanup", f"--interface={INSIDE}"),
                self._environment,
                namespace=self.namespace,
                detached=True,
            )
        )
        if not select.select([cleaner.descriptor], [], [], _CLEANUP_PATIENCE)[0]:
            cleaner.send(signal.SIGKILL)
        return cleaner.reap() == 0

    def _read_summary(self) -> bool:
        """Read the available bytes; False at end of file. The document of 255 classes exceeds the pipe's capacity."""
        data = os.read(self._summary, _CHUNK)
        self._said += data
        return bool(data)
