"""One worker, as the main process manages it: its messages, its counters, its lifetime."""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from datapath.connection_list import LiveConnection
from sidecar.observability.counters import ConnectionCounters
from sidecar.workers.channel import GONE, Channel
from sidecar.workers.forkserver import Forked
from sidecar.workers.messages import FinalReport, ToMain, ToWorker, WorkerReport

_END_S: Final = 3.0
"""Seconds from the end of its messages to SIGKILL: it only has to reset its connections."""


class WorkerHandle:
    """A worker process. :meth:`running` exchanges its messages; the other methods are for use meanwhile."""

    def __init__(self, forked: Forked, end: socket.socket) -> None:
        self.pid = forked.pid
        self.active = 0
        self.counters = ConnectionCounters()
        self.connections: tuple[LiveConnection, ...] = ()
        """The connections last requested."""
        self.final_report: FinalReport | None = None
        self.heard_at = trio.current_time()
        self.gone = trio.Event()
        """It has sent its final report, and is ending or has ended."""
        self._descriptor = forked.descriptor
        self._channel: Channel[ToWorker, ToMain] = Channel(end)
        self._outbox, self._posted = trio.open_memory_channel[ToWorker](math.inf)
        self._answered = 0
        self._news = trio.Event()

    def has_answered(self, serial: int) -> bool:
        """Whether it has answered this message, or a later one."""
        return self._answered >= serial

    def post(self, message: ToWorker) -> None:
        """Queue a message. Never blocks: a worker that does not read must not delay the others."""
        self._outbox.send_nowait(message)

    async def answer(self, serial: int) -> bool:
        """Wait for an answer; False if the worker ended without one."""
        while not self.has_answered(serial) and not self.gone.is_set():
            await self._news.wait()
        return self.has_answered(serial)

    async def kill(self) -> None:
        """Kill it (SIGKILL)."""
        if not self.gone.is_set():
            self._send_kill()
            await self.gone.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Exchange messages during the block; at its end, end the worker and wait for it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._read)
                yield
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _end(self) -> None:
        with trio.move_on_after(_END_S):
            await self._channel.send_eof()
            await self._read()
            await trio.lowlevel.wait_readable(self._descriptor)
        self._send_kill()
        await trio.lowlevel.wait_readable(self._descriptor)
        self.gone.set()
        self._tell()
        os.close(self._descriptor)
        self._channel.close()

    def _send_kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def _write(self) -> None:
        with suppress(*GONE):  # then the receiver sees end of file, too
            async for message in self._posted:
                await self._channel.send(message)

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self.heard_at = trio.current_time()
            if isinstance(message, WorkerReport):
                self.counters, self.active, self._answered = message.counters, message.active, message.serial
                if message.connections is not None:  # a later request may have asked for the counters only
                    self.connections = message.connections
            else:
                self.counters, self.active, self.final_report = message.counters, 0, message
            self._tell()
        self.gone.set()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
