"""The HTTP server that daemons share, spoken to over real sockets: what is bounded, and what is left of a connection."""

from __future__ import annotations

import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import trio
import trio.testing

from daemon.http import Handler, HttpRequest, HttpResponse
from daemon.http_connection import HttpConnection, HttpLimits
from daemon.http_server import HttpServer
from tests.injector_server import HOST, served, trusting

LIMITS = HttpLimits(connections=50, per_peer=50, respond=10.0)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
SOON = 5
"""Seconds for what takes no time, on a machine that is busy."""
SHORT = 0.05

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
client_context = cache(trusting)  # making one takes longer than a handshake


class Pending:
    """A handler that never answers, and tells when it was asked and when it was cancelled."""

    def __init__(self) -> None:
        self.asked, self.cancelled = trio.Event(), trio.Event()

    async def __call__(self, _request: HttpRequest) -> HttpResponse:
        self.asked.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()
        raise AssertionError


async def length(request: HttpRequest) -> HttpResponse:
    return HttpResponse.text(200, str(len(await request.body(100))))


async def ok(_request: HttpRequest) -> HttpResponse:
    return HttpResponse.text(200, "ok")


@asynccontextmanager
async def serving(
    handler: Handler | Mapping[str, Handler], limits: HttpLimits = LIMITS, *, tls: bool = False, patience: float = 30
) -> AsyncIterator[tuple[HttpServer, int]]:
    context = served()
    handlers = handler if isinstance(handler, Mapping) else {"/": handler}
    server = HttpServer(handlers, limits, tls=(lambda: context.context) if tls else None)
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, listeners)
        with trio.fail_after(patience):
            yield server, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def connect(port: int, *, tls: bool = False, source: str | None = None) -> Stream:
    stream = await trio.open_tcp_stream(HOST, port, local_address=source)
    if not tls:
        return stream
    secure = trio.SSLStream(stream, client_context(), server_hostname=HOST, https_compatible=True)
    try:
        await secure.do_handshake()
    except BaseException:  # also if it is cancelled: the connection would stay open
        await trio.aclose_forcefully(stream)
        raise
    return secure


async def everything(stream: Stream) -> bytes:
    """What comes until the server closes; a reset is an end, too."""
    said = b""
    try:
        async for chunk in stream:
            said += chunk
    except trio.BrokenResourceError:
        pass
    return said


async def response(stream: Stream, end: bytes) -> bytes:
    """What comes until these bytes."""
    said = b""
    while not said.endswith(end):
        chunk = await stream.receive_some(1000)
        assert chunk, said
        said += chunk
    return said


async def ended(server: HttpServer) -> None:
    with trio.fail_after(SOON):
        await server.until_empty()


# --- a client that leaves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("way", ["closes", "resets", "sends no more", "closes with more requests sent"])
@pytest.mark.trio
async def test_nothing_is_left_of_a_client_that_leaves_with_its_answer_pending(way: str, tls: bool) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    pending = Pending()
    async with serving(pending, tls=tls) as (server, port):
        stream = await connect(port, tls=tls)
        transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        await stream.send_all(GET * (3 if "more" in way and "requests" in way else 1))
        await pending.asked.wait()
        assert server.connections == 1
        if way == "resets":
            transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if way == "sends no more":
            await transport.send_eof()
        else:
            await trio.aclose_forcefully(stream)
        with trio.fail_after(SOON):
            await pending.cancelled.wait()
        await ended(server)
        # What remains: those that accept and give turns, and this.
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 3
        await trio.aclose_forcefully(stream)


async def say_nothing(port: int) -> Stream:
    return await connect(port)


async def begin_a_handshake(port: int) -> Stream:
    stream = await connect(port)
    await stream.send_all(bytes.fromhex("16030100c8010000c40303"))
    return stream


async def shake_hands(port: int) -> Stream:
    return await connect(port, tls=True)


async def begin_a_head(port: int) -> Stream:
    return await sent(port, GET[:10])


async def begin_a_body(port: int) -> Stream:
    return await sent(port, POST.replace(b"/", b"/length", 1) + b"123")


async def ask_and_be_idle(port: int) -> Stream:
    stream = await sent(port, GET)
    await response(stream, b"ok\n")
    return stream


async def ask_what_has_no_answer(port: int) -> Stream:
    return await sent(port, GET.replace(b"/", b"/pending", 1))


async def ask_many_at_once(port: int) -> Stream:
    return await sent(port, GET * 20 + GET.replace(b"/", b"/pending", 1) + GET * 20)


async def read_nothing(port: int) -> Stream:
    stream = await sent(port, b"")
    assert isinstance(stream, trio.SSLStream)
    stream.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    await stream.send_all(GET.replace(b"/", b"/huge", 1))
    return stream


async def sent(port: int, data: bytes) -> Stream:
    stream = await connect(port, tls=True)
    await stream.send_all(data)
    return stream


CROWD = 100
HUGE = b"x" * 2**20
BEGINNINGS = (
    say_nothing, begin_a_handshake, shake_hands, begin_a_head, begin_a_body, ask_and_be_idle, ask_what_has_no_answer,
    ask_many_at_once, read_nothing,
)  # fmt: skip


async def huge(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, "text/plain", HUGE)


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["FIN", "RST"])
@pytest.mark.parametrize("begin", BEGINNINGS, ids=lambda begin: begin.__name__)
@pytest.mark.trio
async def test_nothing_is_left_of_hundreds_that_leave(begin: Callable[[int], Awaitable[Stream]], way: str) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    handlers = {"/": ok, "/length": length, "/pending": Pending(), "/huge": huge}
    many = replace(LIMITS, connections=2 * CROWD, per_peer=2 * CROWD, handshakes=2 * CROWD, short_body=100)
    async with serving(handlers, many, tls=True, patience=120) as (server, port):
        await (await connect(port)).aclose()
        await ended(server)
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(2):  # nor of those after them
            streams: list[Stream] = []

            async def one(kept: list[Stream] = streams) -> None:
                kept.append(await begin(port))

            async with trio.open_nursery() as nursery:
                for _ in range(CROWD):
                    nursery.start_soon(one)
            while server.connections < CROWD:
                await trio.lowlevel.checkpoint()
            for stream in streams:
                if way == "RST":
                    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
                    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await trio.aclose_forcefully(stream)
            with trio.fail_after(60):
                await server.until_empty()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 3
        assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.trio
async def test_nothing_is_left_of_a_client_that_leaves_in_the_middle_of_a_body() -> None:
    async with serving(length, replace(LIMITS, bodies_bytes=10)) as (server, port):
        for _ in range(3):  # nor of the bytes that were held
            stream = await connect(port)
            await stream.send_all(POST + b"12345")
            await stream.aclose()
            await ended(server)
        stream = await connect(port)
        await stream.send_all(POST + b"1234567890")
        assert await response(stream, b"\r\n10\n")
        await stream.aclose()


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "sent", "says"),
    [
        pytest.param({"idle": SHORT}, b"", b"", id="no request"),
        pytest.param({"idle": SHORT}, GET, b"\r\n\r\nok\n", id="no further request"),
        pytest.param({"head": SHORT}, GET[:-2], b"HTTP/1.1 408 ", id="head"),
        pytest.param({"head": SHORT}, GET + GET[:-2], b"HTTP/1.1 408 ", id="further head"),
        pytest.param({"body": SHORT}, POST.replace(b" /", b" /length") + b"123", b"HTTP/1.1 408 ", id="body"),
        pytest.param(
            {"respond": SHORT},
            GET[:-2].replace(b"/ ", b"/pending ") + b"Connection: close\r\n\r\n",
            b"HTTP/1.1 504 ",
            id="answer",
        ),
        pytest.param({"head_bytes": 100}, b"GET / HTTP/1.1\r\nx: " + bytes(120), b"HTTP/1.1 431 ", id="head's size"),
        pytest.param({}, POST.replace(b" /", b" /length").replace(b" 10", b" 101"), b"HTTP/1.1 413 ", id="body's size"),
    ],
)
@pytest.mark.trio
async def test_what_takes_too_long_ends(limits: dict[str, Any], sent: bytes, says: bytes) -> None:
    async with serving({"/": ok, "/length": length, "/pending": Pending()}, replace(LIMITS, **limits)) as (
        server,
        port,
    ):
        stream = await connect(port)
        await stream.send_all(sent)
        with trio.fail_after(SOON):
            said = await everything(stream)
        assert says in said
        if says.startswith(b"HTTP"):
            assert b"\r\nconnection: close\r\n" in said.lower()
        await stream.aclose()
        await ended(server)


@pytest.mark.trio
async def test_a_handshake_that_does_not_come_ends() -> None:
    async with serving(ok, replace(LIMITS, handshake=SHORT), tls=True) as (server, port):
        stream = await connect(port)
        with trio.fail_after(SOON):
            assert await everything(stream) == b""
        await ended(server)


@pytest.mark.trio
async def test_a_client_that_does_not_read_ends() -> None:
    async def huge(_request: HttpRequest) -> HttpResponse:
        return HttpResponse.text(200, "x" * 2**25)

    async with serving(huge, replace(LIMITS, send=SHORT)) as (server, port):
        stream = await connect(port)
        await stream.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        await ended(server)
        await stream.aclose()


@pytest.mark.trio
async def test_one_address_has_its_share_of_connections_and_all_have_theirs() -> None:
    async with serving(ok, replace(LIMITS, connections=3, per_peer=2)) as (server, port):

        async def served_from(source: str) -> Stream | None:
            stream = await connect(port, source=source)
            try:
                await stream.send_all(GET)
                await response(stream, b"ok\n")
            except (trio.BrokenResourceError, AssertionError):
                await stream.aclose()
                return None
            return stream

        first, second, third = [await served_from("127.0.0.2") for _ in range(3)]
        assert first is not None and second is not None and third is None  # noqa: PT018
        other = await served_from("127.0.0.3")
        assert other is not None
        assert await served_from("127.0.0.4") is None
        await first.aclose()
        while server.connections == 3:
            await trio.lowlevel.checkpoint()
        again = await served_from("127.0.0.2")
        assert again is not None
        for each in (second, other, again):
            await each.aclose()
        await ended(server)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.trio
async def test_who_asks_is_served_however_many_say_nothing(tls: bool) -> None:
    async with serving(ok, replace(LIMITS, connections=4, per_peer=3), tls=tls) as (server, port):
        asker = await connect(port, tls=tls, source="127.0.0.3")
        await asker.send_all(GET)
        await response(asker, b"ok\n")
        silent = [await trio.open_tcp_stream(HOST, port, local_address="127.0.0.2") for _ in range(3)]
        kept: list[Stream] = []
        for source in ("127.0.0.2", "127.0.0.4"):  # its own share is used up; then that of all
            stream = await connect(port, tls=tls, source=source)
            kept.append(stream)
            await stream.send_all(GET)
            await response(stream, b"ok\n")
            with trio.fail_after(SOON):
                assert await everything(silent.pop(0)) == b""
        assert server.connections == 4
        await asker.send_all(GET)
        assert (await response(asker, b"ok\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.trio
async def test_what_is_no_tls_begins_no_handshake() -> None:
    async with serving(ok, replace(LIMITS, handshakes=1), tls=True) as (server, port):
        stuck = await begin_a_handshake(port)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(3):
            plain = await connect(port)
            await plain.send_all(GET)
            assert await everything(plain) == b""
        while server.connections > 1:
            await trio.lowlevel.checkpoint()
        asker = await connect(port, tls=True)
        with trio.fail_after(SOON):
            assert await everything(stuck) == b""
        await trio.aclose_forcefully(asker)


@pytest.mark.trio
async def test_a_handshake_beyond_those_at_once_takes_the_place_of_the_oldest() -> None:
    async with serving(ok, replace(LIMITS, handshakes=2), tls=True) as (server, port):
        stuck = []
        for _ in range(2):
            stuck.append(await begin_a_handshake(port))
            await trio.testing.wait_all_tasks_blocked(0.01)
        silent = [await connect(port) for _ in range(10)]  # who says nothing has begun none
        asker = await connect(port, tls=True)
        await asker.send_all(GET)
        await response(asker, b"ok\n")
        with trio.fail_after(SOON):
            assert await everything(stuck[0]) == b""
        assert server.connections == 12
        for each in (*stuck, *silent, asker):
            await trio.aclose_forcefully(each)
        await ended(server)


@pytest.mark.trio
async def test_handshakes_of_an_address_wait_for_each_other_and_others_do_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("daemon.http_handshakes._STUCK", 3600.0)
    async with serving(ok, replace(LIMITS, handshakes_per_peer=1), tls=True) as (_, port):
        stuck, waiting = await begin_a_handshake(port), trio.Event()
        await trio.testing.wait_all_tasks_blocked(0.01)

        async def wait() -> None:
            await trio.aclose_forcefully(await connect(port, tls=True))
            waiting.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await trio.aclose_forcefully(await connect(port, tls=True, source="127.0.0.3"))
            assert not waiting.is_set()
            await trio.aclose_forcefully(stuck)


@pytest.mark.trio
async def test_an_address_begins_so_many_handshakes_and_others_do_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("daemon.http_handshakes._AT_ONCE", 2)
    monkeypatch.setattr("daemon.http_handshakes._A_SECOND", 0.01)
    async with serving(ok, tls=True) as (_, port):
        kept = [await connect(port, tls=True, source="127.0.0.2") for _ in range(2)]
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):  # at once: its turn would come after the time limit
                await connect(port, tls=True, source="127.0.0.2")
        kept.append(await connect(port, tls=True, source="127.0.0.3"))
        for each in kept:
            await trio.aclose_forcefully(each)


@pytest.mark.trio
async def test_handshakes_of_an_address_that_come_too_fast_wait_for_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("daemon.http_handshakes._AT_ONCE", 1)
    monkeypatch.setattr("daemon.http_handshakes._A_SECOND", 20.0)
    async with serving(ok, tls=True) as (_, port):
        for each in [await connect(port, tls=True) for _ in range(4)]:
            await trio.aclose_forcefully(each)


@pytest.mark.trio
async def test_a_handshake_that_is_stuck_ends_for_the_next_of_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.http_handshakes._STUCK", SHORT)
    async with serving(ok, replace(LIMITS, handshakes_per_peer=1), tls=True) as (_, port):
        stuck = await begin_a_handshake(port)
        await trio.testing.wait_all_tasks_blocked(0.01)
        asker = await connect(port, tls=True)
        with trio.fail_after(SOON):
            assert await everything(stuck) == b""
        await trio.aclose_forcefully(asker)


@pytest.mark.trio
async def test_of_too_many_handshakes_the_address_fails_that_has_most() -> None:
    async with serving(ok, replace(LIMITS, handshakes=3), tls=True) as (server, port):
        begun = []
        for source in ("127.0.0.3", "127.0.0.2", "127.0.0.2"):
            begun.append(await trio.open_tcp_stream(HOST, port, local_address=source))
            await begun[-1].send_all(bytes.fromhex("16030100c8010000c40303"))
            await trio.testing.wait_all_tasks_blocked(0.01)
        asker = await connect(port, tls=True, source="127.0.0.4")
        with trio.fail_after(SOON):
            assert await everything(begun[1]) == b""
        assert server.connections == 3
        for each in (*begun, asker):
            await trio.aclose_forcefully(each)
        await ended(server)


@pytest.mark.trio
async def test_a_good_client_is_next_however_many_requests_of_others_have_come_before() -> None:
    asked: list[str] = []

    async def note(request: HttpRequest) -> HttpResponse:
        asked.append(request.sharer)
        return HttpResponse.text(404 if request.sharer == "127.0.0.2" else 200, "ok")

    async with serving(note) as (server, port):
        crowd = [await connect(port, source="127.0.0.2") for _ in range(20)]
        good = await connect(port, source="127.0.0.3")
        for each in (*crowd, good):
            for _ in range(10):
                await each.send_all(GET)
                await response(each, b"ok\n")
        assert server._turns.order.client("127.0.0.3").proven
        assert not server._turns.order.client("127.0.0.2").proven
        asked.clear()
        for each in (*crowd, good):  # the last of all
            assert isinstance(each, trio.SocketStream)
            each.socket._sock.send(GET)  # type: ignore[attr-defined]  # nothing runs in between
        for each in (*crowd, good):
            await response(each, b"ok\n")
            await trio.aclose_forcefully(each)
    assert len(asked) == 21
    assert asked.index("127.0.0.3") <= 3


@pytest.mark.trio
async def test_each_of_many_requests_that_come_at_once_has_a_turn() -> None:
    asked: list[str] = []

    async def note(request: HttpRequest) -> HttpResponse:
        asked.append(request.sharer)
        return HttpResponse.text(404, "ok")

    async with serving(note) as (_, port):
        crowd, honest = await connect(port, source="127.0.0.2"), await connect(port, source="127.0.0.3")
        await crowd.send_all(GET * 20)
        while not asked:
            await trio.lowlevel.checkpoint()
        before = len(asked)
        await honest.send_all(GET)
        await response(honest, b"ok\n")
        assert asked.index("127.0.0.3") <= before + 5
        for each in (crowd, honest):
            await trio.aclose_forcefully(each)


@pytest.mark.trio
async def test_bodies_of_one_address_leave_room_for_those_of_others() -> None:
    go = trio.Event()

    async def holding(request: HttpRequest) -> HttpResponse:
        body = await request.body(100)
        await go.wait()
        return HttpResponse.text(200, str(len(body)))

    async with serving(holding, replace(LIMITS, bodies_bytes=25, bodies_per_peer=15)) as (_, port):
        kept = [await connect(port, source=source) for source in ("127.0.0.2", "127.0.0.3", "127.0.0.2")]
        for each in kept:
            await each.send_all(POST + b"1234567890")
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert b" 503 " in await response(kept[2], b"Try again.\n")
        go.set()
        for each in kept[:2]:
            assert b" 200 " in await response(each, b"\r\n10\n")
        for each in kept:
            await each.aclose()


@pytest.mark.trio
async def test_bodies_that_are_held_at_once_are_bounded() -> None:
    held, go = trio.Event(), trio.Event()

    async def holding(request: HttpRequest) -> HttpResponse:
        body = await request.body(100)
        held.set()
        await go.wait()
        return HttpResponse.text(200, str(len(body)))

    async with serving(holding, replace(LIMITS, bodies_bytes=15)) as (_, port):
        first, second = await connect(port), await connect(port)
        await first.send_all(POST + b"1234567890")
        await held.wait()
        await second.send_all(POST + b"1234567890")
        assert b" 503 " in await response(second, b"Try again.\n")
        go.set()
        assert b" 200 " in await response(first, b"\r\n10\n")
        third = await connect(port)
        await third.send_all(POST + b"1234567890")
        assert b" 200 " in await response(third, b"\r\n10\n")
        for each in (first, second, third):
            await each.aclose()


# --- the protocol ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.trio
async def test_requests_are_answered_one_after_another_on_one_connection(tls: bool) -> None:
    async with serving({"/": ok, "/length": length}, tls=tls) as (server, port):
        stream = await connect(port, tls=tls)
        post = POST.replace(b" / ", b" /length ")
        unread = POST + b"1234567890"  # a body that the handler does not ask for
        await stream.send_all(GET + post + b"1234567890" + unread + GET.replace(b"GET", b"HEAD") + GET)
        said = await response(stream, b"ok\n")
        while said.count(b"HTTP/1.1 200 ") < 5:
            said += await response(stream, b"\n")
        assert [part.partition(b"\r\n\r\n")[2] for part in said.split(b"HTTP/1.1 200 ")[1:]] == [
            b"ok\n", b"10\n", b"ok\n", b"", b"ok\n"
        ]  # fmt: skip
        assert server.connections == 1
        await stream.aclose()


@pytest.mark.trio
async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    async with serving(length) as (_, port):
        stream = await connect(port)
        await stream.send_all(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert (await response(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"1234567890")
        assert (await response(stream, b"\r\n10\n")).startswith(b"HTTP/1.1 200 ")
        await stream.aclose()


@pytest.mark.trio
async def test_an_answer_reaches_a_client_that_sends_on() -> None:
    """A connection that is closed while data comes is reset, and what the client has not read yet is lost."""
    async with serving(length) as (_, port):
        stream = await connect(port)
        head = POST.replace(b" 10", b" 8000000")
        await stream.send_all(head + bytes(8_000_000))
        assert (await everything(stream)).startswith(b"HTTP/1.1 413 ")
        await stream.aclose()


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            400, b"There are no WebSockets here.", id="WebSocket",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
            200, b"ok\n", id="HTTP/2, which may be declined",
        ),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, b"HTTP/2.0 is not spoken here", id="HTTP/2, unasked"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\n\r\n", 404, b"There is no a:1 here", id="CONNECT"),
        pytest.param(b"GET /x HTTP/1.0\r\n\r\n", 404, b"There is no /x here. Ask for /.", id="HTTP/1.0"),
        pytest.param(POST.replace(b"10", b"-1"), 400, b"Not a request", id="length"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, b"Not a request", id="TLS"),
    ],
)  # fmt: skip
@pytest.mark.trio
async def test_what_cannot_be_answered_is_told_why(sent: bytes, status: int, says: bytes) -> None:
    async with serving(ok) as (server, port):
        stream = await connect(port)
        await stream.send_all(sent)
        said = await response(stream, b"\n")
        while b"\r\n\r\n" not in said or said.endswith(b"\r\n"):
            said += await response(stream, b"\n")
        assert said.startswith(f"HTTP/1.1 {status} ".encode())
        assert says in said
        await stream.aclose()
        await ended(server)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"no request\r\n\r\n", id="no request"),
        pytest.param(POST.replace(b"10", b"-1"), id="length"),
        pytest.param(POST.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked") + b"no chunk\r\n", id="body"),
    ],
)
@pytest.mark.trio
async def test_nothing_is_left_of_a_connection_that_was_no_http(sent: bytes) -> None:
    """It must not wait for the garbage collector, which does not know how much memory it has."""
    gc.collect()
    gc.disable()
    try:
        async with serving(length) as (server, port):
            stream = await connect(port)
            await stream.send_all(sent)
            assert (await everything(stream)).startswith(b"HTTP/1.1 400 ")
            await stream.aclose()
            await ended(server)
            await trio.testing.wait_all_tasks_blocked()
            assert not [each for each in gc.get_objects() if isinstance(each, HttpConnection)]
    finally:
        gc.enable()


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_at_the_end_a_request_that_was_sent_in_time_is_answered() -> None:
    async with serving(ok) as (server, port):
        stream = await connect(port)
        await stream.send_all(GET)
        await response(stream, b"ok\n")
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            assert isinstance(stream, trio.SocketStream)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(server.drain, SOON)
            assert stream.socket._sock.send(GET) == len(GET)  # type: ignore[attr-defined]  # nothing runs in between
            said = await everything(stream)
            await stream.aclose()
        assert b"\r\nconnection: close\r\n" in said
        assert said.endswith(b"ok\n")


@pytest.mark.trio
async def test_at_the_end_connections_without_a_request_are_closed() -> None:
    async with serving(ok) as (server, port):
        fresh, kept = await connect(port), await connect(port)
        await kept.send_all(GET)
        await response(kept, b"ok\n")
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(SOON):
            assert await server.drain(60) == 0
        for each in (fresh, kept):
            assert await everything(each) == b""
            await each.aclose()
