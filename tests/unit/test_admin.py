"""The admin server, spoken to over real sockets."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from daemon import admin_server
from daemon.admin_server import Handler, Query, QueryError, Reply, serve_admin
from datapath.errors import ConnectionListError
from datapath.sock_diag import holder_of


def picky(query: Query) -> Reply:
    if query.keys() != {"limit"}:
        raise QueryError("Ask with limit=NUMBER.")
    return Reply.json(dict(query))


async def refused(_: Query) -> Reply:
    raise ConnectionListError("The kernel does not list them.")


HANDLERS: dict[str, Handler] = {
    "/healthz": lambda _: Reply.text(200, "ok"),
    "/classes": lambda _: Reply.json({"classes": []}),
    "/broken": lambda _: Reply.json({object(): 1}),
    "/picky": picky,
    "/refused": refused,
}


@asynccontextmanager
async def admin() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve_admin, "127.0.0.1", 0, HANDLERS, holder_of)
        nursery.cancel_scope.cancel()


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    def blocking() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    return await trio.to_thread.run_sync(blocking)


async def exchange(port: int, data: bytes) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(data)
        return b"".join([chunk async for chunk in stream])


@pytest.mark.trio
async def test_it_answers_what_is_asked() -> None:
    async with admin() as port:
        assert await ask(port, "/healthz") == (200, b"ok\n")
        status, body = await ask(port, "/classes?pretty=1")
        assert (status, json.loads(body)) == (200, {"classes": []})


@pytest.mark.trio
async def test_a_query_is_handed_on_and_a_wrong_one_is_told() -> None:
    async with admin() as port:
        status, body = await ask(port, "/picky?limit=1&limit=2")
        assert (status, json.loads(body)) == (200, {"limit": "2"})
        for query in ("", "?limt=2", "?limit=2&x="):
            assert await ask(port, "/picky" + query) == (400, b"Ask with limit=NUMBER.\n")


@pytest.mark.trio
async def test_wrong_questions_get_helpful_answers() -> None:
    async with admin() as port:
        status, body = await ask(port, "/metricz")
        assert status == 404
        assert b"/broken, /classes, /healthz" in body
        assert (await ask(port, "/healthz", "POST"))[0] == 405
        assert await ask(port, "/healthz", "HEAD") == (200, b"")
        assert (await exchange(port, b"\x16\x03\x01nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")
        assert (await exchange(port, b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000)).startswith(b"HTTP/1.1 431")


@pytest.mark.trio
async def test_a_client_that_leaves_early_does_no_harm() -> None:
    async with admin() as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"GET /heal")
        await stream.aclose()
        assert (await ask(port, "/healthz"))[0] == 200


@pytest.mark.trio
async def test_an_answer_that_fails_is_an_error_and_no_end() -> None:
    async with admin() as port:
        assert (await ask(port, "/broken"))[0] == 500
        assert await ask(port, "/refused") == (503, b"The kernel does not list them.\n")
        assert (await ask(port, "/healthz"))[0] == 200


@pytest.mark.trio
async def test_a_crowd_of_clients_is_bounded() -> None:
    async with admin() as port:
        crowd = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(40)]
        refused = 0
        for stream in crowd:  # the oldest make room
            with trio.move_on_after(0.2) as waiting:
                try:
                    refused += await stream.receive_some(1) == b""
                except trio.BrokenResourceError:
                    refused += 1
            if waiting.cancelled_caught:
                break
        for stream in crowd:
            await stream.aclose()
        assert refused == 8


@pytest.mark.trio
async def test_a_taken_port_is_waited_for(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(admin_server, "_AGAIN_S", 0.01)
    opened = trio.Event()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with trio.open_nursery() as nursery:
            serve = partial(serve_admin, "127.0.0.1", port, HANDLERS, holder_of, on_open=lambda _: opened.set())
            assert await nursery.start(serve) is None
            said = capfd.readouterr().err
            assert f"by='process {os.getpid()} (" in said
            assert "--admin-port" in said
            taken.close()
            with trio.fail_after(10):
                await opened.wait()
            assert (await ask(port, "/healthz"))[0] == 200
            nursery.cancel_scope.cancel()
    with pytest.raises(ExceptionGroup) as failed:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_admin, "192.0.2.77", 15109, HANDLERS, holder_of)
    [error] = failed.value.exceptions
    assert "--admin-address" in str(error)


@pytest.mark.trio
async def test_a_listener_of_an_earlier_process_is_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    with socket.create_server(("127.0.0.1", port)) as held:  # one that the kernel chose would not be kept
        async with trio.open_nursery() as nursery:
            with socket.create_connection(("127.0.0.1", port)) as early:  # while no process serves
                early.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
                mine = held.dup()
                assert await nursery.start(serve_admin, "127.0.0.1", port, HANDLERS, holder_of, [mine]) == port
                assert (await ask(port, "/healthz"))[0] == 200
                early.settimeout(10)
                answer = await trio.to_thread.run_sync(early.recv, 65536)
                assert answer.startswith(b"HTTP/1.1 200"), "it waited for the next process"
            nursery.cancel_scope.cancel()
