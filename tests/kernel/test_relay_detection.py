"""From the first bytes to the class: in one piece, dripping, too late, never."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from proxy_harness import LoopbackEdge, RunningProxy, bench, read_exactly, read_to_end, with_patience
from waiting import until

from datapath.protocols.detect import Protocol, Reason
from sidecar.proxy.server import ConnectionOutcome, ServerSettings
from sidecar.transport.states import ConnectionState

REQUEST = b"POST /upload HTTP/1.1\r\nHost: named.example\r\nContent-Length: 5\r\n\r\nhello"


def test_host_chooses_the_class_and_the_server_gets_every_byte() -> None:
    with bench() as b:
        client, _server = b.pair(REQUEST)
        client.close()
        b.recorder.wait(lambda: bool(b.recorder.routes))
        assert b.recorder.routes == ["named"]
        assert b.recorder.detections[0].protocol is Protocol.HTTP1


def test_nothing_is_dialled_before_the_class_is_known() -> None:
    with bench(detection_timeout=60) as b:
        client = b.proxy.client()
        client.sendall(REQUEST[:20])
        b.listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            b.listener.accept()
        b.listener.settimeout(20)
        client.sendall(REQUEST[20:])
        assert read_exactly(b.accept(), len(REQUEST)) == REQUEST


def unread(client: socket.socket) -> int | None:
    """Bytes from ``client`` that wait in the kernel to be read at the other end (proc(5), net/tcp); None: no such end."""
    theirs, port = (f":{address[1]:04X}" for address in (client.getpeername(), client.getsockname()))
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return next(
        (int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(theirs) and row[2].endswith(port)), None
    )


def test_dripping_bytes_wake_the_proxy_once_each() -> None:
    """Edge-triggered: a partial hello does not spin (level-triggered with MSG_PEEK it wakes 160,000 times a second)."""
    with bench(detection_timeout=60) as b:
        client = b.proxy.client()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = REQUEST[: REQUEST.index(b"\r\n\r\n") + 4]
        before = b.proxy.server.wakeups
        for byte in head:
            client.sendall(bytes([byte]))
            until("the byte is read", lambda: unread(client) == 0)
        assert read_exactly(b.accept(), len(head)) == head
        assert b.proxy.server.wakeups - before <= len(head) + 10


def test_server_speaks_first_after_the_detection_timeout() -> None:
    with bench(detection_timeout=0.1) as b:
        client = b.proxy.client()
        server = b.accept()
        server.sendall(b"220 ready\r\n")
        assert read_exactly(client, 11) == b"220 ready\r\n"
        client.sendall(b"EHLO me\r\n")
        assert read_exactly(server, 9) == b"EHLO me\r\n"
        assert b.recorder.detections[0].reason is Reason.TIMEOUT
        assert b.recorder.routes == ["default"]


def test_half_a_hello_before_the_timeout_is_delivered_with_the_rest() -> None:
    with bench(detection_timeout=0.1) as b:
        client = b.proxy.client()
        client.sendall(REQUEST[:30])
        server = b.accept()
        client.sendall(REQUEST[30:])
        assert read_exactly(server, len(REQUEST)) == REQUEST


@pytest.mark.parametrize("sent", [b"", b"GET / HT"], ids=["nothing", "half a request"])
def test_client_that_half_closes_before_it_is_known(sent: bytes) -> None:
    with bench(detection_timeout=60) as b:
        client = b.proxy.client()
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        server = b.accept()
        assert read_to_end(server) == sent
        server.sendall(b"answer")
        server.close()
        assert read_to_end(client) == b"answer"
        assert b.recorder.detections[0].reason is Reason.EOF
        assert b.recorder.closed_one().outcome is ConnectionOutcome.COMPLETE


def test_no_waiting_where_content_cannot_decide() -> None:
    policy = "total: 1Gbit\nclasses: [{name: web, rate: 1Mbit, ceil: 1Gbit, priority: 1, match: [{port: [8080]}]}]"
    with bench(policy, detection_timeout=3600) as b:
        b.proxy.client()
        b.accept()
        assert (b.recorder.routes, b.recorder.detections) == (["web"], [])


SOURCES = """
total: 1Gbit
classes:
  - {{name: ours, rate: 1Mbit, match: [{{host: [named.example], source: [{network}]}}]}}
  - {{name: port, rate: 1Mbit, match: [{{port: [8080], source: [{network}]}}]}}
"""


def test_the_clients_address_is_a_criterion() -> None:
    with bench(SOURCES.format(network="127.0.0.0/8"), detection_timeout=60) as b:
        b.pair(REQUEST)
        b.pair(REQUEST.replace(b"named", b"other"))
        b.recorder.wait(lambda: len(b.recorder.routes) == 2)
        assert b.recorder.routes == ["ours", "port"]


def test_no_waiting_where_the_client_is_none_that_content_could_decide_for() -> None:
    with bench(SOURCES.format(network="10.0.0.0/8"), detection_timeout=3600) as b:
        b.proxy.client()
        b.accept()
        assert (b.recorder.routes, b.recorder.detections) == (["default"], [])


def test_client_that_gives_up_while_detecting_is_not_dialled_for() -> None:
    with bench(detection_timeout=60) as b:
        client = b.proxy.client()
        client.sendall(b"GET")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        b.recorder.wait(lambda: b.recorder.refusals == [ConnectionOutcome.CLIENT_RESET])
        assert b.recorder.routes == []


def test_large_hello_in_small_pieces_arrives_whole() -> None:
    """A 60 KB TLS record, of which nothing can be decided before its end."""
    hello = b"\x16\x03\x01" + (60_000).to_bytes(2, "big") + bytes([1, 0]) + (59_996).to_bytes(2, "big") + bytes(59_996)
    with bench(detection_timeout=60) as b:
        client = b.proxy.client()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(hello), 700):
            client.sendall(hello[start : start + 700])
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(b.accept()) == hello


def test_first_bytes_wait_for_a_server_that_does_not_answer_at_once() -> None:
    """As over a real network, where connect(2) returns long before the server has answered.

    Here a full backlog makes the server's kernel drop the SYN; it is sent again a second later.
    """
    with (
        with_patience(socket.create_server(("127.0.0.1", 0), backlog=0)) as listener,
        RunningProxy(LoopbackEdge(listener.getsockname()), ServerSettings(port=0, ipv6=False)) as proxy,
    ):
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        client = proxy.client()
        client.sendall(REQUEST)
        until(
            "it is dialling", lambda: [v.state for v in proxy.call(proxy.server.snapshot)] == [ConnectionState.DIALLING]
        )
        sources = {filler.getsockname() for filler in fillers}
        while (accepted := listener.accept())[1] in sources:
            accepted[0].close()
        server = with_patience(accepted[0])
        assert read_exactly(server, len(REQUEST)) == REQUEST
        server.sendall(b"answer")
        assert read_exactly(client, 6) == b"answer"
        for filler in fillers:
            filler.close()
