"""A worker process: a proxy on inherited listeners, controlled by the main process's messages."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import SocketType

import trio

from daemon.log import Logger
from daemon.log import configure as configure_log
from datapath.connection_list import Order
from datapath.routing.cached import Routing
from datapath.shared_counters import CounterRow, SharedCounters
from sidecar.observability.counters import ConnectionCounters
from sidecar.proxy.server import ProxyServer, tune_garbage_collector
from sidecar.transport.inbound import InboundSockets
from sidecar.transport.kernel_sockets import KernelSockets, TransparentSockets
from sidecar.workers.channel import GONE, Channel
from sidecar.workers.messages import Ask, Begin, Drain, FinalReport, Follow, ToMain, ToWorker, WorkerReport
from traffic_policy.units import Duration

log = Logger()

MakeSockets = Callable[[Sequence[SocketType]], KernelSockets]


def work(
    descriptors: list[int],
    make_sockets: MakeSockets = TransparentSockets,
    received_counters: SharedCounters | None = None,
) -> None:
    """Run a worker until its end. ``descriptors``: the messages, the lock (only held), the listeners.

    ``received_counters`` has a row for each worker.
    """
    messages, _, *inherited = descriptors
    listeners = [SocketType(fileno=each) for each in inherited]
    for listener in listeners:
        listener.setblocking(False)
    try:
        trio.run(_work, socket.socket(fileno=messages), listeners, make_sockets, received_counters)
    except BaseException:
        log.exception("this worker cannot go on")
        raise


async def _work(
    messages: socket.socket,
    listeners: list[SocketType],
    make_sockets: MakeSockets,
    received_counters: SharedCounters | None,
) -> None:
    channel: Channel[ToMain, ToWorker] = Channel(messages)
    begin, follow = await channel.receive(), await channel.receive()
    if not isinstance(begin, Begin) or not isinstance(follow, Follow):
        return  # the main process has ended
    _begin_log(begin)
    inbound = [each for each in listeners if each.getsockname()[1] == begin.settings.inbound_port]
    outbound = [each for each in listeners if each not in inbound]
    row = received_counters.row(begin.number - 1) if received_counters is not None else None
    worker = Worker(channel, begin, follow, make_sockets(outbound), InboundSockets(inbound), row)
    final_report = FinalReport(await worker.run(follow.serial), worker.counters)
    with suppress(*GONE):
        await channel.send(final_report)


class Worker:
    """One proxy, controlled by the main process."""

    def __init__(
        self,
        channel: Channel[ToMain, ToWorker],
        begin: Begin,
        follow: Follow,
        kernel_sockets: KernelSockets,
        inbound: KernelSockets,
        received_counters: CounterRow | None,
    ) -> None:
        self.counters = ConnectionCounters()
        self._channel = channel
        routing = Routing(follow.table, follow.ids, follow.limits)
        self._server = ProxyServer(
            begin.settings,
            routing,
            self.counters,
            kernel_sockets=kernel_sockets,
            inbound=inbound,
            received_counters=received_counters,
        )
        self._cut = 0

    async def run(self, serial: int) -> int:
        """Serve until drained, or until the main process has ended; return the number of connections a drain reset.

        ``serial`` is answered once the listeners accept.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._server.run)
            tune_garbage_collector()
            await self._report(serial)
            while (message := await self._channel.receive()) is not None:
                match message:
                    case Follow():
                        await self._server.follow(Routing(message.table, message.ids, message.limits))
                        self.counters.keep(message.ids)
                        await self._report(message.serial)
                    case Ask():
                        await self._report(message.serial, message.connections, message.order)
                    case Drain():
                        nursery.start_soon(self._drain, message.grace, nursery.cancel_scope)
            nursery.cancel_scope.cancel()
        return self._cut

    async def _drain(self, grace: Duration, life: trio.CancelScope) -> None:
        self._cut = await self._server.drain(grace)
        life.cancel()

    async def _report(self, serial: int, connections: int = 0, order: Order = Order.NEWEST) -> None:
        # Shielded: the final report must not follow half a report. If the main process has ended, the next receive
        # reports it.
        shown = tuple((await self._server.connections(connections, order)).connections) if connections else None
        with trio.CancelScope(shield=True), suppress(*GONE):
            await self._channel.send(WorkerReport(serial, self._server.active, self.counters, shown))


def _begin_log(begin: Begin) -> None:
    """Log as the main process does, with the worker's number in each line."""
    configure_log(begin.log_format, begin.log_level, worker=begin.number)
