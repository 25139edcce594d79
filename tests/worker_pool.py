"""Workers on loopback, without privileges: real processes and sockets; only TPROXY and marks are left out.

A program of its own, since what forks must have one thread: prints what it has seen as JSON. ``dies`` as its argument
makes workers that cannot listen (tests/kernel has the time for that).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from socket import SocketType

import trio
from proxy_harness import POLICY, LoopbackEdge, read_exactly, routing, with_patience

from datapath.connection_list import Order
from datapath.sockets import stream_socket
from sidecar.config.settings import LogFormat, LogLevel
from sidecar.errors import WorkersError
from sidecar.observability.counters import ConnectionCounters
from sidecar.proxy.server import ServerSettings
from sidecar.transport.kernel_sockets import KernelSockets
from sidecar.workers.forkserver import ForkServer, fork_server
from sidecar.workers.pool import WorkerPool
from sidecar.workers.worker import work
from traffic_policy.units import Duration

CONNECTIONS = 40
HELLO = b"GET / HTTP/1.1\r\nHost: named.example\r\n\r\n"


class GivenEdge(LoopbackEdge):
    """The edge of a worker."""

    def __init__(self, target: tuple[str, int], listeners: Sequence[SocketType], *, dies: bool) -> None:
        super().__init__(target)
        self._listeners = list(listeners)
        self._dies = dies

    def listen(self, port: int, families: Sequence[int]) -> list[SocketType]:  # noqa: ARG002
        if self._dies:
            raise RuntimeError("a mistake, made on purpose")
        return self._listeners


def listen(_port: int, _families: Sequence[int], count: int) -> list[list[SocketType]]:
    """``count`` listeners on one free port."""
    groups: list[list[SocketType]] = []
    port = 0
    for _ in range(count):
        listener = stream_socket(socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
        port = listener.getsockname()[1]
        groups.append([listener])
    return groups


async def scenario(forks: ForkServer, server: socket.socket) -> dict[str, object]:
    seen: dict[str, object] = {}
    gone = ConnectionCounters()

    async def connections(number: int) -> list[tuple[socket.socket, socket.socket]]:
        def blocking() -> list[tuple[socket.socket, socket.socket]]:
            pairs = []
            for _ in range(number):
                client = with_patience(socket.create_connection(address))
                client.sendall(HELLO)
                far = with_patience(server.accept()[0])
                assert read_exactly(far, len(HELLO)) == HELLO
                pairs.append((client, far))
            return pairs

        return await trio.to_thread.run_sync(blocking)

    def total() -> ConnectionCounters:
        counters = ConnectionCounters()
        for each in (gone, *pool.workers.counters):
            counters.add(each)
        return counters

    with socket.socket() as lock:
        settings = ServerSettings(port=0, ipv6=False, max_connections=1000)
        pool = WorkerPool(
            forks, 2, lock, settings, routing(), gone,
            listen=listen, log_format=LogFormat.JSON, log_level=LogLevel.ERROR,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(pool.run)
            pairs = await connections(CONNECTIONS)
            seen["missing"] = await pool.ask()
            seen["active"] = pool.active
            seen["each"] = [counters.connections["named"].total for counters in pool.workers.counters]
            newest = await pool.connections(15, Order.NEWEST)
            every = await pool.connections(1000, Order.LARGEST)
            seen["told"] = [newest.active, len(newest.connections), len(every.connections)]
            seen["told of whom"] = {each.client for each in every.connections} == {
                client.getsockname() for client, _ in pairs
            }
            seen["detections"] = sum(total().detections.values())
            other = routing(POLICY.replace("name: named", "name: renamed"))
            await pool.follow(other)
            moved = total().connections["renamed"]
            seen["moved"] = [moved.active, moved.total]
            more = await connections(10)
            await pool.ask()
            renamed = total().connections["renamed"]
            seen["renamed"] = [renamed.active, renamed.total]
            seen["kept"] = "named" in total().connections

            victim = pool._places[0].worker
            assert victim is not None
            os.kill(victim.pid, signal.SIGKILL)
            await victim.gone.wait()
            while (await pool.ask()) or pool.workers.present < 2:
                await trio.lowlevel.checkpoint()
            seen["after a death"] = total().connections["renamed"].total
            seen["alive after it"] = pool.active < CONNECTIONS + len(more)
            seen["replaced"] = gone.workers_replaced
            [(client, far)] = await connections(1)
            await pool.ask()
            seen["by the next"] = total().connections["renamed"].total
            expected = pool.active
            seen["cut"] = await pool.drain(Duration(0)) == expected
            seen["at rest"] = gone.connections["renamed"].total
            seen["all at rest"] = gone.connections["renamed"].active
            seen["present"] = pool.workers.present
            for one, two in (*pairs, *more, (client, far)):
                one.close()
                two.close()
    return seen


async def dying(forks: ForkServer) -> dict[str, object]:
    with socket.socket() as lock:
        pool = WorkerPool(
            forks, 2, lock, ServerSettings(port=0, ipv6=False), routing(), ConnectionCounters(), listen=listen
        )
        try:
            await pool.run()
        except WorkersError as error:
            return {"error": str(error)}
    raise AssertionError("workers that cannot listen do not end the pool")


def main() -> None:
    dies = sys.argv[1:] == ["dies"]
    with with_patience(socket.create_server(("127.0.0.1", 0), backlog=1024)) as server:
        target = server.getsockname()  # now: the workers do not have this socket

        def kernel_sockets(listeners: Sequence[SocketType]) -> KernelSockets:
            return GivenEdge(target, listeners, dies=dies)

        with fork_server(partial(work, make_sockets=kernel_sockets)) as forks:
            told = trio.run(dying, forks) if dies else trio.run(scenario, forks, server)
            told["fork server"] = os.waitpid(forks.pid, os.WNOHANG) == (0, 0)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
