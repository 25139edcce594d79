"""A running proxy for tests: in a thread of its own, so that a test is a conversation of plain blocking sockets.

:func:`bench` runs it on loopback without privileges: real sockets, real loop; only TPROXY and marks are left out.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from socket import SocketType
from typing import Any, Self

import trio

from datapath.download_limits import ReceiveLimits
from datapath.routing.cached import Routing
from datapath.routing.flow import Destination
from datapath.routing.table import RoutingTable
from datapath.sockets import delay_handshake_ack, set_nodelay, stream_socket
from sidecar.proxy.server import ConnectionSummary, ProxyServer, ServerSettings
from sidecar.transport.kernel_sockets import KernelSockets, OriginalDestination, connect
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import Duration

PATIENCE = 20.0
"""Seconds after which a test gives up waiting; nothing normally takes a tenth of it."""
POLICY = """
total: 1Gbit
classes:
  - {name: named, rate: 1Mbit, ceil: 1Gbit, priority: 1, match: [{host: [named.example]}, {sni: [named.example]}]}
"""
DESTINATION = Destination.parse("203.0.113.7", 8080)
"""Where clients "meant to go": dialling it goes to the test's own server."""


def routing(policy: str = POLICY, ids: ClassIds | None = None) -> Routing:
    """The routing of a policy, with fresh class ids unless some are given. The relay keeps limits for what arrives."""
    parsed = parse_policy(policy)
    ids = ids or ClassIds.assign(c.name for c in parsed.resolved())
    return Routing(RoutingTable.from_policy(parsed), ids, ReceiveLimits.from_policy(parsed, ids))


class LoopbackEdge:
    """Listens on any loopback port and dials ``target`` instead of the original destination."""

    def __init__(self, target: tuple[str, int], destination: Destination | None = DESTINATION) -> None:
        self.target = target
        self.destination = destination
        self.marks: list[int] = []
        self.remarks: list[tuple[object, int]] = []

    def listen(self, port: int, families: Sequence[int]) -> list[SocketType]:
        listener = stream_socket(families[0])
        set_nodelay(listener)
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
        return [listener]

    def original_destination(self, _accepted: SocketType) -> OriginalDestination | None:
        if self.destination is None:
            return None
        return OriginalDestination(self.destination, self.target)

    def dial(self, original: OriginalDestination, mark: int, client: SocketType, *, speaks: bool) -> SocketType:
        self.marks.append(mark)
        upstream = stream_socket(client.family)
        try:
            set_nodelay(upstream)
            if speaks:
                delay_handshake_ack(upstream)
            connect(upstream, original.address)
        except BaseException:
            upstream.close()
            raise
        return upstream

    def change_mark(self, upstream: SocketType, mark: int, client: SocketType) -> None:  # noqa: ARG002
        self.remarks.append((upstream.getsockname(), mark))


@dataclass
class Recorder:
    """An observer that remembers, and lets a test wait."""

    detections: list[Any] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    moves: list[tuple[str, str, int, int]] = field(default_factory=list)
    summaries: list[ConnectionSummary] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)
    doubts: list[None] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def detected(self, detection: Any, _seconds: float) -> None:
        self._note(self.detections, detection)

    def routed(self, class_name: str, _protocol: Any) -> None:
        self._note(self.routes, class_name)

    def refused(self, reason: str) -> None:
        self._note(self.refusals, str(reason))

    def closed(self, summary: ConnectionSummary) -> None:
        self._note(self.summaries, summary)

    def moved(self, old: str, new: str, _protocol: Any, bytes_up: int, bytes_down: int) -> None:
        self._note(self.moves, (old, new, bytes_up, bytes_down))

    def doubted(self) -> None:
        self._note(self.doubts, None)

    def lost_lines(self, count: int) -> None:
        self._note(self.losses, count)

    def _note(self, where: list[Any], what: Any) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until ``condition``, which only events can make true."""
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), self

    def closed_one(self, count: int = 1) -> ConnectionSummary:
        """The ``count``-th connection to end."""
        self.wait(lambda: len(self.summaries) >= count)
        return self.summaries[count - 1]


class RunningProxy:
    """A proxy in a thread of its own, so that tests can hold conversations with plain blocking sockets."""

    def __init__(
        self,
        kernel_sockets: KernelSockets,
        settings: ServerSettings,
        policy: str = POLICY,
        inside: AbstractContextManager[Any] | None = None,
    ) -> None:
        """``inside`` is entered by the proxy's thread: a network namespace."""
        self.recorder = Recorder()
        self.kernel_sockets = kernel_sockets
        self._settings = settings
        self._policy = policy
        self._inside = inside if inside is not None else nullcontext()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)

    def _main(self) -> None:
        try:
            with self._inside:
                trio.run(self._run)
        except BaseExceptionGroup as group:
            self._failure = group.exceptions[0]
        except BaseException as error:  # noqa: BLE001 (shown by __enter__ or __exit__ in the test's own thread)
            self._failure = error
        finally:
            self._started.set()

    async def _run(self) -> None:
        self.server = ProxyServer(
            self._settings, routing(self._policy), self.recorder, kernel_sockets=self.kernel_sockets
        )
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                self.addresses = await nursery.start(self.server.run)
                self._started.set()
                # After a drain the server ends by itself; the tests go on asking.
                await trio.sleep_forever()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.call(self._scope.cancel)
            self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a synchronous function in the proxy's thread."""
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)

    def drain(self, grace: float) -> int:
        """Drain from outside; returns how many connections were cut."""
        return trio.from_thread.run(self.server.drain, Duration.from_seconds(grace), trio_token=self._token)

    def follow(self, policy: str, ids: ClassIds | None = None) -> None:
        """Put another policy in force, as a reload does."""
        trio.from_thread.run(self.server.follow, routing(policy, ids), trio_token=self._token)

    def client(self) -> socket.socket:
        """A client that is connected to the proxy."""
        return with_patience(socket.create_connection(self.addresses[0]))


def with_patience(sock: socket.socket) -> socket.socket:
    """Blocking calls fail the test instead of hanging it."""
    sock.settimeout(PATIENCE)
    return sock


@dataclass
class Bench:
    """A proxy and the server behind it."""

    proxy: RunningProxy
    listener: socket.socket

    @property
    def recorder(self) -> Recorder:
        return self.proxy.recorder

    def pair(self, hello: bytes = b"\x00") -> tuple[socket.socket, socket.socket]:
        """A client and the server's side of its connection. ``hello`` decides at once; the server has read it."""
        client = self.proxy.client()
        client.sendall(hello)
        server = self.accept()
        assert read_exactly(server, len(hello)) == hello
        return client, server

    def accept(self) -> socket.socket:
        return with_patience(self.listener.accept()[0])


@contextmanager
def bench(policy: str = POLICY, *, destination: Destination = DESTINATION, **settings: Any) -> Iterator[Bench]:
    """A proxy in front of a listening socket that the test accepts from. Durations as for ServerSettings, in seconds."""
    chosen = replace(
        ServerSettings(port=0, ipv6=False),
        **{k: Duration.from_seconds(v) if k.endswith("timeout") else v for k, v in settings.items()},
    )
    with (
        with_patience(socket.create_server(("127.0.0.1", 0), backlog=1024)) as listener,
        RunningProxy(LoopbackEdge(listener.getsockname(), destination), chosen, policy) as proxy,
    ):
        yield Bench(proxy, listener)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes, or fewer when FIN comes before."""
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def read_to_end(sock: socket.socket) -> bytes:
    """Everything up to FIN."""
    data = bytearray()
    while piece := sock.recv(1 << 16):
        data += piece
    return bytes(data)
