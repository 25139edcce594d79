"""Peers that misbehave at the agents' port: told why where there is a way, and of no harm to others."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import h2.events
import pytest
from gateway_harness import UNARY, Authority, Echo, EchoListener, RawAgent, fields, running
from h2.errors import ErrorCodes
from hyperframe import frame as hyper
from waiting import until

from control_plane.gateway import turns
from control_plane.gateway.admission import Admission
from control_plane.gateway.calls import MAX_UNSENT
from control_plane.gateway.limits import GatewayLimits
from control_plane.gateway.rpc import Call
from control_plane.gateway.server import Gateway
from fleet_api.framing import frame

SOON = 0.3
OFTEN = 0.05


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def gateway(authority: Authority, echo: Echo) -> Iterator[tuple[Gateway, int]]:
    with running(authority, echo) as started:
        yield started


@pytest.fixture
def agent(authority: Authority, gateway: tuple[Gateway, int]) -> Iterator[RawAgent]:
    with RawAgent(authority, gateway[1], authority.agent) as opened:
        yield opened


def answer(agent: RawAgent, headers: list[tuple[str, str]]) -> dict[str, str]:
    """The fields of an answer that has nothing else."""
    agent.open(headers)
    event = agent.read_until(h2.events.ResponseReceived)
    assert isinstance(event, h2.events.ResponseReceived)
    assert event.stream_ended is not None
    return dict(event.headers)


def ended_by(agent: RawAgent) -> ErrorCodes | int | None:
    """The code of GOAWAY. The gateway closes after it."""
    codes = [event.error_code for event in agent.read_to_the_end() if isinstance(event, h2.events.ConnectionTerminated)]
    assert len(codes) == 1
    return codes[0]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({":method": "GET"}, {":status": "405"}),
        ({"content-type": "text/html"}, {":status": "415"}),
        ({"content-type": "application/grpc-web"}, {":status": "415"}),
        ({"te": ""}, {"grpc-status": "13"}),
        ({"grpc-encoding": "gzip"}, {"grpc-status": "12", "grpc-accept-encoding": "identity"}),
        ({":path": "/no-method"}, {"grpc-status": "12"}),
        ({":path": "/" + "x" * 300 + "/y"}, {"grpc-status": "12"}),
        ({"grpc-timeout": "soon"}, {"grpc-status": "3"}),
    ],
)
def test_what_is_not_grpc_is_told_so(agent: RawAgent, changed: dict[str, str], expected: dict[str, str]) -> None:
    found = answer(agent, fields(**changed))
    assert found.items() >= expected.items()
    assert found.get("grpc-message") or "grpc-status" not in found
    assert agent.is_answered()


def test_a_stream_ends_when_its_agent_does_not_want_to_wait(agent: RawAgent, echo: Echo) -> None:
    agent.open(fields(**{"grpc-timeout": "50m"}))
    event = agent.read_until(h2.events.TrailersReceived)
    assert isinstance(event, h2.events.TrailersReceived)
    assert dict(event.headers)["grpc-status"] == "4"
    listener = echo.calls.get()
    until("the listener hears of the end", lambda: listener.ends == 1)


@pytest.mark.parametrize("messages", [[], [b"a", b"b"]])
def test_a_unary_call_has_one_message(agent: RawAgent, messages: list[bytes]) -> None:
    number = agent.open(fields(UNARY), *messages)
    agent.h2.end_stream(number)
    agent.flush()
    event = agent.read_until(h2.events.ResponseReceived)
    assert isinstance(event, h2.events.ResponseReceived)
    assert dict(event.headers)["grpc-status"] == "3"


def test_half_a_message_is_none(agent: RawAgent) -> None:
    number = agent.open()
    agent.h2.send_data(number, frame(b"whole") + frame(b"half")[:-1], end_stream=True)
    agent.flush()
    event = agent.read_until(h2.events.TrailersReceived)
    assert isinstance(event, h2.events.TrailersReceived)
    assert dict(event.headers)["grpc-status"] == "3"


@pytest.mark.parametrize("kind", ["version", "protocol", "plain", "stranger"])
def test_no_other_handshake(authority: Authority, gateway: tuple[Gateway, int], kind: str, tmp_path: Path) -> None:
    context = authority.client_context(authority.agent)
    if kind == "version":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    elif kind == "protocol":
        context.set_alpn_protocols(["http/1.1"])
    elif kind == "stranger":
        context = authority.client_context(Authority(tmp_path).agent)
    with socket.create_connection(("127.0.0.1", gateway[1]), timeout=10) as plain:
        if kind == "plain":
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                plain.recv(100)
            return
        with pytest.raises((ssl.SSLError, ConnectionError)):
            secured(plain, context)


def secured(plain: socket.socket, context: ssl.SSLContext) -> None:
    """Of a refusal in TLS 1.3 the client hears when it reads."""
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
        if not secure.recv(100):
            raise ConnectionError("closed")


def test_another_context_for_those_who_come_later(
    authority: Authority, gateway: tuple[Gateway, int], tmp_path: Path
) -> None:
    server, port = gateway
    renewed = Authority(tmp_path)
    with RawAgent(authority, port, authority.agent) as before:
        assert before.is_answered()
        server.ssl_context = renewed.server_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            RawAgent(authority, port, authority.agent)
        with RawAgent(renewed, port, renewed.agent) as after:
            assert after.is_answered()
        assert before.is_answered()


def test_a_handshake_that_does_not_end(authority: Authority, echo: Echo) -> None:
    limits = GatewayLimits(handshake_time=SOON, look=OFTEN)
    with running(authority, echo, limits) as (_, port), socket.create_connection(("127.0.0.1", port)) as half_open:
        half_open.sendall(b"\x16\x03\x01\x02\x00")
        half_open.settimeout(10)
        assert half_open.recv(1) == b""


def test_silence_ends_a_connection(authority: Authority, echo: Echo) -> None:
    limits = GatewayLimits(silence=SOON, look=OFTEN)
    with running(authority, echo, limits) as (_, port), RawAgent(authority, port, authority.agent) as agent:
        agent.open()
        agent.read_to_the_end()
        listener = echo.calls.get()
        until("the listener hears of the end", lambda: listener.ends == 1)


def test_keepalive_is_no_silence(authority: Authority, echo: Echo) -> None:
    limits = GatewayLimits(silence=2, look=OFTEN)
    with running(authority, echo, limits) as (gateway, port), RawAgent(authority, port, authority.agent) as agent:
        agent.open()
        silent = RawAgent(authority, port, authority.agent)
        until("both", lambda: gateway.connections == 2)

        def alone() -> bool:
            agent.h2.ping(b"12345678")
            agent.flush()
            agent.read_until(h2.events.PingAckReceived)
            return gateway.connections == 1

        until("the silent one is away", alone)
        silent.socket.close()
        assert agent.is_answered()


def test_without_a_certificate_a_connection_does_not_last(authority: Authority, echo: Echo) -> None:
    limits = GatewayLimits(unproven_time=SOON, look=OFTEN)
    with (
        running(authority, echo, limits) as (_, port),
        RawAgent(authority, port, None) as stranger,
        RawAgent(authority, port, authority.agent) as agent,
    ):
        stranger.read_to_the_end()
        assert agent.is_answered()


def test_one_address_does_not_take_all_places(authority: Authority, echo: Echo) -> None:
    limits = GatewayLimits(unproven_per_address=3)
    with running(authority, echo, limits) as (gateway, port), ExitStack() as stack:
        for _ in range(5):
            with RawAgent(authority, port, authority.agent) as agent:
                assert agent.is_answered()
        until("they are away", lambda: gateway.connections == 0)
        half_open = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
        until("they are in", lambda: gateway.connections == 3)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one_more:
            assert one_more.recv(1) == b""
        half_open[0].close()
        until("there is room", lambda: gateway.connections == 2)
        with RawAgent(authority, port, authority.agent) as agent:
            assert agent.is_answered()
            with RawAgent(authority, port, authority.agent) as another:  # with a certificate, it counts no more
                assert another.is_answered()


def test_the_oldest_without_a_certificate_makes_room(authority: Authority, echo: Echo) -> None:
    with running(authority, echo, GatewayLimits(unproven=2)) as (gateway, port), ExitStack() as stack:
        proven = stack.enter_context(RawAgent(authority, port, authority.agent))
        assert proven.is_answered()
        half_open = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(2)]
        until("they are in", lambda: gateway.connections == 3)
        agent = stack.enter_context(RawAgent(authority, port, authority.agent))
        assert agent.is_answered()
        assert half_open[0].recv(1) == b""
        assert gateway.connections == 3
        assert proven.is_answered()


def test_one_network_is_one_place() -> None:
    admission = Admission(GatewayLimits(unproven_per_address=1))
    for address, may in {
        "192.0.2.1": True,
        "::ffff:192.0.2.1": False,
        "::ffff:192.0.2.2": True,
        "2001:db8::1": True,
        "2001:db8::2": False,
        "2001:db8:0:1::1": True,
        "fe80::1%eth0": True,
    }.items():
        assert admission.enter(address) is may, address
    admission.leave("2001:db8::1")
    assert admission.enter("2001:db8::2")


def test_connections_are_bounded(authority: Authority, echo: Echo) -> None:
    limits = GatewayLimits(connections=1)
    with running(authority, echo, limits) as (_, port):
        first = RawAgent(authority, port, authority.agent)
        assert first.is_answered()
        leaving = threading.Timer(SOON, first.socket.close)
        leaving.start()
        with RawAgent(authority, port, authority.agent) as second:
            assert second.is_answered()
        leaving.join()


def test_one_certificate_has_few_connections(authority: Authority, echo: Echo) -> None:
    limits = GatewayLimits(per_certificate=2)
    with running(authority, echo, limits) as (gateway, port), ExitStack() as stack:
        other = RawAgent(authority, port, authority.another_agent("agent-2"))
        agents = [stack.enter_context(RawAgent(authority, port, authority.agent)) for _ in range(2)]
        assert all(agent.is_answered() for agent in agents)
        newest = stack.enter_context(RawAgent(authority, port, authority.agent))
        assert newest.is_answered()
        agents[0].read_to_the_end()
        assert agents[1].is_answered()
        assert other.is_answered()
        assert gateway.connections == 3
        other.socket.close()


def test_a_flood_is_told_and_hurts_nobody(
    authority: Authority, gateway: tuple[Gateway, int], agent: RawAgent, echo: Echo
) -> None:
    assert agent.is_answered()
    for flood in (hyper.PingFrame(0, b"12345678"), hyper.SettingsFrame(0), hyper.PriorityFrame(3, stream_weight=1)):
        with RawAgent(authority, gateway[1], authority.agent) as hostile:
            hostile.open()
            hostile.socket.sendall(flood.serialize() * 600)
            assert ended_by(hostile) == ErrorCodes.ENHANCE_YOUR_CALM
        listener = [echo.calls.get(timeout=10) for _ in range(echo.calls.qsize())][-1]
        until("the listener hears of the end", lambda listener=listener: listener.ends == 1)
        assert agent.is_answered()


@pytest.mark.parametrize("look", [3600, OFTEN])
def test_a_flood_of_messages_waits_until_the_next_look(authority: Authority, echo: Echo, look: float) -> None:
    limits = GatewayLimits(messages=50, look=look)
    with running(authority, echo, limits) as (_, port), RawAgent(authority, port, authority.agent) as hostile:
        number = hostile.open()
        listener = echo.calls.get(timeout=10)
        for _ in range(100):
            hostile.h2.send_data(number, b"".join([frame(b"silence")] * 40))
        hostile.flush()
        if look == OFTEN:
            until("all of them", lambda: len(listener.messages) == 4000)
            return
        until("the first messages", lambda: len(listener.messages) >= 50)
        with RawAgent(authority, port, authority.agent) as other:
            for _ in range(3):
                assert other.is_answered()
        # One read, of 16 KiB, beyond the limit.
        assert len(listener.messages) < 50 + (16 << 10) // len(frame(b"silence"))
        hostile.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST
        hostile.socket.close()
        until("it is forgotten though it is not read", lambda: listener.ends == 1)


class Watched(EchoListener):
    """Knows what waits at each message."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.unsent: list[int] = []

    def received(self, message: bytes) -> None:
        self.call.send(frame(b"x" * int(message)))
        self.unsent.append(self.call.unsent)
        self.messages.append(message)


class Pusher(Echo):
    """Sends as many bytes as each message says."""

    def opened(self, method: str, call: Call) -> EchoListener:
        assert method
        listener = Watched(call)
        self.calls.put(listener)
        return listener


@pytest.mark.parametrize("window", [65535, (1 << 31) - 1], ids=["by windows", "by the kernel"])
def test_a_slow_reader_has_what_waits_bounded(authority: Authority, window: int) -> None:
    pusher = Pusher()
    with (
        running(authority, pusher) as (_, port),
        RawAgent(authority, port, authority.agent, receive_buffer=4096) as slow,
        RawAgent(authority, port, authority.agent) as other,
    ):
        if window > 65535:
            slow.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
            slow.h2.increment_flow_control_window(window - 65535)
        size = MAX_UNSENT - 100_000
        number = slow.open(None, b"%d" % size)
        listener = pusher.calls.get(timeout=10)
        assert isinstance(listener, Watched)
        until("the message", lambda: listener.messages)
        assert listener.unsent[0] == size + 5
        other.open(None, b"3")
        other.read_until(h2.events.DataReceived)
        assert listener.drains == 0
        received = 0
        while received < size + 5:
            event = slow.read_until(h2.events.DataReceived)
            assert isinstance(event, h2.events.DataReceived)
            received += len(event.data)
        until("all is taken", lambda: listener.drains == 1)
        assert listener.call.unsent == 0
        slow.h2.send_data(number, frame(b"%d" % size) * 3)  # more than the kernel takes
        slow.flush()
        event = slow.read_until(h2.events.StreamReset)
        assert isinstance(event, h2.events.StreamReset)
        assert event.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        until("the listener hears of the end", lambda: listener.ends == 1)


def test_who_takes_nothing_is_closed_in_spite_of_its_words(authority: Authority) -> None:
    pusher = Pusher()
    with (
        running(authority, pusher, GatewayLimits(silence=0.5, look=OFTEN)) as (gateway, port),
        RawAgent(authority, port, authority.agent) as slow,
    ):
        slow.open(None, b"1000000")
        until("it is in", lambda: gateway.connections == 1)

        def away() -> bool:
            try:
                slow.socket.sendall(hyper.PingFrame(0, b"12345678", flags=["ACK"]).serialize())
            except OSError:
                return True
            return gateway.connections == 0

        until("it is away", away)


def test_an_agent_that_vanishes_is_forgotten(authority: Authority, gateway: tuple[Gateway, int], echo: Echo) -> None:
    agents = [RawAgent(authority, gateway[1], authority.agent) for _ in range(5)]
    for agent in agents:
        agent.open()
    listeners = [echo.calls.get(timeout=10) for _ in agents]
    for agent in agents:
        agent.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST
        agent.socket.close()
    until("all are forgotten", lambda: gateway[0].connections == 0)
    until("all listeners hear of it", lambda: all(listener.ends == 1 for listener in listeners))


def test_what_was_sent_arrives_before_the_end(authority: Authority) -> None:
    """Also if the agent sends meanwhile: to a socket that was just closed, it would lose what it has not read."""
    pusher = Pusher()
    with (
        running(authority, pusher) as (gateway, port),
        RawAgent(authority, port, authority.agent, receive_buffer=4096) as agent,
    ):
        agent.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        agent.h2.increment_flow_control_window(1 << 20)
        number = agent.open(None, b"400000")
        listener = pusher.calls.get(timeout=10)
        until("all of it is with the kernel", lambda: listener.drains)
        gateway.stop()
        until("the listener hears of the end", lambda: listener.ends == 1)
        for _ in range(50):
            agent.h2.send_data(number, frame(b"1" * 500))
            agent.flush()
        events = agent.read_to_the_end()
        assert sum(len(event.data) for event in events if isinstance(event, h2.events.DataReceived)) == 400_005
        [trailers] = [event for event in events if isinstance(event, h2.events.TrailersReceived)]
        assert dict(trailers.headers)["grpc-status"] == "14"
        assert any(isinstance(event, h2.events.ConnectionTerminated) for event in events)


def test_another_thread_wakes_the_gateway(authority: Authority, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_LONGEST", 3600.0)
    with running(authority, echo, GatewayLimits(look=3600)) as (gateway, port):
        with RawAgent(authority, port, authority.agent) as agent:
            agent.open()
            listener = echo.calls.get(timeout=10)
            for number in range(100):
                said = frame(b"%d" % number)
                gateway.run_soon(lambda said=said: listener.call.send(said))
                event = agent.read_until(h2.events.DataReceived)
                assert isinstance(event, h2.events.DataReceived)
                assert event.data == said
        until("it is forgotten", lambda: gateway.connections == 0)


def test_agents_are_sent_away_one_after_the_other(authority: Authority, echo: Echo) -> None:
    with running(authority, echo) as (gateway, port), ExitStack() as stack:
        agents = [stack.enter_context(RawAgent(authority, port, authority.agent)) for _ in range(8)]
        for agent in agents:
            agent.open()
        until("all are in", lambda: echo.calls.qsize() == 8)
        listeners = [echo.calls.get() for _ in agents]
        seen = []
        gateway.stop(over=0.4)

        def gone() -> bool:
            seen.append(sum(listener.ends for listener in listeners))
            return seen[-1] == 8

        until("all are away", gone)
        assert any(0 < count < 8 for count in seen)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
