"""Abuse of the proxy itself, on loopback: a full house, nothing left to make sockets of, floods of beginnings and of frames."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest
from proxy_harness import Bench, LoopbackEdge, RunningProxy, bench, read_exactly
from waiting import until

from benchmarks.abuse.clients.hello import beginning
from benchmarks.abuse.clients.http2 import Speaker
from datapath.protocols.detect import Reason
from datapath.protocols.http2_requests import Http2Cutter
from sidecar.proxy import idle_eviction, memory_trim, sniffer
from sidecar.proxy.server import ConnectionOutcome, ServerSettings
from sidecar.transport import direction, request_direction
from sidecar.transport.kernel_sockets import OriginalDestination
from sidecar.transport.loop import EventLoop
from sidecar.transport.loop_context import LoopContext
from sidecar.transport.timers import Timers

FOLLOWED = """
total: 1Gbit
requests: follow
classes:
  - {name: strict, rate: 1Mbit, ceil: 2Mbit, match: {host: strict.example}}
  - {name: named, rate: 1Mbit, ceil: 1Gbit, match: {host: named.example}}
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet is who has moved nothing between two looks."""
    monkeypatch.setattr(idle_eviction, "LOOK_S", 0.05)
    monkeypatch.setattr(idle_eviction, "QUIET_S", 0.2)


@pytest.mark.usefixtures("impatient")
def test_who_is_quiet_for_longest_makes_room_for_those_who_wait() -> None:
    with bench(max_connections=3) as b:
        first, second, third = b.pair(), b.pair(), b.pair()
        waiting = b.proxy.client()
        waiting.sendall(b"\x00")
        with pytest.raises(ConnectionResetError):
            first[0].recv(1)
        assert read_exactly(b.accept(), 1) == b"\x00"
        assert b.recorder.closed_one().outcome is ConnectionOutcome.CROWDED_OUT
        for client, server in (second, third):
            client.sendall(b"+")
            assert read_exactly(server, 1) == b"+"


def _readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


@pytest.mark.usefixtures("impatient")
def test_a_proxy_that_is_not_full_ends_nobody() -> None:
    """Nearly full, so that it looks: longer than it takes to be quiet."""
    with bench(max_connections=8) as b:
        pairs = [b.pair() for _ in range(7)]
        watch = b.proxy.server._idle_eviction
        until("looks", lambda: watch._seen)
        began = {since for _, since in watch._seen.values()}
        until("patience", lambda: watch._now() - max(began) > 3 * idle_eviction.QUIET_S)
        assert b.proxy.server.active == len(pairs)
        assert b.recorder.summaries == []


class _EmptyEdge(LoopbackEdge):
    """Has no descriptor to dial with, a few times."""

    def __init__(self, target: tuple[str, int], times: int) -> None:
        super().__init__(target)
        self.times = times

    def dial(
        self, original: OriginalDestination, mark: int, client: socket.SocketType, *, speaks: bool
    ) -> socket.SocketType:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "no descriptor")
        return super().dial(original, mark, client, speaks=speaks)


def test_no_descriptor_for_dialling_is_waited_for() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        RunningProxy(_EmptyEdge(listener.getsockname(), 3), ServerSettings(port=0, ipv6=False)) as proxy,
    ):
        pair = Bench(proxy, listener).pair()
        assert proxy.recorder.summaries == []
        assert pair[0].fileno() > 0


def test_a_client_that_leaves_while_there_is_no_descriptor_is_let_go() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        RunningProxy(_EmptyEdge(listener.getsockname(), 1_000_000), ServerSettings(port=0, ipv6=False)) as proxy,
    ):
        client = proxy.client()
        client.sendall(b"\x00")
        proxy.recorder.wait(lambda: bool(proxy.recorder.routes))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert proxy.recorder.closed_one().outcome is ConnectionOutcome.CLIENT_RESET
        assert len(proxy.server._context.waiting) == 0


def test_first_bytes_of_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sniffer, "ALL_FIRST_BYTES", 50_000)
    with bench(detection_timeout=20) as b:
        hello = beginning(20_000)
        clients = []
        for _ in range(6):
            clients.append(b.proxy.client())
            clients[-1].sendall(hello)
        servers = [b.accept() for _ in range(4)]  # the first two fit, and go on waiting
        for server in servers:
            assert read_exactly(server, len(hello)) == hello
        assert [d.reason for d in b.recorder.detections] == [Reason.LIMIT] * 4
        awaited = b.proxy.server._context.first_bytes
        assert awaited.size == 40_000
        for client in clients:
            client.close()
        until("an empty account", lambda: awaited.size == 0)


@pytest.mark.parametrize("kind", ["rapid-reset", "settings", "ping", "empty-data", "continuation"])
def test_a_flood_of_frames_is_no_longer_followed(kind: str) -> None:
    speaker = Speaker("named.example", "/", kind)
    with bench(FOLLOWED) as made:
        client = made.proxy.client()
        client.sendall(speaker.greeting)
        server = made.accept()
        sent = bytearray(speaker.greeting)
        received = bytearray()
        server.setblocking(False)
        while not made.recorder.doubts:
            more = speaker.more()
            client.sendall(more)
            sent += more
            assert len(sent) < 4_000_000, "it is followed for ever"
            while len(received) < len(sent) and not made.recorder.doubts and _readable(server):
                received += server.recv(1 << 20)
        made.recorder.wait(lambda: bool(made.recorder.moves))
        assert made.recorder.moves[-1][:2] == ("named", "strict")
        server.setblocking(True)
        server.settimeout(20)
        received += read_exactly(server, len(sent) - len(received))
        assert received == sent


@pytest.mark.parametrize("kind", ["rapid-reset", "ping"])
def test_the_same_frames_at_their_ease_are_followed(kind: str) -> None:
    """As many as may come in a second."""
    speaker = Speaker("named.example", "/", kind)
    cutter = Http2Cutter()
    cutter.feed(speaker.greeting)
    for _ in range(990):
        cutter.feed(speaker._make())
    assert cutter.idle_work <= request_direction._MAX_IDLE_WORK


def test_reads_of_a_flood_are_small() -> None:
    """What is cut in one go takes some milliseconds, not a tenth of a second; others have their turn in between."""
    speaker = Speaker("named.example", "/", "hpack-bomb")
    with bench(FOLLOWED) as made:
        client = made.proxy.client()
        client.sendall(speaker.greeting)
        server = made.accept()
        server.setblocking(False)
        for _ in range(4):
            client.sendall(speaker.more())
            until("its arrival", lambda: _readable(server) and server.recv(1 << 20))
        (connection,) = made.proxy.server._context.live
        assert isinstance(connection.pair.up.followed, request_direction.FollowedRequests)
        assert connection.pair.up.followed.at_most <= request_direction._FIRST_READ


def test_a_large_body_is_read_in_large_pieces() -> None:
    with bench(FOLLOWED) as made:
        client = made.proxy.client()
        head = b"POST / HTTP/1.1\r\nHost: named.example\r\nContent-Length: 3000000\r\n\r\n"
        client.sendall(head)
        server = made.accept()
        assert read_exactly(server, len(head)) == head
        client.settimeout(None)
        for _ in range(30):
            client.sendall(b"x" * 100_000)
            read_exactly(server, 100_000)
        (connection,) = made.proxy.server._context.live
        assert isinstance(connection.pair.up.followed, request_direction.FollowedRequests)
        assert connection.pair.up.followed.at_most > request_direction._FIRST_READ


class _AnyRequest:
    """Lets every request go on."""

    def begins(self, _what: object) -> bool:
        return True

    def settle(self) -> None:
        """There is no class."""


@pytest.mark.parametrize(("seconds", "whole"), [(0.0, False), (60.0, True)], ids=["no-time", "time"])
def test_what_a_client_left_that_has_reset_is_cut_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch, seconds: float, whole: bool
) -> None:
    monkeypatch.setattr(direction, "CUTTING_S", seconds)
    speaker = Speaker("named.example", "/", "hpack-bomb")
    sent = speaker.greeting + speaker.more()
    pairs = [socket.socketpair() for _ in range(2)]
    (client, source), (sink, _server) = pairs
    timers = Timers()
    loop = EventLoop(timers)
    try:
        for sock in (client, source, sink):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        assert client.send(sent) == len(sent)
        upwards = direction.Direction(LoopContext(loop), _AnyRequest(), source, sink)  # type: ignore[arg-type]
        upwards.followed = request_direction.FollowedRequests(_AnyRequest(), Http2Cutter(), b"")
        upwards.drain()
        assert (upwards.count == len(sent)) == whole
    finally:
        loop.close()
        for sock in (*pairs[0], *pairs[1]):
            sock.close()


def test_memory_is_given_back_once_when_most_are_gone() -> None:
    clock = [0.0]
    timers = Timers(lambda: clock[0])
    given: list[float] = []
    tide = memory_trim.MemoryTrimmer(timers, lambda: given.append(clock[0]))

    def close(connections: range) -> None:
        for left in connections:
            tide.closed(left, 0)

    close(range(1999, 251, -1))
    timers.expire(clock[0] + 10)
    assert given == []
    close(range(251, -1, -1))
    timers.expire(clock[0] + 10)
    assert len(given) == 1
    close(range(900, -1, -1))  # too few to be worth it
    timers.expire(clock[0] + 10)
    assert len(given) == 1
    close(range(5000, -1, -1))
    timers.expire(clock[0] + 10)
    assert len(given) == 2


def printed_by(program: str) -> list[int]:
    """The numbers that it prints, with the memory allocator that the image has."""
    environment = {**os.environ, "PYTHONMALLOC": "malloc"}
    argv = [sys.executable, "-c", program]
    return [int(w) for w in subprocess.run(argv, capture_output=True, check=True, env=environment).stdout.split()]


def test_what_is_free_goes_back_to_the_system() -> None:
    """Objects of all sizes of a connection's, most of which go: what is left is on every page of Python's own allocator."""
    program = (
        "import os\n"
        "from sidecar.proxy.memory_trim import trim_memory\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGESIZE')\n"
        "trim_memory(); before = rss()\n"
        "kept = [bytes(100 + i % 300) for i in range(200_000)]\n"
        "held = rss()\n"
        "kept = kept[::2000]\n"
        "trim_memory(); print(before, held, rss())"
    )
    before, held, after = printed_by(program)
    assert held - before > 40_000_000
    assert after - before < (held - before) / 10


def test_reading_the_counters_leaves_little_behind() -> None:
    """What an idle sidecar does every second: some minutes of it."""
    program = (
        "import re\n"
        "from sidecar.proxy.server import tune_garbage_collector\n"
        "from tc_core.rtnetlink.kernel import NetlinkKernel\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "with NetlinkKernel() as kernel:\n"
        "    kernel.counters('lo'); tune_garbage_collector(); before = peak()\n"
        "    for _ in range(500): kernel.counters('lo')\n"
        "    print(peak() - before)"
    )
    assert printed_by(program)[0] < 5000
