"""Following a collection: what a list and a watch bring, and what is done when they break."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from daemon.kubernetes.access import ApiAccess
from daemon.kubernetes.api import ApiServer, WatchChanges, namespace, pods_of_node
from daemon.kubernetes.errors import ApiError, GoneError
from daemon.kubernetes.reflector import follow
from node_agent.sources.cached_objects import CachedObjects
from tests.injector_server import HOST, MemoryApi, api_server

Answer = Callable[[dict[str, str], trio.SocketStream], Any]


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}}


def listed(version: int, *names: str, more: str = "") -> bytes:
    metadata = {"resourceVersion": str(version), **({"continue": more} if more else {})}
    return whole(200, {"metadata": metadata, "items": [pod(name, version) for name in names]})


def whole(status: int, document: Mapping[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def line(kind: str, found: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


EXPIRED = line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"})


class Script:
    """A server that answers each request by the next of its answers, and then waits; None closes the connection."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)
        self.asked: list[dict[str, str]] = []
        self._news = trio.Event()

    async def until_asked(self, requests: int) -> None:
        """Wait until so many requests have come; fails after 20 s."""
        with trio.fail_after(20):
            while len(self.asked) < requests:
                await self._news.wait()
                self._news = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    data = await stream.receive_some(65536)
                    if not data:
                        return
                    head += data
                target = urlsplit(head.split()[1].decode())
                assert target.path == "/api/v1/pods"
                query = {key: values[0] for key, values in parse_qs(target.query).items()}
                assert query.pop("fieldSelector") == "spec.nodeName=n1"
                self.asked.append(query)
                self._news.set()
                if not self._answers:
                    await trio.sleep_forever()
                answer = self._answers.pop(0)
                if answer is None:
                    return
                await stream.send_all(answer)
                if answer.startswith(STREAM):
                    if not answer.endswith(END):
                        return  # it breaks
                    await stream.send_eof()


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[ApiServer]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, script.serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        yield ApiServer(ApiAccess(HOST, port, "", None, HOST, None, "x", "the test"))
        nursery.cancel_scope.cancel()


def watching(api: ApiServer) -> AbstractAsyncContextManager[WatchChanges]:
    return api.watch(pods_of_node("n1"), "1", 300)


async def followed(script: Script, requests: int) -> list[list[str]]:
    """The names of all objects after each change, until so many requests have come."""
    seen: list[list[str]] = []
    async with server(script) as api, trio.open_nursery() as nursery:
        nursery.start_soon(
            follow, api, pods_of_node("n1"), lambda pods: seen.append([p["metadata"]["name"] for p in pods.values()])
        )
        await script.until_asked(requests)
        nursery.cancel_scope.cancel()
    return seen


@pytest.mark.trio
async def test_a_list_of_several_pages_and_then_changes() -> None:
    changes = [
        line("ADDED", pod("c", 11)),
        line("MODIFIED", pod("a", 12)),
        line("DELETED", pod("b", 13)),
        line("BOOKMARK", pod("", 90)),
    ]
    text = b"".join(changes)
    script = Script(
        listed(10, "a", more="next"),
        listed(10, "b"),
        # Chunks need not be lines.
        STREAM + chunk(text[:30]) + chunk(text[30:200]) + chunk(text[200:]) + END,
    )
    seen = await followed(script, 4)
    assert seen == [["a", "b"], ["a", "b", "c"], ["a", "b", "c"], ["a", "c"]]
    assert script.asked[:2] == [{"limit": "100"}, {"limit": "100", "continue": "next"}]
    watch, again = script.asked[2:]
    assert (watch["watch"], watch["resourceVersion"], watch["allowWatchBookmarks"]) == ("1", "10", "true")
    assert 300 <= int(watch["timeoutSeconds"]) <= 600
    assert again["resourceVersion"] == "90", "a bookmark keeps the place"


@pytest.mark.trio
async def test_what_is_not_needed_is_no_change() -> None:
    text = line("MODIFIED", pod("a", 11)) + line("ADDED", pod("b", 12)) + line("DELETED", pod("b", 13))
    script = Script(listed(10, "a"), STREAM + chunk(text) + END)
    seen: list[list[Any]] = []
    async with server(script) as api, trio.open_nursery() as nursery:
        nursery.start_soon(
            follow, api, pods_of_node("n1"), lambda pods: seen.append(list(pods.values())),
            lambda whole: {"name": whole["metadata"]["name"]},
        )  # fmt: skip
        await script.until_asked(3)
        nursery.cancel_scope.cancel()
    a, b = {"name": "a"}, {"name": "b"}
    assert seen == [[a], [a, b], [a]]
    assert script.asked[2]["resourceVersion"] == "13"


@pytest.mark.parametrize(
    "broken",
    [STREAM + chunk(line("ADDED", pod("b", 11)) + b'{"type": "ADD'), None, whole(429, {"message": "too many"})],
    ids=["amid a line", "no answer", "busy"],
)
@pytest.mark.trio
async def test_a_broken_watch_goes_on_where_it_was(broken: bytes | None) -> None:
    script = Script(listed(10, "a"), broken)
    seen = await followed(script, 3)
    assert script.asked[2]["resourceVersion"] == ("11" if len(seen) > 1 else "10")
    assert seen[-1] == (["a", "b"] if broken and b"ADDED" in broken else ["a"])


@pytest.mark.parametrize(
    "gone",
    [STREAM + chunk(EXPIRED) + END, whole(410, {"message": "too old"}), whole(504, {"message": "Too large version"})],
    ids=["in the watch", "at once", "from before a restoration"],
)
@pytest.mark.trio
async def test_what_was_missed_is_listed_again(gone: bytes) -> None:
    script = Script(listed(10, "a", "b"), gone, listed(70, "b", "c"))
    assert await followed(script, 4) == [["a", "b"], ["b", "c"]]
    assert script.asked[2] == {"limit": "100"}
    assert script.asked[3]["resourceVersion"] == "70"


@pytest.mark.trio
async def test_a_missing_right_is_named_and_tried_again() -> None:
    script = Script(whole(403, {"message": "robot cannot list"}), listed(5, "a"), listed(5, "a"))
    assert await followed(script, 3) == [["a"]]
    async with server(Script(whole(403, {"message": "robot cannot"}))) as api:
        with pytest.raises(ApiError, match=r"may not watch pods \(robot cannot\).*verb 'watch' on pods"):
            async with watching(api):
                pass


@pytest.mark.trio
async def test_what_is_no_watch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, words in ((b"<html>\n", "not a JSON object"), (b'{"a": 1}\n', "has no object")):
        async with server(Script(STREAM + chunk(text) + END)) as api, watching(api) as watch:
            with pytest.raises(ApiError, match=words):
                await watch.next()
    async with server(Script(STREAM + chunk(EXPIRED) + END)) as api, watching(api) as watch:
        with pytest.raises(GoneError, match="too old resource version"):
            await watch.next()
    monkeypatch.setattr("daemon.kubernetes.api._PATIENCE", 0.05)
    async with server(Script()) as api:
        with pytest.raises(ApiError, match="cannot be asked: no answer within"):
            async with watching(api):
                pass


@pytest.mark.trio
async def test_shared_objects_are_read_rarely_and_outlive_the_api_server() -> None:
    memory, clock = MemoryApi(), [100.0]
    memory.put("/api/v1/namespaces/shop", {"metadata": {"labels": {"a": "1"}}})
    async with api_server(memory) as access:
        objects = CachedObjects(ApiServer(access), now=lambda: clock[0])

        async def label() -> str | None:
            found = await objects.get(namespace("shop"))
            return None if found is None else str(found["metadata"]["labels"]["a"])

        assert (await label(), await label(), len(memory.requests)) == ("1", "1", 1)
        memory.put("/api/v1/namespaces/shop", {"metadata": {"labels": {"a": "2"}}})
        clock[0] += 11
        assert (await label(), len(memory.requests)) == ("2", 2)
        memory.forbidden.add("GET namespaces")
        clock[0] += 3600
        assert (await label(), await label(), len(memory.requests)) == ("2", "2", 3)
        with pytest.raises(ApiError):
            await objects.get(namespace("unknown"))
        objects.keep(())
        with pytest.raises(ApiError):
            await label()
        memory.forbidden.clear()
        assert await objects.get(namespace("unknown")) is None
