"""gRPC's own client at the agents' port."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from gateway_harness import Authority, Echo, channel, running, stream, unary
from waiting import until

from control_plane.gateway.server import Gateway


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def gateway(authority: Authority, echo: Echo) -> Iterator[tuple[Gateway, int]]:
    with running(authority, echo) as started:
        yield started


@pytest.fixture
def agent(authority: Authority, gateway: tuple[Gateway, int]) -> Iterator[grpc.Channel]:
    with channel(authority, gateway[1], authority.agent) as opened:
        yield opened


def test_one_message_is_answered(agent: grpc.Channel, echo: Echo) -> None:
    for size in (0, 5, 16384, 60000):
        assert unary(agent)(b"x" * size, timeout=10) == b"x" * size
    assert all(peer.certificate and peer.address == "127.0.0.1" for peer in echo.peers)


def test_messages_go_both_ways(agent: grpc.Channel, echo: Echo) -> None:
    messages: queue.Queue[bytes | None] = queue.Queue()
    answers = stream(agent)(iter(messages.get, None), timeout=30)
    for size in (0, 1, 1500, 16384, 65536, 250_000, 3):
        messages.put(b"y" * size)
        assert next(answers) == b"y" * size
    messages.put(None)
    with pytest.raises(StopIteration):
        next(answers)
    listener = echo.calls.get()
    until("the listener hears of the end", lambda: listener.ends == 1)
    assert listener.drains >= 1


def test_without_a_certificate_one_may_enrol_and_no_more(
    authority: Authority, gateway: tuple[Gateway, int], echo: Echo, tmp_path: Path
) -> None:
    with channel(authority, gateway[1], None) as opened:
        assert unary(opened)(b"enrol", timeout=10) == b"enrol"
        assert echo.peers[-1].certificate == b""
        with pytest.raises(grpc.RpcError) as refused:
            list(stream(opened)(iter([b"hello"]), timeout=10))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "Enrol first" in refused.value.details()
    stranger = Authority(tmp_path)
    with channel(authority, gateway[1], stranger.agent) as opened:
        with pytest.raises(grpc.RpcError) as refused:
            unary(opened)(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
