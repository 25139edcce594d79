"""How relayed connections end: half-close in every order, resets, refusals, timeouts."""

from __future__ import annotations

import select
import socket
import struct

import pytest
from proxy_harness import LoopbackEdge, RunningProxy, bench, read_exactly, read_to_end
from waiting import until

from datapath.sockets import unacknowledged
from sidecar.proxy.server import ConnectionOutcome, Refusal, ServerSettings

BIG = 8 << 20
"""Bytes: more than all buffers between two ends that do not read take without being stalled."""


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def stuff(sock: socket.socket) -> int:
    """Send until nothing more is taken for a while; returns the bytes."""
    sock.settimeout(0.2)
    sent = 0
    try:
        while True:
            sent += sock.send(b"x" * 65536)
    except TimeoutError:
        return sent


def test_client_half_closes_first_and_still_gets_the_answer() -> None:
    with bench() as b:
        client, server = b.pair()
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(server) == b"question"
        server.sendall(b"answer")
        server.close()
        assert read_to_end(client) == b"answer"
        assert b.recorder.closed_one().outcome is ConnectionOutcome.COMPLETE


def test_server_half_closes_first_and_still_gets_the_rest() -> None:
    with bench() as b:
        client, server = b.pair()
        server.sendall(b"greeting")
        server.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"greeting"
        client.sendall(b"upload")
        client.close()
        assert read_to_end(server) == b"upload"
        summary = b.recorder.closed_one()
        assert (summary.outcome, summary.bytes_up, summary.bytes_down) == (ConnectionOutcome.COMPLETE, 7, 8)


def test_both_close_at_once() -> None:
    with bench() as b:
        client, server = b.pair()
        client.shutdown(socket.SHUT_WR)
        server.shutdown(socket.SHUT_WR)
        assert (read_to_end(client), read_to_end(server)) == (b"", b"")
        assert b.recorder.closed_one().outcome is ConnectionOutcome.COMPLETE


def test_reset_by_the_server_reaches_the_client_after_what_was_sent() -> None:
    with bench() as b:
        client, server = b.pair()
        server.sendall(b"partial")
        assert read_exactly(client, 7) == b"partial"
        reset(server)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert b.recorder.closed_one().outcome is ConnectionOutcome.SERVER_RESET


def test_answer_that_a_reset_follows_at_once_is_still_read() -> None:
    """As when a server refuses an upload: it answers and closes with bytes unread, so its kernel sends RST."""
    with bench() as b:
        client, server = b.pair()
        stuff(client)
        server.sendall(b"413 too large")
        server.close()
        assert read_exactly(client, 13) == b"413 too large"
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert b.recorder.closed_one().outcome is ConnectionOutcome.SERVER_RESET


def test_reset_by_the_client_reaches_the_server() -> None:
    with bench() as b:
        client, server = b.pair()
        reset(client)
        with pytest.raises(ConnectionResetError):
            server.recv(1)
        assert b.recorder.closed_one().outcome is ConnectionOutcome.CLIENT_RESET


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "server"])
def test_reset_while_the_other_side_does_not_read(by_client: bool) -> None:
    """The stalled side learns of it at once; what is queued for it does not make the reset wait."""
    with bench() as b:
        client, server = b.pair()
        sender, stalled = (client, server) if by_client else (server, client)
        stuff(sender)
        reset(sender)
        summary = b.recorder.closed_one()
        assert summary.outcome is (ConnectionOutcome.CLIENT_RESET if by_client else ConnectionOutcome.SERVER_RESET)
        with pytest.raises(ConnectionResetError):
            read_to_end(stalled)


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "server"])
def test_what_was_sent_before_a_fin_arrives_although_a_reset_follows(by_client: bool) -> None:
    """A sends much and FIN; B, not reading yet, sends something that A answers with RST. B must still get it all."""
    with bench() as b:
        client, server = b.pair()
        a, other = (client, server) if by_client else (server, client)
        payload = bytes(range(256)) * 4096
        a.sendall(payload)
        a.shutdown(socket.SHUT_WR)
        until("the proxy takes it all", lambda: unacknowledged(a) == 0)
        other.sendall(b"too late")
        until("it reaches A", lambda: _queued(a) == 8)
        a.close()  # with unread bytes: RST
        assert read_exactly(other, len(payload)) == payload
        # After the last byte: FIN was relayed, and the reset follows it, so that the loss of "too late" shows.
        until("the other side is reset", lambda: _is_reset(other))
        expected = ConnectionOutcome.CLIENT_RESET if by_client else ConnectionOutcome.SERVER_RESET
        assert b.recorder.closed_one().outcome is expected


def _queued(sock: socket.socket) -> int:
    sock.setblocking(False)
    try:
        return len(sock.recv(64, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


def _is_reset(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (104, 32)


def test_client_that_closes_completely_lets_the_server_know() -> None:
    """close() sends only FIN; its kernel answers what comes then with RST, and that must not end in the proxy."""
    with bench() as b:
        client, server = b.pair()
        client.close()
        assert read_to_end(server) == b""
        server.sendall(b"nobody listens")
        until("the server is reset", lambda: _is_reset(server))
        assert b.recorder.closed_one().outcome is ConnectionOutcome.CLIENT_RESET


def test_refused_upstream_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = unused.getsockname()
    with RunningProxy(LoopbackEdge(address), ServerSettings(port=0, ipv6=False)) as proxy:
        client = proxy.client()
        client.sendall(b"\x00")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert proxy.recorder.closed_one().outcome is ConnectionOutcome.REFUSED
        assert proxy.recorder.refusals == ["refused"]


def test_connection_to_the_listener_itself_is_refused() -> None:
    with RunningProxy(LoopbackEdge(("127.0.0.1", 9), None), ServerSettings(port=0, ipv6=False)) as proxy:
        client = proxy.client()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        proxy.recorder.wait(lambda: proxy.recorder.refusals == [Refusal.NOT_DIVERTED])


def test_idle_connection_is_reset_and_a_busy_one_is_not() -> None:
    with bench(idle_timeout=0.4) as b:
        idle, _ = b.pair()
        busy, server = b.pair()
        while not select.select([idle], [], [], 0.05)[0]:
            busy.sendall(b"x")
            assert server.recv(1) == b"x"
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
        assert b.recorder.closed_one().outcome is ConnectionOutcome.IDLE
        assert len(b.recorder.summaries) == 1
        busy.sendall(b"y")
        assert server.recv(1) == b"y"


def test_drain_waits_for_connections_and_cuts_what_is_left() -> None:
    with bench() as b:
        finishing, server = b.pair()
        stuck, _ = b.pair()
        finishing.close()
        server.close()
        assert b.proxy.drain(0.2) == 1
        with pytest.raises(ConnectionResetError):
            stuck.recv(1)
        assert [s.outcome for s in b.recorder.summaries] == [ConnectionOutcome.COMPLETE, ConnectionOutcome.CUT]
        with pytest.raises(ConnectionRefusedError):
            b.proxy.client()


def test_drain_ends_as_soon_as_the_last_connection_does() -> None:
    with bench() as b:
        client, server = b.pair()
        client.close()
        server.close()
        assert b.proxy.drain(3600) == 0


def test_urgent_bytes_stay_in_the_stream() -> None:
    with bench() as b:
        client, server = b.pair()
        client.sendall(b"before")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"after")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(server) == b"before!after"
