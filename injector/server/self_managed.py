"""Self-signed certificates in a Secret that all replicas share; :mod:`.certificates` decides the next step.

There is no leader. The first replica to see that a step is due writes the Secret with the resourceVersion that it has
read; a later one gets a conflict, reads again and finds the step done. The webhook configurations are read *before* the
Secret and written with their resourceVersion: then what is written comes from a Secret at least as new as any that
another replica wrote from, and an old bundle never replaces a newer one.

A Secret that was deleted, emptied or damaged is written again from memory, so that no replica serves an untrusted
certificate. A replica with nothing in memory makes new certificates, and keeps the authorities trusted that are in the
webhook configurations: another replica may serve certificates that they signed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final

import trio

from daemon.errors import CertificateError
from daemon.kubernetes.api import ApiServer, Resource, secret, webhook_configuration
from daemon.kubernetes.errors import ApiError, ConflictError, NotFoundError
from daemon.log import Logger
from injector.server.certificates import AUTHORITIES, Certificates, Lifetimes, Step, next_step, split_bundle, take_step
from injector.server.metrics import InjectorMetrics
from injector.server.tls import ServerTls

_LONGEST_PAUSE: Final = 5.0
"""Seconds between two checks (three small GETs): damage is repaired before many Pods are refused."""
_LOOKS_PER_OVERLAP: Final = 5
"""The interval of all replicas while a new authority is not used yet, so that all have it well before."""
_FIRST_RETRY: Final = 1.0
_LONGEST_RETRY: Final = 30.0
_ATTEMPTS: Final = 5
"""Conflicts in a row after which they are reported; each means that another replica made progress."""
_CERT_MANAGER: Final = "cert-manager.io/certificate-name"
"""The annotation that identifies cert-manager's Secrets."""

log = Logger()


@dataclass(frozen=True, slots=True)
class Place:
    """The Secret, its DNS names, and the webhook configurations that must trust it (empty: none)."""

    namespace: str
    secret: str
    names: tuple[str, ...]
    mutating: str = ""
    validating: str = ""

    @property
    def configurations(self) -> tuple[Resource, ...]:
        named = (("mutating", self.mutating), ("validating", self.validating))
        return tuple(webhook_configuration(kind, name) for kind, name in named if name)


class SelfManaged:
    """Keeps Secret, served certificate and ``caBundle`` consistent, for one of possibly several replicas."""

    def __init__(
        self,
        api: ApiServer,
        place: Place,
        lifetimes: Lifetimes,
        tls: ServerTls,
        metrics: InjectorMetrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._place = place
        self._lifetimes = lifetimes
        self._tls = tls
        self._metrics = metrics
        self._now = now
        self._trusted: tuple[frozenset[bytes], datetime] | None = None
        self._held: Certificates | None = None

    async def run(self, on_state: Callable[[str | None], None]) -> None:
        """Check periodically, until cancelled. ``on_state`` gets the problem, or None if all is in order."""
        retry = _FIRST_RETRY
        while True:
            try:
                await self.reconcile()
            except (ApiError, CertificateError) as error:
                on_state(str(error))
                log.error("the certificates cannot be kept", error=str(error), again_in=retry)
                await trio.sleep(retry)
                retry = min(retry * 2, _LONGEST_RETRY)
            else:
                on_state(None)
                retry = _FIRST_RETRY
                await trio.sleep(min(_LONGEST_PAUSE, self._lifetimes.overlap.total_seconds() / _LOOKS_PER_OVERLAP))

    async def reconcile(self) -> None:
        """Take the steps that are due. Raises :class:`ApiError` or :class:`CertificateError`."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._reconcile()
            except ConflictError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

    async def _reconcile(self) -> None:
        configurations, missing = await self._read_configurations()
        stored, held, damaged = await self._read_secret()
        if stored is None:
            if missing and not configurations:
                raise _nobody_asks(missing)  # uninstalled: a Secret made now would stay for ever
            stored = await self._make_secret()
        if held is None and self._held is not None:
            held = self._held
            stored = await self._store(held, stored)
            log.warning("certificates restored", secret=self._place.secret)
        while True:
            step, reason = next_step(
                held, self._now(), self._place.names, self._lifetimes, self._trusted_since(held, configurations)
            )
            if step is Step.KEEP:
                break
            others = damaged + b"".join(_bundles(configurations.values()))
            held = take_step(step, held, self._now(), self._place.names, self._lifetimes, others)
            stored = await self._store(held, stored)
            log.info("certificates changed", step=str(step), because=reason, secret=self._place.secret)
        assert held is not None, "what is missing has been made"
        self._held = held
        try:
            await self._publish(held, configurations)
        finally:
            self._serve(held)
        if missing:
            raise _nobody_asks(missing)

    async def _read_configurations(self) -> tuple[dict[Resource, dict[str, Any]], list[Resource]]:
        found, missing = {}, []
        for resource in self._place.configurations:
            try:
                found[resource] = await self._api.get(resource)
            except NotFoundError:
                missing.append(resource)
        return found, missing

    async def _read_secret(self) -> tuple[dict[str, Any] | None, Certificates | None, bytes]:
        """The stored Secret, its parsed content, and its raw data if that is damaged."""
        try:
            stored = await self._api.get(self._secret)
        except NotFoundError:
            return None, None, b""
        if _CERT_MANAGER in (stored.get("metadata", {}).get("annotations") or {}):
            raise CertificateError(
                f"Secret {self._place.secret} is cert-manager's. Name another with --secret, or mount it and name its "
                "files with --certificate and --key."
            )
        data = _decoded(stored)
        if not data:
            return stored, None, b""
        try:
            return stored, Certificates.from_data(data), b""
        except CertificateError as error:
            log.warning("the Secret is damaged", secret=self._place.secret, error=str(error))
            return stored, None, b"\n".join(data[key] for key in AUTHORITIES if key in data)

    @property
    def _secret(self) -> Resource:
        return secret(self._place.namespace, self._place.secret)

    async def _make_secret(self) -> dict[str, Any]:
        """Create it empty: its resourceVersion then decides which replica fills it."""
        metadata = {"name": self._place.secret, "namespace": self._place.namespace}
        document = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata}
        return await self._api.apply(self._secret, document)

    async def _store(self, held: Certificates, stored: Mapping[str, Any]) -> dict[str, Any]:
        data = {key: base64.b64encode(value).decode() for key, value in held.to_data().items()}
        return await self._api.update(self._secret, {**stored, "data": data})

    def _serve(self, held: Certificates) -> None:
        changed = self._tls.use(held.serving.certificate, held.serving.key)
        self._metrics.expires("authority", held.authority.expires)
        self._metrics.expires("serving", held.serving.expires)
        if changed:
            self._metrics.loaded("loaded")
            log.info("a new certificate is served", expires=held.serving.expires.isoformat())

    def _trusted_since(
        self, held: Certificates | None, configurations: Mapping[Resource, Mapping[str, Any]]
    ) -> datetime | None:
        """The time since which this replica has seen the whole bundle in all webhook configurations, None if it is not
        there."""
        if held is None:
            return None
        bundle = split_bundle(held.bundle)
        if not all(bundle <= trusted for c in configurations.values() for trusted in _trusted_by(c)):
            self._trusted = None
        elif self._trusted is None or self._trusted[0] != bundle:
            self._trusted = bundle, self._now()
        return self._trusted[1] if self._trusted else None

    async def _publish(self, held: Certificates, configurations: Mapping[Resource, Mapping[str, Any]]) -> None:
        wanted = split_bundle(held.bundle)
        for resource, configuration in configurations.items():
            behind = [
                webhook["name"]
                for webhook, trusted in zip(_webhooks(configuration), _trusted_by(configuration), strict=True)
                if trusted != wanted
            ]
            if not behind:
                continue
            bundle = base64.b64encode(held.bundle).decode()
            await self._api.patch(
                resource,
                {
                    "metadata": {"resourceVersion": configuration["metadata"]["resourceVersion"]},
                    # Merged by name (k8s.io/api, patchMergeKey of webhooks); the other fields stay unchanged.
                    "webhooks": [{"name": name, "clientConfig": {"caBundle": bundle}} for name in behind],
                },
            )
            log.info("the webhook configuration trusts the certificates", configuration=str(resource))
        if self._trusted is None or self._trusted[0] != wanted:
            self._trusted = wanted, self._now()


def _webhooks(configuration: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return configuration.get("webhooks") or []


def _trusted_by(configuration: Mapping[str, Any]) -> Iterable[frozenset[bytes]]:
    """For each webhook, the certificates in its ``caBundle``."""
    return map(split_bundle, _bundles([configuration]))


def _bundles(configurations: Iterable[Mapping[str, Any]]) -> Iterable[bytes]:
    """The ``caBundle`` of each webhook; empty if it is invalid."""
    for webhook in chain.from_iterable(map(_webhooks, configurations)):
        try:
            yield base64.b64decode(webhook["clientConfig"].get("caBundle") or "")
        except binascii.Error:
            yield b""


def _nobody_asks(missing: Iterable[Resource]) -> NotFoundError:
    return NotFoundError(
        f"There are no {' and no '.join(map(str, missing))}: no API server asks this injector. "
        "Create them, or name others with --mutating-webhook and --validating-webhook.", 404
    )  # fmt: skip


def _decoded(stored: Mapping[str, Any]) -> dict[str, bytes]:
    decoded = {}
    for key, value in (stored.get("data") or {}).items():
        try:
            decoded[key] = base64.b64decode(value)
        except binascii.Error:
            decoded[key] = b""
    return decoded
