"""The injector's HTTP server and webhooks, spoken to over real TLS."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon.http import HttpRequest, HttpResponse, RequestError
from daemon.kubernetes.errors import ApiError
from daemon.kubernetes.http_client import HttpError
from injector.errors import ListenError
from injector.pod.admission import mutate, validate
from injector.pod.defaults import InjectionDefaults
from injector.server.budget import DecodingBudget
from injector.server.http import open_listeners
from injector.server.metrics import InjectorMetrics
from injector.server.namespaces import Namespaces
from injector.server.nodes import Nodes
from injector.server.shared_policies import SharedPolicies
from injector.server.webhook import MAX_BODY, Webhook, time_limit
from tests.injector_server import (
    HOST,
    body_of,
    document_of,
    held,
    http1,
    patch_of,
    raw,
    review,
    serving,
    trusting,
)

JSON = {"content-type": "application/json"}
LIMITED = {"podlane.io/egress-bandwidth": "10M"}
BODY = body_of(review(LIMITED))
POST = b"POST /mutate HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
SPLIT = b"\r\n\r\n"
PATIENCE = 60
"""Seconds for what takes one, on a machine that is busy."""


class NoApi:
    """An API server that has one ConfigMap, and fails for another."""

    async def get(self, resource: Any) -> dict[str, Any]:
        if resource.plural == "namespaces":
            if resource.name == "unknown":
                raise ApiError("It is on fire.")
            wrong = {"podlane.io/max-egress-bandwidth": "fast"} if resource.name == "wrong" else {}
            return {"metadata": {"name": resource.name, "annotations": wrong}}
        if resource.name == "broken":
            raise ApiError("It is on fire.")
        return {
            "data": {
                "policy.yaml": f"total: 20Mbit\nclasses: [{{name: {resource.namespace}, rate: 1Mbit, match: {{port: 80}}}}]"
            }
        }


@asynccontextmanager
async def webhooks(
    judge: Callable[..., dict[str, Any]] = mutate, longest: float = 9.0
) -> AsyncIterator[tuple[int, InjectorMetrics]]:
    metrics = InjectorMetrics()
    api: Any = NoApi()
    shared, budget = SharedPolicies(api, 10.0), DecodingBudget()
    made = {
        f"/{name}": Webhook(
            name,
            function,
            InjectionDefaults(),
            shared,
            metrics,
            longest,
            budget,
            Namespaces(api, 10.0),
            Nodes(None, metrics),
        ).handle
        for name, function in (("mutate", judge), ("validate", validate))
    }
    async with serving(made) as (_, port), trio.open_nursery() as nursery:
        nursery.start_soon(budget.work)
        yield port, metrics
        nursery.cancel_scope.cancel()


def counted(metrics: InjectorMetrics, result: str, webhook: str = "mutate") -> float:
    line = f'podlane_injector_admissions_total{{result="{result}",webhook="{webhook}"}} '
    return next(
        (float(row.removeprefix(line)) for row in metrics.render().decode().splitlines() if row.startswith(line)), 0.0
    )


@pytest.mark.trio
async def test_a_pod_gets_its_patch() -> None:
    async with webhooks() as (port, metrics):
        client = http1(port)
        second = await client.request("POST", "/mutate?timeout=10s", JSON, BODY)
        first = await client.request(
            "POST", "/mutate?timeout=10s", {"content-type": "application/json; charset=utf-8"}, BODY
        )
        assert (first.status, second.status) == (200, 200)
        assert document_of(first) == document_of(second)
        assert document_of(first)["response"]["uid"] == review()["request"]["uid"]
        assert any(change["path"] == "/spec/initContainers" for change in patch_of(first))
        head, _, said = (await raw(port, POST + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)).partition(
            SPLIT
        )
        assert b"\r\ncontent-type: application/json\r\n" in head
        assert json.loads(said) == document_of(first)
        assert counted(metrics, "patched") == 3
        bucket = (
            f"podlane_injector_patch_bytes_sum {3.0 * len(base64.b64decode(document_of(first)['response']['patch']))}"
        )
        assert bucket in metrics.render().decode()


@pytest.mark.trio
async def test_wrong_annotations_are_refused_with_the_remedy() -> None:
    async with webhooks() as (port, metrics):
        client = http1(port)
        for path in ("/mutate", "/validate"):
            answer = await client.request("POST", path, JSON, body_of(review({"podlane.io/egress-bandwith": "10M"})))
            response = document_of(answer)["response"]
            assert (answer.status, response["allowed"]) == (200, False)
            assert "egress-bandwidth" in response["status"]["message"]
        assert counted(metrics, "refused") == counted(metrics, "refused", "validate") == 1


@pytest.mark.trio
async def test_the_shared_policy_of_the_pods_namespace_is_read() -> None:
    async with webhooks() as (port, _):
        client = http1(port)
        answer = await client.request("POST", "/mutate", JSON, body_of(review({"podlane.io/policy": "common"})))
        assert any("podlane-policy" in json.dumps(change) for change in patch_of(answer))
        answer = await client.request("POST", "/mutate", JSON, body_of(review({"podlane.io/policy": "broken"})))
        assert "It is on fire." in document_of(answer)["response"]["warnings"][0]
        elsewhere = review(
            {"podlane.io/policy": "common"}, namespace="../../../secrets"
        )  # not to become part of a path
        answer = await client.request("POST", "/mutate", JSON, body_of(elsewhere))
        assert "was not checked" in document_of(answer)["response"]["warnings"][0]


@pytest.mark.parametrize("size", [0, 40_000], ids=["short", "long, in the other process"])
@pytest.mark.trio
async def test_what_was_read_or_not_decides_wherever_it_is_decided(size: int) -> None:
    long = {"example.com/long": "x" * size}

    async with webhooks() as (port, _):
        client = http1(port)

        async def ask(document: dict[str, Any]) -> dict[str, Any]:
            answer = await client.request("POST", "/mutate", JSON, body_of(document))
            response: dict[str, Any] = document_of(answer)["response"]
            return response

        refused = await ask(review({**LIMITED, **long}, namespace="wrong"))
        assert refused["status"]["message"].startswith(
            "The namespace's annotation podlane.io/max-egress-bandwidth cannot be read"
        )
        shared = await ask(review({"podlane.io/policy": "common", **long}))
        assert b"podlane-policy" in base64.b64decode(shared["patch"])
        unread = await ask(review({"podlane.io/policy": "broken", **long}))
        assert "It is on fire." in unread["warnings"][0]


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "says"),
    [
        pytest.param("GET", "/mutate", {}, b"", 405, "POST", id="method"),
        pytest.param("POST", "/mutate", {}, BODY, 415, "application/json", id="no content type"),
        pytest.param("POST", "/mutate", {"content-type": "text/yaml"}, BODY, 415, "text/yaml", id="content type"),
        pytest.param("POST", "/mutate", JSON, b"", 400, "not JSON", id="empty"),
        pytest.param("POST", "/mutate", JSON, BODY[:-1], 400, "not JSON", id="half"),
        pytest.param("POST", "/mutate", JSON, b"[1]", 400, "JSON list", id="no object"),
        pytest.param("POST", "/mutate", JSON, b"\xff{}", 400, "UTF-8", id="no text"),
        pytest.param("POST", "/mutate", JSON, b'{"a": "\\ud800"}', 400, "UTF-8", id="half a surrogate pair"),
        pytest.param("POST", "/mutate", JSON, b'{"a": NaN}', 400, "NaN", id="no number"),
        pytest.param("POST", "/mutate", JSON, b'{"a": ' + b"9" * 5000 + b"}", 400, "not JSON", id="huge number"),
        pytest.param("POST", "/mutate", JSON, b"[" * 200_000, 400, "deep", id="deep"),
        pytest.param("POST", "/mutate", JSON, b" " * (MAX_BODY + 1), 413, str(MAX_BODY), id="too long"),
        pytest.param("POST", "/mutate?timeout=1ns", JSON, BODY, 400, "timeout=1ns is too short", id="no time"),
        pytest.param("POST", "/mutat", JSON, BODY, 404, "/mutate, /validate", id="path"),
    ],
)  # fmt: skip
@pytest.mark.trio
async def test_what_is_no_review_is_told_so(
    method: str, path: str, headers: dict[str, str], body: bytes, status: int, says: str
) -> None:
    async with webhooks() as (port, metrics):
        client = http1(port)
        answer = await client.request(method, path, headers, body)
        assert answer.status == status
        document = document_of(answer)
        assert (document["kind"], document["code"]) == ("Status", status)
        assert says in document["message"]
        if path.startswith("/mutate"):
            assert counted(metrics, "bad_request") >= 1
        assert (await client.request("POST", "/mutate", JSON, BODY)).status == 200  # the client is served as before


@pytest.mark.trio
async def test_where_a_namespace_cannot_be_read_the_failure_policy_decides() -> None:
    async with webhooks() as (port, _):
        answer = await http1(port).request("POST", "/mutate", JSON, body_of(review(LIMITED, namespace="unknown")))
        assert answer.status == 503
        assert "The namespace unknown cannot be read now" in document_of(answer)["message"]


@pytest.mark.trio
async def test_too_long_a_body_is_refused_before_it_comes() -> None:
    async with webhooks() as (port, _):
        with trio.fail_after(1):
            said = await raw(port, POST + b"Content-Length: 99999999\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413 ")
        assert b"\r\ncontent-type: application/json\r\n" in said
        assert str(MAX_BODY).encode() in said


@pytest.mark.trio
async def test_a_review_of_the_greatest_size_is_taken() -> None:
    async with webhooks() as (port, _):
        client = http1(port)
        padded = BODY + b" " * (MAX_BODY - len(BODY))
        assert (await client.request("POST", "/mutate", JSON, padded)).status == 200


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("timeout=10s", 9.0),
        ("timeout=30s", 20.0),
        ("timeout=1s", 0.8),
        ("timeout=100ms", 0.05),
        ("timeout=1m", 20.0),
        ("timeout=1m0.5s", 20.0),
        ("timeout=0s", 20.0),
        ("dryRun=All&timeout=5s", 4.5),
        ("", 20.0),
        ("timeout=", 20.0),
        ("timeout=soon", 20.0),
        ("timeout=10", 20.0),
        ("timeout=10s!", 20.0),
    ],
)
def test_the_api_servers_time_limit_is_kept_with_a_margin(query: str, seconds: float) -> None:
    assert time_limit(query, 20.0) == pytest.approx(seconds)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """See :func:`tests.injector_server.held`."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def long_review(fifo: Path) -> bytes:
    return body_of({"fifo": str(fifo), "long": "x" * 40_000})  # what is short is not expected to take long


async def begun(fifo: Path) -> int:
    """Wait until the review has begun; it ends when the descriptor is closed."""
    with trio.fail_after(PATIENCE):
        return await trio.to_thread.run_sync(os.open, fifo, os.O_WRONLY, abandon_on_cancel=True)


@pytest.mark.trio
async def test_what_takes_too_long_is_an_error_and_delays_nobody(fifo: Path) -> None:
    async with webhooks(held, 60) as (port, metrics):
        client = http1(port)
        late: list[Any] = []
        answered = trio.Event()

        async def ask(timeout: str) -> None:
            late.append(await client.request("POST", f"/mutate?timeout={timeout}", JSON, long_review(fifo)))
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "40s")
            descriptor = await begun(fifo)
            nursery.start_soon(ask, "2s")  # waits for the first
            assert (await client.request("POST", "/mutate", JSON, b"{}")).status == 200
            assert not late
            await answered.wait()
            os.close(descriptor)
        assert [each.status for each in late] == [504, 200]
        assert "1.8 s" in document_of(late[0])["message"]
        assert counted(metrics, "timeout") == 1


@pytest.mark.parametrize("timeout", ["1ns", "1us", "9.9ms"])
def test_a_time_limit_that_nothing_can_keep_is_refused(timeout: str) -> None:
    with pytest.raises(
        RequestError, match=f"timeout={timeout} is too short for any answer. Ask with 0.01s or more"
    ) as e:
        time_limit(f"timeout={timeout}", 20.0)
    assert e.value.status == 400


@pytest.mark.trio
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with webhooks() as (port, metrics):
        head = POST.replace(b"/mutate", b"/mutate?timeout=200ms") + f"Content-Length: {len(BODY)}\r\n\r\n".encode()
        assert (await raw(port, head + BODY[:100])).startswith(b"HTTP/1.1 504 ")
        assert (await http1(port).request("POST", "/mutate", JSON, BODY)).status == 200
        assert counted(metrics, "timeout") == 1


@pytest.mark.trio
async def test_a_review_whose_client_leaves_is_abandoned(fifo: Path) -> None:
    async with webhooks(held) as (port, metrics):
        with trio.move_on_after(PATIENCE) as leaving:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(http1(port).request, "POST", "/mutate", JSON, long_review(fifo))
                descriptor = await begun(fifo)
                leaving.cancel()  # which closes the connection
        with trio.fail_after(5):
            while not counted(metrics, "abandoned"):
                await trio.lowlevel.checkpoint()
        os.close(descriptor)


@pytest.mark.trio
async def test_an_error_of_our_own_is_an_answer_and_no_end() -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise RuntimeError("a bug")

    async with webhooks(broken) as (port, metrics):
        client = http1(port)
        answer = await client.request("POST", "/mutate", JSON, BODY)
        assert answer.status == 500
        assert "a bug" not in document_of(answer)["message"]
        assert counted(metrics, "error") == 1
        assert (await client.request("POST", "/validate", JSON, BODY)).status == 200


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET /\xc3\xbc HTTP/1.1\r\nhost: x\r\n\r\n", id="path that is not ASCII"),
        pytest.param(b"\x16\x03\x01nonsense\r\n\r\n", id="nonsense"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000, id="endless head"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100), id="HTTP/2 unasked"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", id="upgrade to h2c"),
        pytest.param(
            b"GET /mutate HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            id="WebSocket",
        ),
    ],
)
@pytest.mark.trio
async def test_a_connection_of_nonsense_ends_alone(data: bytes) -> None:
    async with webhooks() as (port, _):
        client = http1(port)
        with trio.move_on_after(0.2):
            await raw(port, data)
        assert (await client.request("POST", "/mutate", JSON, BODY)).status == 200


@pytest.mark.trio
async def test_clients_without_tls_or_with_an_old_one_end_alone() -> None:
    async with webhooks() as (port, _):
        client = http1(port)
        stream = await trio.open_tcp_stream(HOST, port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            with trio.move_on_after(5):
                with suppress(trio.BrokenResourceError):
                    assert b"HTTP" not in await stream.receive_some(100)
        old = trusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        secure = trio.SSLStream(await trio.open_tcp_stream(HOST, port), old, server_hostname=HOST)
        with pytest.raises(trio.BrokenResourceError):
            await secure.do_handshake()
        await trio.aclose_forcefully(secure)
        assert (await client.request("POST", "/mutate", JSON, BODY)).status == 200


# --- the end ---------------------------------------------------------------------------------------------------------


class Gate:
    """A handler that answers when it is let."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.go = trio.Event()

    async def __call__(self, _request: HttpRequest) -> HttpResponse:
        self.asked.set()
        await self.go.wait()
        return HttpResponse.text(200, "done")


@pytest.mark.trio
async def test_at_the_end_what_runs_is_finished() -> None:
    gate = Gate()
    async with serving({"/slow": gate}) as (server, port), trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await raw(port, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"))

        nursery.start_soon(ask)
        await gate.asked.wait()
        ended: list[int] = []

        async def end() -> None:
            ended.append(await server.drain(5))

        nursery.start_soon(end)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(HOST, port)
        assert not answers
        gate.go.set()
    assert answers[0].endswith(b"done\n")
    assert b"\r\nconnection: close\r\n" in answers[0]
    assert ended == [0]


@pytest.mark.trio
async def test_who_leaves_answers_and_sends_http1_clients_away() -> None:
    async with serving({"/": Gate()}) as (server, port):
        stays = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\nGET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert (await raw(port, stays)).count(b"HTTP/1.1 404") == 2
        server.leave()
        said = await raw(port, b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 404 " in said
        assert b"\r\nconnection: close\r\n" in said.lower()
        with trio.fail_after(5):
            await server.until_empty()


@pytest.mark.trio
async def test_at_the_end_idle_connections_are_closed_at_once() -> None:
    async with serving({"/": Gate()}) as (server, port):
        client = http1(port)
        assert (await client.request("GET", "/nothing")).status == 404
        assert server.connections == 1
        with trio.fail_after(0.5):
            assert await server.drain(5) == 0


@pytest.mark.trio
async def test_after_the_grace_period_what_still_runs_is_cut() -> None:
    gate = Gate()
    async with serving({"/slow": gate}) as (server, port), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(HttpError, match=r"closed without an answer|broke"):
                await http1(port).request("GET", "/slow")

        nursery.start_soon(ask)
        await gate.asked.wait()
        assert await server.drain(0.05) == 1


@pytest.mark.trio
async def test_a_connection_that_the_client_closes_is_forgotten() -> None:
    async with serving({"/": Gate()}) as (server, port):
        client = http1(port)
        await client.request("GET", "/nothing")
        assert server.connections == 1
        await client.aclose()
        with trio.fail_after(5):
            await server.until_empty()


@pytest.mark.trio
async def test_a_taken_port_is_named_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ListenError, match="--metrics-port"):
            await open_listeners(HOST, taken.getsockname()[1], "metrics-port")
    with pytest.raises(ListenError, match="--address"):
        await open_listeners("192.0.2.77", 8443, "port")
