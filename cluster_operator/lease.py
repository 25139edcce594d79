"""Which of several operators works: the one that holds a Lease (coordination.k8s.io/v1).

As in client-go (k8s.io/client-go/tools/leaderelection): the holder renews it, and others take it when it was not
renewed for its duration by their own clock, so that clocks need not agree. The holder stops to work before that.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, Resource
from daemon.kubernetes.errors import ApiError, ConflictError, NotFoundError
from daemon.log import Logger

DURATION_S: Final = 15
"""Seconds for which a Lease is valid that is not renewed."""
_GIVES_UP_S: Final = 10.0
"""Seconds after which a holder that could not renew it stops."""
_RENEW_S: Final = 2.0
_REQUEST_S: Final = 5.0

log = Logger()


class LeaderLease:
    """One candidate."""

    def __init__(
        self, api: ApiServer, lease: Resource, identity: str, now: Callable[[], float] = trio.current_time
    ) -> None:
        """``now`` is a clock in seconds that never goes back."""
        self.leads = False
        self._api = api
        self._lease = lease
        self._identity = identity
        self._now = now
        self._seen: tuple[object, ...] | None = None
        self._seen_at = 0.0

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work whenever it holds the Lease, until cancelled; the work is cancelled when it is lost."""
        while True:
            while not await self._try():
                await trio.sleep(_RENEW_S * random.uniform(0.8, 1.2))
            log.info("this operator leads", lease=str(self._lease), identity=self._identity)
            async with self._holding() as scope:
                with scope:
                    await work()
            log.warning("another operator may lead now", lease=str(self._lease))

    @asynccontextmanager
    async def _holding(self) -> AsyncIterator[trio.CancelScope]:
        """A scope that is cancelled when the Lease is lost. At the end of the block it is given back."""
        scope = trio.CancelScope()
        self.leads = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew, scope)
            try:
                yield scope
            finally:
                self.leads = False
                nursery.cancel_scope.cancel()
                with trio.move_on_after(_REQUEST_S, shield=True):
                    await self._release()

    async def _renew(self, scope: trio.CancelScope) -> None:
        renewed = self._now()
        while self._now() < renewed + _GIVES_UP_S:
            await trio.sleep(_RENEW_S)
            with trio.move_on_after(_REQUEST_S):
                if await self._try():
                    renewed = self._now()
                elif self._held_by_another():
                    break
        scope.cancel()

    def _held_by_another(self) -> bool:
        return self._seen is not None and self._seen[0] not in ("", self._identity)

    async def _try(self) -> bool:
        """Take or renew it; whether this candidate holds it now."""
        try:
            try:
                found = await self._api.get(self._lease)
            except NotFoundError:
                found = {}
            spec = found.get("spec") or {}
            holder = str(spec.get("holderIdentity") or "")
            seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
            if seen != self._seen:
                self._seen, self._seen_at = seen, self._now()
            if holder not in ("", self._identity) and self._now() < self._seen_at + DURATION_S:
                return False
            await self._write(found, self._identity, holder)
        except ConflictError:
            return False  # another one was quicker
        except ApiError as error:
            log.warning("the Lease cannot be taken or renewed", lease=str(self._lease), error=str(error))
            return False
        return True

    async def _release(self) -> None:
        try:
            found = await self._api.get(self._lease)
            if (found.get("spec") or {}).get("holderIdentity") == self._identity:
                await self._write(found, "", self._identity)
        except ApiError as error:
            log.warning("the Lease could not be given back; it ends by itself", error=str(error))

    async def _write(self, found: Mapping[str, Any], identity: str, before: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(found.get("spec") or {})
        changed = identity not in ("", before)
        spec |= {"holderIdentity": identity, "renewTime": now, "leaseDurationSeconds": DURATION_S if identity else 1}
        if changed or "acquireTime" not in spec:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + bool(found)
        about = found.get("metadata") or {"name": self._lease.name, "namespace": self._lease.namespace}
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        made = await self._api.update(self._lease, {**kind, "metadata": about, "spec": spec})
        spec = made.get("spec") or {}
        self._seen = (str(spec.get("holderIdentity") or ""), spec.get("renewTime"), spec.get("leaseTransitions"))
        self._seen_at = self._now()
