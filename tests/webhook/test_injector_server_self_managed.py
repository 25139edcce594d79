"""Certificates of the injector's own making, with replicas that share a Secret: conflicts, rotation, real handshakes."""

from __future__ import annotations

import base64
import copy
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio
from cryptography.hazmat.primitives import hashes

from daemon.errors import CertificateError
from daemon.http_server import HttpServer
from daemon.kubernetes.api import ApiServer
from daemon.kubernetes.errors import ApiError, NotFoundError
from injector.server.certificates import Certificates, Lifetimes, split_bundle
from injector.server.http import open_listeners, webhook_limits
from injector.server.metrics import InjectorMetrics
from injector.server.self_managed import Place, SelfManaged
from injector.server.tls import ServerTls
from tests.injector_server import HOST, MemoryApi, api_server

SECRET = "/api/v1/namespaces/podlane/secrets/podlane-injector"
PLACE = Place("podlane", "podlane-injector", ("podlane-injector.podlane.svc", HOST), "podlane", "podlane")
LIFE = Lifetimes(timedelta(days=365), timedelta(days=30), timedelta(minutes=10))


class Replica:
    """One injector's certificates, on a clock that the test sets."""

    def __init__(self, api: ApiServer, clock: list[datetime]) -> None:
        self.tls = ServerTls()
        self.metrics = InjectorMetrics()
        self.kept = SelfManaged(api, PLACE, LIFE, self.tls, self.metrics, lambda: clock[0])

    async def reconcile(self) -> None:
        await self.kept.reconcile()

    @property
    def fingerprint(self) -> str:
        assert self.tls.served is not None
        return self.tls.served.fingerprint(hashes.SHA256()).hex()


@asynccontextmanager
async def cluster(*webhooks: str) -> AsyncIterator[tuple[MemoryApi, list[datetime], Replica, Replica]]:
    memory = MemoryApi()
    if not memory.objects:
        for kind in ("mutating", "validating"):
            memory.webhook(kind, "podlane", *(webhooks or ("one.podlane.io", "two.podlane.io")))
    memory.put(SECRET, {"metadata": {"name": "podlane-injector"}, "type": "Opaque"})
    # The real time: OpenSSL looks at the real clock when the handshakes are done.
    clock = [datetime.now(UTC)]
    async with api_server(memory) as access:
        api = ApiServer(access, program="podlane-injector")
        yield memory, clock, Replica(api, clock), Replica(api, clock)
        await api.aclose()


def held(memory: MemoryApi) -> Certificates:
    data = memory.objects[SECRET]["data"]
    return Certificates.from_data({key: base64.b64decode(value) for key, value in data.items()})


def bundles(memory: MemoryApi) -> set[bytes]:
    """The caBundle of every webhook."""
    return {
        base64.b64decode(webhook["clientConfig"]["caBundle"])
        for path, document in memory.objects.items()
        if "webhookconfigurations" in path
        for webhook in document["webhooks"]
    }


async def accepts(bundle: bytes, replica: Replica) -> bool:
    """Whether an API server with this caBundle connects."""
    context = ssl.create_default_context(cadata=bundle.decode())
    listeners = await open_listeners(HOST, 0, "port")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(HttpServer({}, webhook_limits(9.0), tls=lambda: replica.tls.context).run, listeners)
        port = listeners[0].socket.getsockname()[1]
        stream = trio.SSLStream(await trio.open_tcp_stream(HOST, port), context, server_hostname=PLACE.names[0])
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return False
        finally:
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
    return True


def writes(memory: MemoryApi) -> list[tuple[str, str]]:
    return [(method, path.rpartition("/")[2]) for method, path, _ in memory.requests if method != "GET"]


@pytest.mark.trio
async def test_the_first_replica_makes_all_and_the_second_finds_it() -> None:
    async with cluster() as (memory, _, one, two):
        await one.reconcile()
        assert writes(memory) == [("PUT", "podlane-injector"), ("PATCH", "podlane"), ("PATCH", "podlane")]
        assert bundles(memory) == {held(memory).bundle}
        webhook = memory.objects["/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/podlane"][
            "webhooks"
        ][0]
        assert webhook["clientConfig"]["service"] == {"name": "s", "path": "/x"}
        await two.reconcile()
        await one.reconcile()
        assert len(writes(memory)) == 3
        assert one.fingerprint == two.fingerprint
        (bundle,) = bundles(memory)
        assert await accepts(bundle, one)
        assert await accepts(bundle, two)
        line = 'podlane_injector_certificate_expiry_timestamp_seconds{certificate="serving"} '
        (value,) = (
            row.removeprefix(line) for row in one.metrics.render().decode().splitlines() if row.startswith(line)
        )
        assert float(value) == held(memory).serving.expires.timestamp()


@pytest.mark.trio
async def test_a_secret_that_is_not_there_is_made() -> None:
    async with cluster() as (memory, _, one, two):
        del memory.objects[SECRET]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.reconcile)
            nursery.start_soon(two.reconcile)
        assert one.fingerprint == two.fingerprint
        assert memory.objects[SECRET]["type"] == "Opaque"
        assert bundles(memory) == {held(memory).bundle}


@pytest.mark.trio
async def test_who_comes_second_takes_what_the_first_one_made() -> None:
    async with cluster() as (memory, clock, one, two):
        other = MemoryApi()  # where the other one's certificates are made
        other.objects = {key: dict(value) for key, value in memory.objects.items()}
        async with api_server(other) as access:
            await SelfManaged(
                ApiServer(access, program="podlane-injector"), PLACE, LIFE, two.tls, two.metrics, lambda: clock[0]
            ).reconcile()

        def be_first(method: str, path: str) -> None:
            if method == "PUT" and path == SECRET:
                memory.before = lambda *_: None
                memory.put(SECRET, other.objects[SECRET])

        memory.before = be_first
        await one.reconcile()
        assert one.fingerprint == two.fingerprint
        assert held(memory) == held(other)


@pytest.mark.trio
async def test_an_old_bundle_never_replaces_a_newer_one() -> None:
    """After the first replica has read, and before it publishes, the second one prepares an authority and publishes."""
    async with cluster() as (memory, clock, one, two):
        await one.reconcile()
        for path in [p for p in memory.objects if "webhookconfigurations" in p]:
            for webhook in memory.objects[path]["webhooks"]:
                webhook["clientConfig"]["caBundle"] = ""  # somebody applied the manifest again
        later = MemoryApi()  # where the second one does so
        later.objects = copy.deepcopy(memory.objects)
        async with api_server(later) as access:
            in_time = clock[0] + timedelta(days=250)
            await SelfManaged(
                ApiServer(access, program="podlane-injector"), PLACE, LIFE, two.tls, two.metrics, lambda: in_time
            ).reconcile()
        assert held(later).bundle != held(memory).bundle
        read: list[str] = []

        def second_in_between(method: str, path: str) -> None:
            if (method, path) == ("GET", SECRET):
                read.append(path)
            elif read and "webhookconfigurations" in path:
                memory.before = lambda *_: None
                for changed, document in later.objects.items():
                    memory.put(changed, document)

        memory.before = second_in_between
        await one.reconcile()
        assert bundles(memory) == {held(later).bundle}
        assert held(memory) == held(later)


@pytest.mark.trio
async def test_an_authority_is_replaced_without_a_moment_of_distrust() -> None:
    async with cluster() as (memory, clock, one, two):
        clock[0] -= timedelta(days=250)
        await one.reconcile()
        await two.reconcile()
        first = held(memory)
        clock[0] += timedelta(days=250) - timedelta(minutes=30)
        await one.reconcile()  # renews the serving certificate, and prepares
        await two.reconcile()
        assert held(memory).upcoming is not None
        assert held(memory).authority == first.authority
        (before,) = bundles(memory)
        clock[0] += timedelta(minutes=9)
        await one.reconcile()
        assert held(memory).upcoming is not None
        clock[0] += timedelta(minutes=2)
        await one.reconcile()
        promoted = held(memory)
        assert promoted.upcoming is None
        assert promoted.authority != first.authority
        assert one.fingerprint != two.fingerprint  # the other one has not looked yet
        (after,) = bundles(memory)
        for bundle in (before, after):
            assert await accepts(bundle, one)
            assert await accepts(bundle, two)
        await two.reconcile()
        assert one.fingerprint == two.fingerprint
        clock[0] += timedelta(days=31)
        await two.reconcile()
        assert {split_bundle(b) for b in bundles(memory)} == {frozenset({promoted.authority.certificate.strip()})}


@pytest.mark.trio
async def test_an_authority_that_is_not_trusted_does_not_sign() -> None:
    async with cluster() as (memory, clock, one, _):
        await one.reconcile()
        clock[0] += timedelta(days=250)
        memory.forbidden.add("PATCH mutatingwebhookconfigurations")
        for _ in range(3):
            with pytest.raises(ApiError, match="may not patch mutatingwebhookconfigurations podlane"):
                await one.reconcile()
            clock[0] += timedelta(hours=1)
        assert held(memory).upcoming is not None
        memory.forbidden.clear()
        await one.reconcile()
        assert held(memory).upcoming is not None  # trusted only now
        clock[0] += timedelta(minutes=11)
        await one.reconcile()
        assert held(memory).upcoming is None


@pytest.mark.trio
async def test_somebody_elses_bundle_is_put_right() -> None:
    async with cluster() as (memory, _, one, _two):
        path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/podlane"
        memory.objects[path]["webhooks"][1]["clientConfig"]["caBundle"] = "not base64!"
        await one.reconcile()
        assert bundles(memory) == {held(memory).bundle}


@pytest.mark.trio
async def test_a_configuration_that_is_missing_is_named_and_the_rest_is_done() -> None:
    async with cluster() as (memory, _, one, _two):
        path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/podlane"
        del memory.objects[path]
        with pytest.raises(NotFoundError, match=r"validatingwebhookconfigurations podlane.*--validating-webhook"):
            await one.reconcile()
        assert one.tls.served is not None
        assert bundles(memory) == {held(memory).bundle}
        memory.webhook("validating", "podlane", "one.podlane.io")
        await one.reconcile()


@pytest.mark.parametrize("how", ["deleted", "emptied", "garbled"])
@pytest.mark.trio
async def test_what_was_stored_is_written_again_from_memory(how: str) -> None:
    async with cluster() as (memory, _, one, two):
        await one.reconcile()
        await two.reconcile()
        (bundle,) = bundles(memory)
        before, was = held(memory), one.fingerprint
        if how == "deleted":
            del memory.objects[SECRET]
        elif how == "emptied":
            memory.objects[SECRET]["data"] = {}
        else:
            memory.objects[SECRET]["data"]["tls.key"] = "not base64!"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.reconcile)
            nursery.start_soon(two.reconcile)
        assert held(memory) == before
        assert bundles(memory) == {bundle}
        assert one.fingerprint == two.fingerprint == was


@pytest.mark.parametrize("how", ["emptied", "garbled"])
@pytest.mark.trio
async def test_who_remembers_nothing_makes_anew_and_old_certificates_stay_trusted(how: str) -> None:
    async with cluster() as (memory, clock, one, two):
        await one.reconcile()
        memory.objects[SECRET]["data"] |= {"tls.key": "not base64!"}
        if how == "emptied":
            memory.objects[SECRET]["data"] = {}
        await two.reconcile()  # it has just been started
        (bundle,) = bundles(memory)
        assert one.fingerprint != two.fingerprint
        assert await accepts(bundle, one)
        assert await accepts(bundle, two)
        await one.reconcile()
        assert one.fingerprint == two.fingerprint
        clock[0] += LIFE.serving
        await two.reconcile()
        assert {split_bundle(b) for b in bundles(memory)} == {split_bundle(held(memory).authority.certificate)}


@pytest.mark.trio
async def test_after_an_uninstall_no_secret_is_made() -> None:
    async with cluster() as (memory, _, one, _two):
        await one.reconcile()
        memory.objects.clear()
        with pytest.raises(NotFoundError, match="no API server asks this injector"):
            await one.reconcile()
        assert not memory.objects


@pytest.mark.trio
async def test_cert_managers_secret_is_left_alone() -> None:
    async with cluster() as (memory, _, one, _two):
        memory.put(SECRET, {"metadata": {"annotations": {"cert-manager.io/certificate-name": "x"}}, "data": {}})
        with pytest.raises(CertificateError, match=r"cert-manager's.*--certificate and --key"):
            await one.reconcile()
        assert not writes(memory)


@pytest.mark.trio
async def test_conflicts_without_end_are_reported() -> None:
    async with cluster() as (memory, _, one, _two):

        def always_first(method: str, path: str) -> None:
            if method == "PUT":
                memory.put(path, memory.objects[path])

        memory.before = always_first
        with pytest.raises(ApiError, match="changed meanwhile"):
            await one.reconcile()


@pytest.mark.trio
async def test_trouble_is_told_and_tried_again(autojump_clock: trio.testing.MockClock) -> None:  # noqa: ARG001
    class Unreachable:
        def __init__(self) -> None:
            self.asked = 0

        async def get(self, resource: object) -> dict[str, object]:
            self.asked += 1
            raise ApiError(f"{resource} cannot be read")

    api = Unreachable()
    states: list[str | None] = []
    kept = SelfManaged(api, PLACE, LIFE, ServerTls(), InjectorMetrics())  # type: ignore[arg-type]
    with trio.move_on_after(100):
        await kept.run(states.append)
    assert states == ["mutatingwebhookconfigurations podlane cannot be read"] * 8  # after 1, 2, 4, 8, 16, 30, 30 s
    assert api.asked == 8


@pytest.mark.parametrize(("overlap", "looks"), [(timedelta(minutes=10), 12), (timedelta(seconds=5), 60)])
@pytest.mark.trio
async def test_damage_is_seen_within_seconds(
    overlap: timedelta,
    looks: int,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
) -> None:
    seen: list[float] = []

    class Looking(SelfManaged):
        async def reconcile(self) -> None:
            seen.append(trio.current_time())

    lifetimes = Lifetimes(LIFE.authority, LIFE.serving, overlap)
    with trio.move_on_after(59.5):
        await Looking(None, PLACE, lifetimes, ServerTls(), InjectorMetrics()).run(lambda _: None)  # type: ignore[arg-type]
    assert len(seen) == looks
