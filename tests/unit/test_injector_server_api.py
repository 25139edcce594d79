"""Reaching the API server: kubeconfigs, the Pod's service account, requests, and errors that say what to do."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
import yaml

from daemon.http import JSON, HttpRequest, HttpResponse
from daemon.kubernetes.access import ApiAccess, find_access, from_kubeconfig, from_pod
from daemon.kubernetes.api import ApiServer, config_map, secret, webhook_configuration
from daemon.kubernetes.errors import ApiAccessError, ApiError, ConflictError, NotFoundError
from daemon.kubernetes.http_client import HttpClient
from injector.server.shared_policies import SharedPolicies, SharedPolicyError
from tests.injector_server import HOST, MemoryApi, api_server, authority, compact, serving

CA = authority().cert_pem.bytes()
PATH = "/api/v1/namespaces/shop/configmaps/common"


@asynccontextmanager
async def api() -> AsyncIterator[tuple[MemoryApi, ApiServer, list[tuple[str, str, int]]]]:
    memory, failures = MemoryApi(), list[tuple[str, str, int]]()
    async with api_server(memory) as access:
        server = ApiServer(access, lambda *failure: failures.append(failure), program="podlane-injector")
        yield memory, server, failures
        await server.aclose()


@pytest.mark.trio
async def test_objects_are_read_and_written_on_one_connection() -> None:
    async with api() as (memory, server, failures):
        made = await server.apply(secret("podlane", "tls"), {"metadata": {"name": "tls"}, "type": "Opaque"})
        again = await server.update(secret("podlane", "tls"), {**made, "data": {"a": "b"}})
        assert (await server.get(secret("podlane", "tls"))) == again
        with pytest.raises(ConflictError):
            await server.update(secret("podlane", "tls"), made)
        applied = await server.apply(secret("podlane", "tls"), {"metadata": {"name": "tls"}, "type": "Opaque"})
        assert applied["data"] == {"a": "b"}, "what it does not name stays"
        with pytest.raises(NotFoundError, match="configmaps common in namespace shop"):
            await server.get(config_map("shop", "common"))
        assert await server.version() == (1, 31)
        assert failures == [("update", "secrets", 409), ("get", "configmaps", 404)]
        assert {headers["authorization"] for _, _, headers in memory.requests} == {"Bearer token-1"}
        assert len(server._client._idle) == 1


@pytest.mark.parametrize(
    ("verb", "needed", "method", "call"),
    [
        ("get", "'get'", "GET", lambda s: s.get(secret("podlane", "tls"))),
        ("update", "'update'", "PUT", lambda s: s.update(secret("podlane", "tls"), {})),
        ("apply", "'patch' and 'create'", "PATCH", lambda s: s.apply(secret("podlane", "tls"), {})),
    ],
    ids=["get", "update", "apply"],
)
@pytest.mark.trio
async def test_a_missing_right_is_named(verb: str, needed: str, method: str, call: Any) -> None:
    async with api() as (memory, server, _):
        memory.forbidden.add(f"{method} secrets")
        with pytest.raises(
            ApiError, match=rf"may not {verb} secrets tls in namespace podlane \(.*robot.*{needed} on secrets"
        ):
            await call(server)


@pytest.mark.trio
async def test_a_token_that_is_replaced_is_used() -> None:
    tokens = iter(["one", "two"])
    memory = MemoryApi()
    async with api_server(memory) as access:
        server = ApiServer(replace(access, token=lambda: next(tokens)))
        for _ in range(2):
            await server.version()
        assert [headers["authorization"] for _, _, headers in memory.requests] == ["Bearer one", "Bearer two"]


@pytest.mark.trio
async def test_a_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    async with api() as (memory, server, failures):
        await server.version()
        await server._client._idle[0][1].aclose()
        assert await server.version() == (1, 31)
        assert len(memory.requests) == 2
        assert not failures


@pytest.mark.trio
async def test_a_kept_connection_that_ends_before_its_answer_is_made_anew() -> None:
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            heard.append(bytes(await stream.receive_some(1000)))
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            heard.append(bytes(await stream.receive_some(1000)))  # and no answer

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        client = HttpClient(HOST, listeners[0].socket.getsockname()[1], None, HOST)
        answers = [await client.request("GET", path) for path in ("/1", "/2")]
        nursery.cancel_scope.cancel()
    assert [answer.body for answer in answers] == [b"ok", b"ok"]
    assert [data.split()[1] for data in heard] == [b"/1", b"/2", b"/2"]


@pytest.mark.trio
async def test_no_answer_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.kubernetes.api._PATIENCE", 0.05)

    async def never(_request: HttpRequest) -> HttpResponse:
        await trio.sleep_forever()
        raise AssertionError

    async with serving({"/version": never}, encrypted=False) as (_, port):
        access = ApiAccess(HOST, port, "", None, HOST, None, "x", "the test")
        with pytest.raises(ApiError, match=rf"{HOST}:{port} cannot be asked: no answer within 0.05 s"):
            await ApiServer(access).version()


@pytest.mark.trio
async def test_what_is_no_api_server_is_told_so() -> None:
    answers = iter(
        [
            HttpResponse(200, JSON, b"<html>"),
            HttpResponse(200, JSON, b"[]"),
            compact({"gitVersion": "v?"}),
            HttpResponse.text(502, "bad gateway"),
        ]
    )

    async def handle(_request: HttpRequest) -> HttpResponse:
        return next(answers)

    async with serving({"/version": handle}, encrypted=False) as (_, port):
        server = ApiServer(ApiAccess(HOST, port, "", None, HOST, None, "x", "the test"))
        for says in ("no API server", "no API server", "says no version that is understood", "502 .*bad gateway"):
            with pytest.raises(ApiError, match=says):
                await server.version()
        await server.aclose()
    with pytest.raises(ApiError, match="cannot be asked"):
        await server.version()


@pytest.mark.trio
async def test_an_api_server_whose_certificate_is_not_trusted_is_not_talked_to() -> None:
    memory = MemoryApi()
    async with api_server(memory) as access:
        stranger = trustme.CA()
        context = ssl.create_default_context()
        stranger.configure_trust(context)
        with pytest.raises(ApiError, match="cannot be trusted"):
            await ApiServer(replace(access, tls=lambda: context)).version()
        assert not memory.requests


# --- shared policies -----------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_shared_policy_is_read_once_in_a_while() -> None:
    now = 0.0
    async with api() as (memory, server, _):
        shared = SharedPolicies(server, 10.0, lambda: now)
        assert await shared.read("shop", "common") is None
        memory.put(PATH, {"data": {"policy.yaml": "total: 1Mbit"}})
        assert await shared.read("shop", "common") is None
        now = 1.1  # that there is none is believed for a second
        assert await shared.read("shop", "common") == "total: 1Mbit"
        memory.put(PATH, {"data": {"policy.yaml": "total: 2Mbit"}})
        now = 11.0
        assert await shared.read("shop", "common") == "total: 1Mbit"
        assert len(memory.requests) == 2
        now = 11.2
        assert await shared.read("shop", "common") == "total: 2Mbit"
        assert await shared.read("other", "common") is None
        memory.put(PATH, {"data": {"other.yaml": "x"}})
        now = 30.0
        assert await shared.read("shop", "common") is None


@pytest.mark.trio
async def test_many_who_want_the_same_policy_ask_once() -> None:
    async with api() as (memory, server, _):
        memory.put(PATH, {"data": {"policy.yaml": "total: 1Mbit"}})
        shared, texts = SharedPolicies(server, 10.0), list[str | None]()

        async def ask() -> None:
            texts.append(await shared.read("shop", "common"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert texts == ["total: 1Mbit"] * 20
        assert len(memory.requests) == 1


@pytest.mark.trio
async def test_when_who_asks_gives_up_another_one_asks() -> None:
    async with api() as (memory, server, _):
        memory.put(PATH, {"data": {"policy.yaml": "total: 1Mbit"}})
        shared = SharedPolicies(server, 10.0)
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                memory.before = lambda *_: scope.cancel()

                async def second() -> None:
                    texts.append(await shared.read("shop", "common"))

                texts: list[str | None] = []
                nursery.start_soon(second)
                await shared.read("shop", "common")
            memory.before = lambda *_: None
        assert texts == ["total: 1Mbit"]


@pytest.mark.trio
async def test_what_was_read_is_used_while_the_api_server_cannot_be_asked() -> None:
    now = 0.0
    async with api() as (memory, server, _):
        shared = SharedPolicies(server, 10.0, lambda: now)
        memory.put(PATH, {"data": {"policy.yaml": "total: 1Mbit"}})
        await shared.read("shop", "common")
        memory.forbidden.add("GET configmaps")
        now = 300.0
        assert await shared.read("shop", "common") == "total: 1Mbit"
        now = 1000.0
        with pytest.raises(SharedPolicyError, match="may not get configmaps common in namespace shop"):
            await shared.read("shop", "common")
    with pytest.raises(SharedPolicyError, match="--kubeconfig"):
        await SharedPolicies(None, 10.0).read("shop", "common")


@pytest.mark.trio
async def test_the_cache_is_bounded() -> None:
    class Big:
        async def get(self, _resource: object) -> dict[str, Any]:
            return {"data": {"policy.yaml": "x" * 2**20}}

    shared = SharedPolicies(Big(), 10.0)  # type: ignore[arg-type]
    for number in range(40):
        await shared.read("shop", f"policy-{number}")
    assert len(shared._cache) == 16
    assert ("shop", "policy-39") in shared._cache


# --- access ----------------------------------------------------------------------------------------------------------


def kubeconfig(folder: Path, cluster: dict[str, Any], user: dict[str, Any], **top: Any) -> Path:
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        **top,
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(document))
    return path


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.trio
async def test_a_kubeconfig_with_a_client_certificate_works(tmp_path: Path) -> None:
    client = authority().issue_cert("someone@example.com", common_name="someone")
    (tmp_path / "ca.crt").write_bytes(CA)
    memory = MemoryApi()
    async with api_server(memory) as real:
        access = from_kubeconfig(
            kubeconfig(
                tmp_path,
                {"server": f"https://localhost:{real.port}/prefix/", "certificate-authority": "ca.crt"},
                {
                    "client-certificate-data": encoded(client.cert_chain_pems[0].bytes()),
                    "client-key-data": encoded(client.private_key_pem.bytes()),
                },
            )
        )
        assert (access.base_path, access.namespace, access.token) == ("/prefix", "team", None)
        with pytest.raises(NotFoundError):
            await ApiServer(access).get(secret("podlane", "tls"))
        assert memory.requests[0][1] == "/prefix/api/v1/namespaces/podlane/secrets/tls"


def test_a_kubeconfig_with_tokens(tmp_path: Path) -> None:
    cluster = {"server": "https://[::1]:6443", "tls-server-name": "kubernetes", "insecure-skip-tls-verify": True}
    access = from_kubeconfig(kubeconfig(tmp_path, cluster, {"token": "abc"}))
    assert (access.host, access.port, access.server_name) == ("::1", 6443, "kubernetes")
    assert access.token is not None
    assert access.token() == "abc"
    (tmp_path / "token").write_text("def\n")
    access = from_kubeconfig(kubeconfig(tmp_path, {"server": "http://localhost"}, {"tokenFile": "token"}))
    assert (access.port, access.tls) == (80, None)
    assert access.token is not None
    assert access.token() == "def"
    (tmp_path / "token").unlink()
    with pytest.raises(ApiAccessError, match="token cannot be read"):
        access.token()


SERVER = {"server": "https://localhost"}


@pytest.mark.parametrize(
    ("cluster", "user", "top", "says"),
    [
        pytest.param(
            SERVER, {}, {"current-context": "there"}, "no context 'there'.*It has here.*--context", id="context"
        ),
        pytest.param(SERVER, {}, {"current-context": ""}, "no context ''", id="no context"),
        pytest.param(SERVER, {}, {"clusters": []}, "no cluster 'c'.*It has no clusters", id="cluster"),
        pytest.param(SERVER, {}, {"users": "x"}, "no user 'u'", id="user"),
        pytest.param({}, {}, {}, "None is not a server", id="no server"),
        pytest.param({"server": "localhost:6443"}, {}, {}, "not a server.*https://", id="no URL"),
        pytest.param(SERVER, {"exec": {"command": "aws"}}, {}, "exec are not known", id="program"),
        pytest.param(SERVER, {"username": "a", "password": "b"}, {}, "username are not known", id="password"),
        pytest.param({**SERVER, "proxy-url": "http://p"}, {}, {}, "proxy-url", id="proxy"),
        pytest.param({**SERVER, "certificate-authority-data": "?"}, {}, {}, "not base64", id="base64"),
        pytest.param({**SERVER, "certificate-authority-data": encoded(b"x")}, {}, {}, "cannot be used", id="no CA"),
        pytest.param({**SERVER, "certificate-authority": "gone"}, {}, {}, "No such file.*gone", id="file"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_told_so(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], top: dict[str, Any], says: str
) -> None:
    path = kubeconfig(tmp_path, cluster, user, **top)
    with pytest.raises(ApiAccessError, match=f"{path}: .*{says}"):
        from_kubeconfig(path)


@pytest.mark.parametrize(("text", "says"), [(None, "No such file"), ("{", "not valid YAML"), ("[]", "no context")])
def test_a_file_that_is_no_kubeconfig_is_told_so(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ApiAccessError, match=says):
        from_kubeconfig(path)


@pytest.mark.trio
async def test_a_pod_uses_its_service_account_as_it_is_now(tmp_path: Path) -> None:
    memory = MemoryApi()
    async with api_server(memory) as real:
        environment = {"KUBERNETES_SERVICE_HOST": HOST, "KUBERNETES_SERVICE_PORT": str(real.port)}
        with pytest.raises(ApiAccessError, match="automountServiceAccountToken"):
            from_pod(environment, tmp_path)
        for name, text in (
            ("namespace", "podlane\n"),
            ("token", "one"),
            ("ca.crt", trustme.CA().cert_pem.bytes().decode()),
        ):
            (tmp_path / name).write_text(text)
        access = from_pod(environment, tmp_path)
        assert access.namespace == "podlane"
        server = ApiServer(access)
        with pytest.raises(ApiError, match="cannot be trusted"):
            await server.version()
        (tmp_path / "new").write_bytes(CA)
        os.replace(tmp_path / "new", tmp_path / "ca.crt")
        (tmp_path / "token").write_text("two\n")
        assert await server.version() == (1, 31)
        assert memory.requests[-1][2]["authorization"] == "Bearer two"
        (tmp_path / "token").unlink()
        with pytest.raises(ApiError, match="token cannot be read"):
            await server.version()


def test_outside_a_cluster_there_is_no_access() -> None:
    assert find_access(None, None, {}) is None
    with pytest.raises(ApiAccessError, match="KUBERNETES_SERVICE_PORT"):
        find_access(None, None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "tcp://x"})


def test_paths_are_those_of_the_api() -> None:
    assert webhook_configuration("mutating", "podlane").path == (
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/podlane"
    )
    assert config_map("shop", "common").path == PATH
