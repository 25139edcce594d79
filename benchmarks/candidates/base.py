"""What every candidate is: a name, whether it can run here, and a way to run it for a policy."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final

from benchmarks.capture import PORT
from benchmarks.errors import BenchmarkError, CandidateError
from benchmarks.policies import BenchPolicy
from benchmarks.processes import process_tree, wait_until
from benchmarks.stage import Stage, listens

_PATIENCE: Final = 10.0
"""Seconds that a candidate gets to end after SIGTERM."""


class Ability(StrEnum):
    """What a candidate can do, and a metric can need."""

    TCP = "relays any TCP"
    TLS = "relays TLS without the key"
    HTTP1 = "relays HTTP/1"
    HTTP2 = "relays HTTP/2 without TLS"
    MANY_CLASSES = "tells many classes apart"
    LANES = "holds classes of this policy to their rates"
    PROXY = "is a process"
    LIBRARY = "is called, not connected through"


ALL: Final = frozenset(Ability) - {Ability.LIBRARY}


@dataclass(frozen=True, slots=True)
class Running:
    """A candidate in force. ``root`` is its first process; None: it has none."""

    root: int | None

    def pids(self) -> list[int]:
        """Its processes."""
        return [] if self.root is None else process_tree(self.root)


class Candidate(ABC):
    """One way to carry the Pod's connections."""

    name: str
    title: str

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can do; everything, unless it says otherwise."""
        return ALL

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot run here, and what to install; None when it can."""

    @abstractmethod
    def version(self) -> str:
        """Its version, in a few words."""

    @abstractmethod
    def running(self, stage: Stage, policy: BenchPolicy) -> AbstractContextManager[Running]:
        """Put it in force for the block, HTB and capture rules included. Raises :class:`CandidateError`."""


@contextmanager
def serving(
    stage: Stage, name: str, argv: Sequence[str], *, port: int = PORT, end: int = signal.SIGTERM, **options: Any
) -> Iterator[Running]:
    """Run a proxy in the Pod, on the proxy's CPU, until the block ends; it listens on ``port`` when the block begins.

    Raises :class:`CandidateError` with its last words when it does not come up, or has ended by itself.
    """
    (stage.folder / f"{name}.log").unlink(missing_ok=True)
    with stage.log(name) as stream:
        process = stage.pod.popen(
            [*stage.pinned(stage.placement.proxy), *argv],
            stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, process_group=0, **options,
        )  # fmt: skip
    try:
        try:
            wait_until(f"a listener on port {port}", process.pid, lambda: listens(stage.pod, port))
        except BenchmarkError as error:
            raise CandidateError(f"{name} did not come up: {error}. It said: {stage.last_words(name)}") from None
        yield Running(process.pid)
        if process.poll() is not None:
            raise CandidateError(f"{name} ended with {process.returncode}. It said: {stage.last_words(name)}")
    finally:
        stop(process, end)


def stop(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> None:
    """End a process and its children; by force when it takes too long."""
    pids = process_tree(process.pid)
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in pids[1:]:
        # A master that was killed leaves its workers.
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@cache
def said_version(*argv: str) -> str:
    """The first line that a program prints about its version, on either stream. It is asked once."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return f"unknown ({error.strerror})"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"
