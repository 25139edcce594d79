"""gRPC's own client at the agents' port."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from gateway_harness import STREAM, Authority, Echo, channel, running, stream, unary
from waiting import until

from control_plane.gateway.limits import GatewayLimits
from control_plane.gateway.rpc import GrpcStatus, RpcError
from control_plane.gateway.server import Gateway
from fleet_api.framing import frame
from fleet_api.limits import MAX_FROM_AGENT, MAX_TO_AGENT


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


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


def test_refusals_say_why(agent: grpc.Channel) -> None:
    assert refused(lambda: unary(agent, "/test.Echo/Missing")(b"", timeout=10)) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "There is no /test.Echo/Missing. 100 % sure: ü",
    )
    assert refused(lambda: list(stream(agent)(iter([b"x", b"refuse"]), timeout=10))) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "Not this one.\nReally: 5 % ü",
    )


def test_the_handler_may_end_a_stream(agent: grpc.Channel, echo: Echo) -> None:
    never: queue.Queue[bytes] = queue.Queue()
    never.put(b"end")
    assert list(stream(agent)(iter(never.get, None), timeout=10)) == []
    listener = echo.calls.get()
    until("the listener hears of the end", lambda: listener.ends == 1)
    never.put(b"")


def test_a_call_is_answered_later_and_from_any_thread(agent: grpc.Channel, echo: Echo) -> None:
    assert unary(agent, "/test.Echo/Thread")(b"x", timeout=10) == b"x"
    later = unary(agent, "/test.Echo/Later").future(b"y", timeout=10)
    reply = echo.replies.get(timeout=10)
    reply(b"first")
    reply(b"second")
    assert later.result() == b"first"
    later = unary(agent, "/test.Echo/Later").future(b"y", timeout=10)
    echo.replies.get(timeout=10)(RpcError(GrpcStatus.FAILED_PRECONDITION, "Not yet."))
    assert later.exception().code() is grpc.StatusCode.FAILED_PRECONDITION


def test_an_answer_that_takes_too_long(authority: Authority, echo: Echo) -> None:
    with (
        running(authority, echo, GatewayLimits(unary_time=0.1)) as (_, port),
        channel(authority, port, authority.agent) as opened,
    ):
        code, details = refused(lambda: unary(opened, "/test.Echo/Later")(b"", timeout=10))
    assert (code, details) == (grpc.StatusCode.DEADLINE_EXCEEDED, "This took too long. Try again later.")


def test_messages_have_a_greatest_size(agent: grpc.Channel) -> None:
    whole = b"m" * MAX_FROM_AGENT
    assert next(stream(agent)(iter([whole]), timeout=10)) == whole
    code, details = refused(lambda: list(stream(agent)(iter([whole + b"m"]), timeout=10)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{MAX_FROM_AGENT} at most" in details
    code, _ = refused(lambda: unary(agent)(whole, timeout=10))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert unary(agent)(b"after", timeout=10) == b"after"


def test_compressed_messages_are_refused(authority: Authority, gateway: tuple[Gateway, int]) -> None:
    with channel(authority, gateway[1], authority.agent) as opened:
        call = opened.stream_stream(STREAM, request_serializer=None, response_deserializer=None)
        code, _ = refused(lambda: list(call(iter([b"x" * 5000]), timeout=10, compression=grpc.Compression.Gzip)))
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_a_cancelled_stream_is_closed_once(agent: grpc.Channel, echo: Echo) -> None:
    messages: queue.Queue[bytes] = queue.Queue()
    answers = stream(agent)(iter(messages.get, None))
    messages.put(b"x")
    assert next(answers) == b"x"
    answers.cancel()
    listener = echo.calls.get()
    until("the listener hears of the end", lambda: listener.ends)
    messages.put(b"late")
    assert unary(agent)(b"", timeout=10) == b""
    assert (listener.ends, listener.messages) == (1, [b"x"])


def test_a_fault_of_the_handler_costs_its_connection(
    authority: Authority, gateway: tuple[Gateway, int], agent: grpc.Channel
) -> None:
    with channel(authority, gateway[1], authority.agent) as other:
        assert unary(other)(b"before", timeout=10) == b"before"
        code, _ = refused(lambda: unary(agent, "/test.Echo/Fault")(b"", timeout=10))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert unary(other)(b"after", timeout=10) == b"after"


def test_the_largest_message_is_framed_once_for_many(
    authority: Authority, gateway: tuple[Gateway, int], echo: Echo
) -> None:
    server, port = gateway
    policies = frame(b"p" * MAX_TO_AGENT)
    with ExitStack() as stack:
        answers = []
        for _ in range(5):
            options = [("grpc.max_receive_message_length", -1)]
            opened = stack.enter_context(channel(authority, port, authority.agent, options))
            messages: queue.Queue[bytes | None] = queue.Queue()
            answers.append(stream(opened)(iter(messages.get, None), timeout=60))
            stack.callback(messages.put, None)
        listeners = [echo.calls.get(timeout=10) for _ in answers]
        server.run_soon(lambda: [listener.call.send(policies) for listener in listeners])
        for answer in answers:
            assert next(answer) == b"p" * MAX_TO_AGENT
        until("all was taken", lambda: all(listener.drains == 1 for listener in listeners))
        assert all(listener.call.unsent == 0 for listener in listeners)


def test_stopping_sends_agents_to_another_gateway(authority: Authority, echo: Echo) -> None:
    with running(authority, echo) as (server, port), channel(authority, port, authority.agent) as opened:
        messages: queue.Queue[bytes] = queue.Queue()
        answers = stream(opened)(iter(messages.get, None), timeout=30)
        messages.put(b"x")
        assert next(answers) == b"x"
        later = unary(opened, "/test.Echo/Later").future(b"y", timeout=30)
        reply = echo.replies.get(timeout=10)
        server.stop()
        code, details = refused(lambda: next(answers))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "another one" in details
        reply(b"in peace")
        assert later.result() == b"in peace"
        server.join(10)
        assert server.connections == 0
        assert server.run_soon(lambda: None) is False
        messages.put(b"")
