"""The injector's lifecycle: health first, then certificates, then the webhooks; graceful shutdown on SIGTERM.

After SIGTERM it reports not ready, so that it is removed from the Service's endpoints, but accepts requests for a
while: API servers learn of that later. Then connections are closed with their responses, and pending requests finished.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from typing import Final

import trio

from daemon.http import Handler
from daemon.http_server import HttpServer
from daemon.kubernetes.access import ApiAccess, find_access
from daemon.kubernetes.api import ApiServer
from daemon.kubernetes.errors import ApiError
from daemon.kubernetes.policy_watch import PolicyWatch
from daemon.log import Logger
from daemon.malloc import trim, unmap_large_blocks
from daemon.turns import LoopTurns
from injector.pod.admission import mutate, validate, validate_for_agent, validate_for_agent_by_default
from injector.pod.happenings import mutated, validated
from injector.pod.policies import validate_policy
from injector.pod.templates import validate_template
from injector.server.budget import DecodingBudget
from injector.server.certificate_files import CertificateFiles
from injector.server.certificates import Lifetimes
from injector.server.clients import Clients
from injector.server.config import InjectorSettings
from injector.server.events import Events
from injector.server.health import Readiness, health_handlers, metrics_handler
from injector.server.http import HEALTH_LIMITS, failure, open_listeners, webhook_limits
from injector.server.metrics import InjectorMetrics
from injector.server.namespaces import Namespaces
from injector.server.nodes import OLDEST_KUBERNETES, Nodes
from injector.server.policy_outlook import PolicyOutlook
from injector.server.self_managed import Place, SelfManaged
from injector.server.shared_policies import SharedPolicies
from injector.server.tls import ServerTls
from injector.server.webhook import Webhook
from traffic_policy.cluster.objects import ClusterPolicies
from traffic_policy.errors import ConfigError, PodlaneError

_VERSION_RETRY: Final = 2.0
_POLICIES_PATIENCE_S: Final = 5.0
_TRIM_S: Final = 10.0
_COLLECT: Final = (10_000, 20, 20)
"""Thresholds of the garbage collector. All objects of hundreds of connections take it 50 ms to look at, in which nobody
is answered."""

CERTIFICATE: Final = "certificate"
VERSION: Final = "API server's version"
END: Final = "end"

log = Logger()


class Injector:
    """One running injector. :func:`serve` makes and runs it."""

    def __init__(self, settings: InjectorSettings, access: ApiAccess | None) -> None:
        self._settings = settings
        self._metrics = InjectorMetrics()
        self._readiness = Readiness(self._metrics, CERTIFICATE, *([VERSION] if access else []))
        self._tls = ServerTls(settings.tls_version)
        self._api = ApiServer(access, self._metrics.api_failed, program="podlane-injector") if access else None
        self._nodes = Nodes(self._api, self._metrics)
        self._events = Events(self._api, self._metrics) if self._api else None
        self._policies_known = trio.Event()
        self._policies = PolicyWatch(self._api, self._policies_known.set) if self._api else None
        self._decoding = DecodingBudget()
        self._loaded = trio.Event()
        self._stop = trio.Event()
        self._hurry = trio.Event()

    async def run(self, signals: AsyncIterator[int], on_ready: Callable[[int, int], None]) -> None:
        """Serve until SIGTERM or SIGINT. ``on_ready`` is called with the ports, once requests are accepted."""
        settings = self._settings
        handlers = {**health_handlers(self._readiness), **metrics_handler(self._metrics)}
        side_server = HttpServer(handlers, HEALTH_LIMITS)
        side = await open_listeners(settings.address, settings.metrics_port, "metrics-port")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_signals, signals)
            nursery.start_soon(side_server.run, side)
            with trio.CancelScope() as life:
                nursery.start_soon(self._cancel_when_stopped, life)
                await self._live(side[0].socket.getsockname()[1], on_ready)
            if self._api:
                with trio.CancelScope(shield=True):
                    await self._api.aclose()
            log.info("ended")
            nursery.cancel_scope.cancel()

    async def _live(self, metrics_port: int, on_ready: Callable[[int, int], None]) -> None:
        settings = self._settings
        async with trio.open_nursery() as keepers:
            self._start_certificates(keepers)
            if self._api:
                await self._require_native_sidecars(self._api)
                keepers.start_soon(self._nodes.follow)
            if self._policies:
                keepers.start_soon(self._policies.run)
                await self._wait_for_policies()
            await self._loaded.wait()
            listeners = await open_listeners(settings.address, settings.port, "port")
            port = listeners[0].socket.getsockname()[1]
            limits = webhook_limits(settings.deadline.seconds)
            turns = LoopTurns(self._metrics.waited)
            self._metrics.longest_step = lambda: turns.longest
            server = HttpServer(self._handlers(), limits, refuse=failure, tls=lambda: self._tls.context, turns=turns)
            with trio.CancelScope(shield=True):  # from here on shutdown is graceful
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._decoding.work)
                    nursery.start_soon(_keep_trimmed)
                    nursery.start_soon(server.run, listeners)
                    if self._events:
                        nursery.start_soon(self._events.run)
                    log.info("listening", port=port, metrics_port=metrics_port, api=self._api is not None)
                    on_ready(port, metrics_port)
                    _tune()
                    await self._stop.wait()
                    await self._end(server)
                    nursery.cancel_scope.cancel()
            keepers.cancel_scope.cancel()

    async def _wait_for_policies(self) -> None:
        """For a while: without them Pods are judged as if there were none."""
        with trio.move_on_after(_POLICIES_PATIENCE_S):
            await self._policies_known.wait()
            return
        log.warning("the cluster's policies are not known yet: Pods get limits by their annotations alone")

    def _handlers(self) -> dict[str, Handler]:
        settings = self._settings
        shared = SharedPolicies(self._api, settings.shared_policy_ttl.seconds)
        make = partial(
            Webhook,
            defaults=settings.defaults(),
            shared=shared,
            metrics=self._metrics,
            longest=settings.deadline.seconds,
            decoding=self._decoding,
            namespaces=Namespaces(self._api, settings.shared_policy_ttl.seconds, policies=self._known_policies),
            nodes=self._nodes,
            clients=Clients(settings.client_names) if settings.client_ca else None,
            record=self._events.add if self._events else lambda _happening: None,
        )
        webhooks = {
            "/mutate": partial(make, "mutate", mutate, telling=mutated),
            "/validate": partial(make, "validate", validate, telling=validated),
            "/validate/workloads": partial(make, "workloads", validate_template),
        }
        agents = {
            "/validate/agent": validate_for_agent,
            "/validate/agent/by-default": validate_for_agent_by_default,
        }
        policy_outlook = PolicyOutlook(self._api, shared, self._decoding)
        return {
            "/validate/policies": make("policies", validate_policy, further=policy_outlook.add).handle,
            **{path: make("validate", reviewer).handle for path, reviewer in agents.items()},
            **{path: webhook().handle for path, webhook in webhooks.items()},
            **{f"{path}/enforced": webhook(enforced=True).handle for path, webhook in webhooks.items()},
            **health_handlers(self._readiness),
        }

    def _known_policies(self) -> ClusterPolicies | None:
        return self._policies.known if self._policies else None

    def _start_certificates(self, nursery: trio.Nursery) -> None:
        settings = self._settings
        if settings.client_ca:
            remedy = "Name with --client-ca the file with the authority of the API servers' certificates."
            clients = CertificateFiles([settings.client_ca], self._tls.trust, remedy)
            clients.load_changed()
            nursery.start_soon(clients.follow)
        if settings.certificate and settings.key:
            remedy = "Name the files with --certificate and --key, or have the injector make its own with --secret."
            files = CertificateFiles([settings.certificate, settings.key], self._tls.use, remedy, self._file_loaded)
            files.load_changed()
            self._certificate_state(None)
            nursery.start_soon(files.follow)
            return
        assert self._api is not None, "serve() has checked it"
        namespace = settings.namespace or self._api.access.namespace
        place = Place(
            namespace,
            settings.secret,
            settings.certificate_names(namespace),
            settings.mutating_webhook,
            settings.validating_webhook,
        )
        durations = (settings.ca_lifetime, settings.certificate_lifetime, settings.ca_overlap)
        lifetimes = Lifetimes(*(timedelta(seconds=each.seconds) for each in durations))
        kept = SelfManaged(self._api, place, lifetimes, self._tls, self._metrics)
        nursery.start_soon(kept.run, self._certificate_state)

    def _file_loaded(self, usable: bool) -> None:
        self._metrics.loaded("loaded" if usable else "failed")
        if self._tls.served:
            self._metrics.expires("serving", self._tls.served.not_valid_after_utc)

    def _certificate_state(self, trouble: str | None) -> None:
        self._readiness.arrived(CERTIFICATE, trouble)
        if self._tls.served:
            self._loaded.set()

    async def _require_native_sidecars(self, api: ApiServer) -> None:
        """Wait until the API server reports its version. Raises :class:`ConfigError` if it lacks native sidecars."""
        while True:
            try:
                version = await api.version()
            except ApiError as error:
                self._readiness.arrived(VERSION, str(error))
                log.warning("the API server's version is not known", error=str(error))
                await trio.sleep(_VERSION_RETRY)
                continue
            if version < OLDEST_KUBERNETES:
                raise ConfigError(
                    f"Kubernetes {'.'.join(map(str, version))} has no native sidecars. "
                    f"Upgrade it to {'.'.join(map(str, OLDEST_KUBERNETES))} or later."
                )
            self._readiness.arrived(VERSION, None)
            return

    async def _follow_signals(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            if self._stop.is_set():
                self._hurry.set()
            else:
                self._readiness.report(END, "it is ending")
                self._stop.set()

    async def _cancel_when_stopped(self, life: trio.CancelScope) -> None:
        await self._stop.wait()
        life.cancel()

    async def _end(self, server: HttpServer) -> None:
        linger, grace = self._settings.linger, self._settings.grace
        log.info("ending", linger=str(linger), grace=str(grace), connections=server.connections)
        server.leave()
        with trio.move_on_after(linger.seconds):
            await self._hurry.wait()
        cut = await server.drain(grace.seconds)
        if cut:
            log.warning("connections cut at the end of the grace period", count=cut)


async def serve(
    settings: InjectorSettings, on_ready: Callable[[int, int], None] = lambda _port, _metrics: None
) -> None:
    """Run an injector until SIGTERM or SIGINT. Raises an :class:`traffic_policy.errors.PodlaneError`."""
    access = find_access(settings.kubeconfig, settings.context, os.environ)
    if access is None:
        if settings.secret:
            raise ConfigError(
                "--secret: there is no API server to keep it. Start the injector in the cluster, name a file with "
                "--kubeconfig, or give --certificate and --key."
            )
        log.warning("there is no API server to ask: shared policies are not checked when Pods are created")
    injector = Injector(settings, access)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            await injector.run(signals, on_ready)
        except ExceptionGroup as group:
            ours = group.subgroup(PodlaneError)
            if ours is None:
                raise
            raise _first(ours) from None


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _keep_trimmed() -> None:
    """Return pages that have become free between others: each peak leaves some behind."""
    while True:
        await trio.sleep(_TRIM_S)
        trim()


def _tune() -> None:
    """Exempt existing objects from garbage collection: they are permanent. Bodies leave no holes in the heap."""
    unmap_large_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
