"""Turns of the event loop: what arrives is looked at one after another, in the order of :mod:`daemon.turn_order`.

A turn is what a task does from :meth:`TurnShare.turn` to where it next waits. Each pass of the event loop has one, and
looks for what has arrived meanwhile: so who comes first waits for one turn of somebody else's, or two, however much of
the processor all that has arrived would take. What a task of a connection does is charged to its client, in turns or
between them, by the processor's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import trio

from daemon.turn_order import TurnClient, TurnOrder

_MOST: Final = 32 * 1024
"""Bytes that are read in a turn. Larger blocks have pages of their own (:mod:`daemon.malloc`), which are mapped and
unmapped each time."""
_LATER: Final = 0.2
"""Seconds in which what comes on a connection that is there may go before the handshakes of further ones: whoever waits
for a connection takes the first that is free, and that it may be."""


@dataclass(eq=False, slots=True)
class TurnShare:
    """A connection's share in the turns of its client."""

    turns: LoopTurns
    client: TurnClient
    spent: float = 0.0
    """Seconds of the processor of which it is not known yet what will come of them."""
    had: int = 0
    """Turns that it has had."""
    delay: float = 0.0

    async def turn(self) -> None:
        """Wait for a turn. It lasts until the task waits for anything else."""
        await self.turns._wait(self.client, self.delay)
        self.had += 1

    @contextmanager
    def later(self) -> Iterator[None]:
        """In the block it lets others of its client go first, if they come soon."""
        self.delay = _LATER
        try:
            yield
        finally:
            self.delay = 0.0

    def settle(self, *, useful: bool) -> None:
        """What it has spent came to a good answer, which its client has taken; or to nothing."""
        self.turns.order.settle(self.client, self.spent, useful=useful)
        self.spent = 0.0

    def move(self, client: TurnClient) -> None:
        """From now on it is another client's."""
        self.client = client

    def charge(self, seconds: float) -> None:
        """It has cost so much."""
        self.spent += seconds
        self.turns.order.charge(self.client, seconds)


_share: ContextVar[TurnShare | None] = ContextVar("_share", default=None)


class LoopTurns:
    """Of one server. :meth:`run` must be running. ``waited`` is told for each turn whether its client had proven
    itself, and how many seconds it waited."""

    def __init__(self, waited: Callable[[bool, float], None] = lambda _proven, _seconds: None) -> None:
        self.order: TurnOrder[trio.lowlevel.Task] = TurnOrder()
        self.longest = 0.0
        """Seconds of the processor that a task has taken at most before others had it: what no order can prevent."""
        self._waited = waited
        self._free = True
        """Nobody waits, and this pass has had no turn."""
        self._wake = trio.Event()

    def share(self, client: str) -> TurnShare:
        """A share for this task and those that it starts."""
        share = TurnShare(self, self.order.client(client))
        _share.set(share)
        return share

    async def run(self) -> None:
        """Give turns until cancelled."""
        meter = _Meter(self)
        trio.lowlevel.add_instrument(meter)
        try:
            while True:
                self._free, self._wake = True, trio.Event()
                await self._wake.wait()
                while self.order:
                    trio.lowlevel.reschedule(self.order.next())
                    await trio.lowlevel.checkpoint()
        finally:
            trio.lowlevel.remove_instrument(meter)

    async def _wait(self, client: TurnClient, delay: float) -> None:
        self._wake.set()
        if self._free:
            self._free = False
            self._waited(client.proven, 0.0)
            return
        began = trio.current_time()
        task = trio.lowlevel.current_task()

        def abort(_raise: object) -> trio.lowlevel.Abort:
            self.order.remove(client, task)
            return trio.lowlevel.Abort.SUCCEEDED

        self.order.add(client, task, began + delay)
        await trio.lowlevel.wait_task_rescheduled(abort)
        self._waited(client.proven, trio.current_time() - began)


class _Meter(trio.abc.Instrument):
    """Charges what tasks do to their shares."""

    def __init__(self, turns: LoopTurns) -> None:
        self._turns = turns
        self._began = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 (the protocol's)
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        seconds = time.thread_time() - self._began
        share = task.context.get(_share)
        if share is not None and share.turns is self._turns:
            share.charge(seconds)
            self._turns.longest = max(self._turns.longest, seconds)


class TurnStream(trio.abc.HalfCloseableStream):
    """A socket's stream that is read in turns: until then, what has arrived is in the kernel."""

    def __init__(self, stream: trio.SocketStream, share: TurnShare) -> None:
        self._stream = stream
        self.share = share

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See :class:`trio.abc.ReceiveStream`."""
        await trio.lowlevel.wait_readable(self._stream.socket)
        await self.share.turn()
        return await self._stream.receive_some(min(max_bytes or _MOST, _MOST))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """See :class:`trio.abc.HalfCloseableStream`."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """See :class:`trio.abc.AsyncResource`."""
        await self._stream.aclose()
