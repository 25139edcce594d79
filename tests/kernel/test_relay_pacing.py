"""The relay that reads no faster than a class may receive: rates, every byte, ends, and limits that change meanwhile."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from proxy_harness import DESTINATION, bench, read_exactly, read_to_end
from waiting import until

from datapath.routing.flow import Destination
from traffic_policy.policy import Bound

FRAMED = 1514 / 1448
HELLO = b"GET / HTTP/1.1\r\nHost: %s.example\r\n\r\n"
INBOUND = Destination(DESTINATION.address, DESTINATION.port, bound=Bound.INBOUND)
FREE = "total: 1Gbit\nclasses: [{name: a, rate: 1Mbit, match: {host: a.example}}]"


def limited(ceil: str, *, total: str = "1Gbit", more: str = "") -> str:
    return f"""
total: 1Gbit
ingress: {{total: {total}}}
{more}
classes:
  - {{name: a, rate: 1Mbit, ingress: {{rate: 100kbit, ceil: {ceil}}}, match: {{host: a.example, direction: both}}}}
  - {{name: b, rate: 1Mbit, ingress: {{rate: 100kbit, ceil: 900Mbit}}, match: {{host: b.example, direction: both}}}}
"""


@contextmanager
def sending(sock: socket.socket, data: bytes) -> Iterator[None]:
    """Send and end, meanwhile."""

    def send() -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    thread.join(20)


@pytest.mark.parametrize(("ceil", "megabits"), [("8Mbit", 8), ("400Mbit", 400)], ids=["copied", "spliced"])
@pytest.mark.parametrize("direction", ["download", "upload"])
@pytest.mark.parametrize("requests", ["first", "follow"])
def test_every_byte_comes_and_no_faster(ceil: str, megabits: int, direction: str, requests: str) -> None:
    """What clients upload is received from the network, too, and may be looked at on the way."""
    data = random.Random(ceil).randbytes(megabits * 125_000 * 2 // 5)
    down = direction == "download"
    with bench(limited(ceil, more=f"requests: {requests}"), destination=DESTINATION if down else INBOUND) as b:
        hello = (
            HELLO % b"a" if down else b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % len(data)
        )
        client, server = b.pair(hello)
        source, sink = (server, client) if down else (client, server)
        began = time.monotonic()
        with sending(source, data):
            assert read_to_end(sink) == data
        took = time.monotonic() - began
        sink.shutdown(socket.SHUT_WR)
        assert b.recorder.closed_one().outcome.value == "complete"
    # A bucket was full at the beginning: 50 ms at its rate; and what is still in the kernel's buffers is not counted.
    assert took >= 0.4 * FRAMED * 0.85 - 0.05


def test_bytes_that_were_read_in_another_class_wait_in_their_own() -> None:
    """A small request to the fast class before each: the head of the next one is read in that class, and its body too."""
    body = bytes(6000)
    upload = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    with bench(limited("800kbit", more="requests: follow"), destination=INBOUND) as b:
        client, server = b.pair(HELLO % b"b")
        began = time.monotonic()
        for _ in range(15):
            for request in (upload, HELLO % b"b"):
                server.sendall(answer)
                assert read_exactly(client, len(answer)) == answer
                client.sendall(request)
                assert read_exactly(server, len(request)) == request
        took = time.monotonic() - began
    assert took >= 15 * len(body) * 8 / 800_000 * 0.7


def test_bytes_that_wait_for_their_class_survive_a_reset_of_the_client() -> None:
    upload = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6000\r\n\r\n" + bytes(6000)
    with bench(limited("100kbit", more="requests: follow"), destination=INBOUND) as b:
        client, server = b.pair(HELLO % b"b")
        (connection,) = b.proxy.server._context.live
        client.sendall(upload)
        until("a direction that waits", lambda: connection.pair.up.queued)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert read_exactly(server, len(upload)) == upload


def test_what_is_not_received_from_the_network_is_not_held() -> None:
    data = bytes(3_000_000)
    with bench(limited("100kbit")) as b:
        client, server = b.pair(HELLO % b"a")
        with sending(client, data):
            assert len(read_to_end(server)) == len(data)


def test_a_class_that_is_held_does_not_hold_another() -> None:
    with bench(limited("100kbit")) as b:
        slow_client, slow_server = b.pair(HELLO % b"a")
        fast_client, fast_server = b.pair(HELLO % b"b")
        slow_server.sendall(bytes(200_000))
        assert slow_client.recv(1)
        with sending(fast_server, bytes(10_000_000)):
            assert len(read_to_end(fast_client)) == 10_000_000
        slow_client.setblocking(False)
        assert len(slow_client.recv(1 << 20)) < 100_000


@pytest.mark.alone
def test_connections_of_one_class_take_turns() -> None:
    with bench(limited("40Mbit")) as b:
        pairs = [b.pair(HELLO % b"a") for _ in range(4)]
        together = threading.Barrier(len(pairs))
        for _, server in pairs:
            threading.Thread(target=_send_on, args=(server, together), daemon=True).start()
        counts = [0] * len(pairs)
        over = time.monotonic() + 1.0

        def count(number: int) -> None:
            while time.monotonic() < over and (size := len(pairs[number][0].recv(1 << 16))):
                counts[number] += size

        threads = [threading.Thread(target=count, args=(n,)) for n in range(len(pairs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for client, server in pairs:
            server.shutdown(socket.SHUT_RDWR)
            client.close()
    # All of them had something all the time; but a busy machine may begin one of them a little earlier.
    assert min(counts) > 0.5 * max(counts), counts
    assert sum(counts) * 8 * FRAMED / 1e6 < 1.2 * 40 + 5


def _send_on(sock: socket.socket, together: threading.Barrier | None = None) -> None:
    if together is not None:
        together.wait(20)
    try:
        while True:
            sock.sendall(bytes(1 << 16))
    except OSError:
        return


def test_what_a_server_sent_before_it_reset_is_delivered_at_once() -> None:
    data = random.Random(5).randbytes(60_000)
    with bench(limited("100kbit")) as b:
        client, server = b.pair(HELLO % b"a")
        server.sendall(data)
        first = read_exactly(client, 1000)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        began = time.monotonic()
        rest = bytearray()
        try:
            while piece := client.recv(1 << 16):
                rest += piece
        except ConnectionResetError:
            pass
        assert first + rest == data[: len(first) + len(rest)]
        assert time.monotonic() - began < 4, "5 s at its rate"
        assert b.recorder.closed_one().outcome.value == "server-reset"


def test_limits_come_and_go_under_a_live_connection() -> None:
    with bench(FREE) as b:
        client, server = b.pair(HELLO % b"a")
        threading.Thread(target=_send_on, args=(server,), daemon=True).start()
        assert read_exactly(client, 20_000_000)
        b.proxy.follow(limited("100kbit"))
        client.settimeout(0.3)
        left = 0
        try:
            # Until no more than its rate is left; a bound for what was under way.
            while left < 60_000_000:
                began = time.monotonic()
                size = len(client.recv(1 << 16))
                left += size
                if size <= 3000 and time.monotonic() - began > 0.1:
                    break
        except TimeoutError:
            pass
        assert left < 60_000_000
        client.settimeout(20)
        # Another class's limits, and then none.
        b.proxy.follow(limited("100kbit").replace("100kbit, ceil: 100kbit", "50Mbit, ceil: 500Mbit"))
        assert read_exactly(client, 5_000_000)
        b.proxy.follow(limited("100kbit"))
        b.proxy.follow(FREE)
        assert read_exactly(client, 20_000_000)
        server.shutdown(socket.SHUT_RDWR)


def test_who_waits_may_be_closed() -> None:
    with bench(limited("100kbit"), idle_timeout=60) as b:
        client, server = b.pair(HELLO % b"a")
        server.sendall(bytes(100_000))
        assert client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert b.recorder.closed_one().outcome.value == "client-reset"
        other, far = b.pair(HELLO % b"a")
        far.sendall(b"answer")
        assert read_exactly(other, 6) == b"answer"


def test_what_a_client_says_first_counts() -> None:
    """It is read before the class is known, so it does not wait; what comes behind it does."""
    body = bytes(50_000)
    with bench(limited("1Mbit"), destination=INBOUND) as b:
        began = time.monotonic()
        client, server = b.pair(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 50001\r\n\r\n" + body)
        client.sendall(b"x")
        assert read_exactly(server, 1) == b"x"
        assert time.monotonic() - began >= 0.4 * FRAMED * 0.85 - 0.05


def test_who_waits_for_its_turn_is_not_idle() -> None:
    """With six downloads of one class each waits longer for the next bytes than a connection may be idle."""
    with bench(limited("100kbit"), idle_timeout=1.0) as b:
        pairs = [b.pair(HELLO % b"a") for _ in range(6)]
        for _, server in pairs:
            server.sendall(bytes(6_000))
            server.shutdown(socket.SHUT_WR)
        assert sum(len(read_to_end(client)) for client, _ in pairs) == 36_000
