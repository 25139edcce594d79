"""The access log: a line of JSON for each ended connection (:mod:`sidecar.observability.access_log_format`).

Writing never blocks the relay: a line is made when its connection ends, and queued; a thread writes the queued lines a
moment later, to a pipe in pieces that are atomic (PIPE_BUF, pipe(7)), since workers share the destination. If the
reader is too slow, the queue fills, and further lines are counted instead of kept: a log must not use unbounded memory,
nor stop traffic.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.log import Logger
from datapath.own_group import ordinary_group
from datapath.stepaside.class_cache import ChosenClass, DetectedFlow, FlowObserver, ends
from sidecar.observability.access_log_format import connection_line, decision_line
from sidecar.transport.observer import ConnectionSummary, Observer
from traffic_policy.errors import ConfigError

MOST_WAITING: Final = 50_000
"""Maximum lines in the queue, about 40 MB if the reader stalls."""
_GATHER_S: Final = 0.1
"""Seconds between two batches: waking a thread for each line would cost the relay more than the line."""
_PIECE: Final = select.PIPE_BUF
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_LAST_WORDS_S: Final = 3.0
"""Seconds to write the queued lines at the end, before they are dropped."""

log = Logger()


@dataclass(frozen=True, slots=True)
class AccessLogSettings:
    """The destination of lines: a file, or standard output if None."""

    file: Path | None = None

    def open(self) -> int:
        """A descriptor to append to. Raises :class:`ConfigError`."""
        if self.file is None:
            return os.dup(sys.stdout.fileno())
        try:
            # Non-blocking, as opening a FIFO without a reader would block (fifo(7)); writes may block.
            with ordinary_group():
                descriptor = os.open(self.file, _APPEND | os.O_NONBLOCK, 0o640)
            os.set_blocking(descriptor, True)
            return descriptor
        except OSError as error:
            raise ConfigError(
                f"--access-log-file: {self.file} cannot be written: {error.strerror}. "
                "Name a file in a folder that is there and can be written to, or leave it out for standard output."
            ) from None

    def check(self) -> None:
        """Raises :class:`ConfigError` if the destination is not writable."""
        os.close(self.open())


class AccessLog:
    """Writes lines in a thread, from the start until :meth:`close`. :meth:`write` is thread-safe."""

    def __init__(self, settings: AccessLogSettings, lost: Callable[[int], None] = lambda _: None) -> None:
        """``lost`` is called with the number of lines that could not be queued or written. Raises
        :class:`ConfigError`."""
        self._settings = settings
        self._lost = lost
        self._descriptor = settings.open()
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._is_woken = False
        self._closing = threading.Event()
        self._fails = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue a line; never blocks."""
        if len(self._lines) >= MOST_WAITING:
            self._lost(1)
            return
        self._lines.append(line)
        if not self._is_woken:
            self._is_woken = True
            self._wake.set()

    def close(self) -> None:
        """Write the queued lines, and end; gives up on a stalled reader."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_LAST_WORDS_S)
        if self._thread.is_alive():
            log.error("the access log is not read: its last lines are lost", count=len(self._lines))
            return  # the thread owns the descriptor
        os.close(self._descriptor)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(_GATHER_S)
            self._wake.clear()
            # First: a line queued while the queue is being emptied sets the event again.
            self._is_woken = False
            self._empty()
        self._empty()

    def _empty(self) -> None:
        if not self._lines:
            return
        self._follow_rotation()
        for piece, count in self._pieces():
            try:
                _write_all(self._descriptor, piece)
            except OSError as error:
                self._lost(count)
                if not self._fails:
                    log.error("the access log cannot be written: lines are lost", error=error.strerror)
                self._fails = True
            else:
                self._fails = False

    def _pieces(self) -> Iterator[tuple[bytes, int]]:
        """Whole lines, as many as a pipe accepts atomically, and their number."""
        piece, count = b"", 0
        for _ in range(len(self._lines)):
            line = self._lines.popleft()
            if piece and len(piece) + len(line) > _PIECE:
                yield piece, count
                piece, count = b"", 0
            piece += line
            count += 1
        yield piece, count

    def _follow_rotation(self) -> None:
        """Reopen the file if its name now belongs to another one, or none: logrotate(8) has moved it."""
        file = self._settings.file
        if file is None:
            return
        ours = os.fstat(self._descriptor)
        if not stat.S_ISREG(ours.st_mode):
            return
        try:
            named = file.stat()
        except OSError:
            named = None
        if named is not None and (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino):
            return
        try:
            descriptor = self._settings.open()
        except ConfigError as error:
            log.error("the access log goes on in the file that was moved away", error=str(error))
            return
        os.close(self._descriptor)
        self._descriptor = descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another owner of the descriptor has set O_NONBLOCK
            select.select([], [descriptor], [])


# --- observers --------------------------------------------------------------------------------------------------------


class LoggingObserver:
    """An observer that logs ended connections, and passes all events on to another."""

    def __init__(self, observer: Observer, lines: AccessLog, clock: Callable[[], float] = time.time) -> None:
        self.detected = observer.detected
        self.routed = observer.routed
        self.moved = observer.moved
        self.refused = observer.refused
        self.doubted = observer.doubted
        self.lost_lines = observer.lost_lines
        self._closed = observer.closed
        self._write = lines.write
        self._clock = clock

    def closed(self, summary: ConnectionSummary) -> None:
        """A routed connection ended."""
        self._closed(summary)
        self._write(connection_line(summary, self._clock()))


class LoggingFlowObserver:
    """The same for step-aside, which only sees the choice of the class."""

    def __init__(self, flow_observer: FlowObserver, lines: AccessLog, clock: Callable[[], float] = time.time) -> None:
        self.detected = flow_observer.detected
        self.lost_lines = flow_observer.lost_lines
        self._flow_observer = flow_observer
        self._write = lines.write
        self._clock = clock

    def stepped_aside(self, flow: bytes, known: DetectedFlow, chosen: ChosenClass) -> None:
        """The class is chosen."""
        self._flow_observer.stepped_aside(flow, known, chosen)
        self._write(decision_line(*ends(flow, known), chosen.class_name, known.detection, self._clock()))
