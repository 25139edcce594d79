"""A new policy while connections are relayed: they get its classes, and nothing else happens to them."""

from __future__ import annotations

import socket
from socket import SocketType

import pytest
from proxy_harness import DESTINATION, Bench, LoopbackEdge, RunningProxy, bench, read_exactly, with_patience

from datapath.protocols.detect import Detection, Protocol, Reason
from sidecar.observability.metrics import Metrics
from sidecar.proxy.server import ServerSettings
from sidecar.transport.observer import ConnectionOutcome, ConnectionSummary
from traffic_policy.marks import OWN, ClassIds, class_mark

HELLO = b"GET / HTTP/1.1\r\nHost: named.example\r\n\r\n"
RENAMED = "total: 1Gbit\nclasses: [{name: other, rate: 1Mbit, match: {host: named.example}}]"
REMOVED = "total: 1Gbit\nclasses: [{name: elsewhere, rate: 1Mbit, match: {host: else.example}}]"
BY_PORT = f"total: 1Gbit\nclasses: [{{name: port, rate: 1Mbit, match: {{port: {DESTINATION.port}}}}}]"


def class_names(b: Bench) -> list[str | None]:
    return [view.class_name for view in b.proxy.call(b.proxy.server.snapshot)]


def kernel_sockets(b: Bench) -> LoopbackEdge:
    kernel_sockets = b.proxy.kernel_sockets
    assert isinstance(kernel_sockets, LoopbackEdge)
    return kernel_sockets


@pytest.mark.parametrize(
    ("policy", "name"),
    [(RENAMED, "other"), (REMOVED, "default"), (BY_PORT, "port")],
    ids=["another class has its name", "no class has", "its port decides"],
)
def test_a_connection_moves_and_is_not_cut(policy: str, name: str) -> None:
    with bench() as b:
        client, server = b.pair(HELLO)
        server.sendall(b"before")
        assert read_exactly(client, 6) == b"before"
        ids = ClassIds.assign(["named"]).evolve(["other", "elsewhere", "port"])
        b.proxy.follow(policy, ids)
        assert class_names(b) == [name]
        assert b.recorder.moves == [("named", name, len(HELLO), 6)]
        assert kernel_sockets(b).remarks == [(server.getpeername(), (OWN | class_mark(ids[name])).value)]
        client.sendall(b"after all")
        assert read_exactly(server, 9) == b"after all"
        client.close()
        server.close()
        summary = b.recorder.closed_one()
        assert (summary.class_name, summary.outcome) == (name, ConnectionOutcome.COMPLETE)
        assert (summary.bytes_up, summary.bytes_down) == (len(HELLO) + 9, 6)
        assert (summary.told_up, summary.told_down) == (len(HELLO), 6)


def test_a_class_that_stays_keeps_its_connections_and_their_mark_is_right() -> None:
    with bench() as b:
        client, server = b.pair(HELLO)
        ids = ClassIds({"named": 77, "default": 255})
        b.proxy.follow("total: 2Gbit\nclasses: [{name: named, rate: 9Mbit, match: {host: named.example}}]", ids)
        assert b.recorder.moves == []
        assert kernel_sockets(b).remarks == [(server.getpeername(), (OWN | class_mark(77)).value)]
        assert class_names(b) == ["named"]
        client.close()
        server.close()
        assert (b.recorder.closed_one().told_up, b.recorder.closed_one().told_down) == (0, 0)


def test_a_connection_that_has_no_class_yet_gets_one_of_the_new_policy() -> None:
    with bench() as b:
        client = b.proxy.client()
        client.sendall(HELLO[:10])
        b.proxy.follow(RENAMED)
        assert b.recorder.moves == []
        client.sendall(HELLO[10:])
        server = b.accept()
        assert read_exactly(server, len(HELLO)) == HELLO
        assert b.recorder.routes == ["other"]


def test_many_follow_and_those_that_have_ended_do_not() -> None:
    with bench() as b:
        pairs = [b.pair(HELLO) for _ in range(300)]
        for end in pairs.pop():
            end.close()
        b.recorder.closed_one()
        b.proxy.follow(RENAMED)
        assert len(b.recorder.moves) == len(kernel_sockets(b).remarks) == 299
        assert set(class_names(b)) == {"other"}


class _Unprivileged(LoopbackEdge):
    def change_mark(self, upstream: SocketType, mark: int, client: SocketType) -> None:  # noqa: ARG002
        raise PermissionError(1, "Operation not permitted")


def test_a_mark_that_cannot_be_set_cuts_nothing() -> None:
    with (
        with_patience(socket.create_server(("127.0.0.1", 0))) as listener,
        RunningProxy(_Unprivileged(listener.getsockname()), ServerSettings(port=0, ipv6=False)) as proxy,
    ):
        b = Bench(proxy, listener)
        client, server = b.pair(HELLO)
        proxy.follow(RENAMED)
        assert class_names(b) == ["named"]
        client.sendall(b"on")
        assert read_exactly(server, 2) == b"on"


def test_what_moves_is_counted_where_it_was() -> None:
    metrics = Metrics(lambda: ())
    tls = Detection(Protocol.TLS, Reason.FOUND, sni="a.example.com")
    metrics.routed("old", Protocol.TLS)
    metrics.moved("old", "new", Protocol.TLS, 10, 1000)
    old, new = metrics.connections["old"], metrics.connections["new"]
    assert (old.active, old.total, old.bytes_up, old.bytes_down) == (0, 1, 10, 1000)
    assert (new.active, new.total, new.bytes_up, new.bytes_down) == (1, 0, 0, 0)
    assert 'podlane_connections_active{class="new",protocol="tls"} 1.0' in metrics.render().decode()
    metrics.closed(
        ConnectionSummary(
            ("192.0.2.2", 4), DESTINATION, "new", tls, 15, 1200, 1.0, ConnectionOutcome.COMPLETE, 10, 1000
        )
    )
    assert (new.active, new.bytes_up, new.bytes_down) == (0, 5, 200)
    metrics.keep(["new"])
    assert set(metrics.connections) == {"new"}
