"""Namespaces with a short-lived cache, so that many Pods cause few requests.

As with shared policies, what was read is used for some minutes more if the API server cannot be reached. Without an
earlier answer a review fails, since a maximum of the namespace could be missed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, namespace
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.log import Logger
from injector.errors import NamespaceError
from injector.pod.pods import annotations_of, labels_of
from traffic_policy.cluster.objects import ClusterPolicies, PodLabels
from traffic_policy.pod.annotations import PREFIX
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules

_STALE_SECONDS: Final = 600.0
_MAX_ENTRIES: Final = 1000

log = Logger()


@dataclass(frozen=True, slots=True)
class _Read:
    annotations: Mapping[str, Any]
    labels: Mapping[str, Any]
    at: float


class Namespaces:
    """Reads what Namespaces say; ``api`` is None without an API server, and no namespace says anything then.

    ``policies`` gives those of the cluster, None if they are not known.
    """

    def __init__(
        self,
        api: ApiServer | None,
        ttl: float,
        now: Callable[[], float] = trio.current_time,
        policies: Callable[[], ClusterPolicies | None] = lambda: None,
    ) -> None:
        self._api = api
        self._ttl = ttl
        self._now = now
        self._policies = policies
        self._cache: OrderedDict[str, _Read] = OrderedDict()
        self._locks: dict[str, trio.Lock] = {}

    async def rules(self, name: str, labels: Mapping[str, str], *, enforced: bool) -> NamespaceRules:
        """What holds for a Pod of a namespace that has these labels. Raises :class:`NamespaceError` if that cannot be
        found out, and :class:`AnnotationsError` if the namespace has wrong annotations."""
        if self._api is None:
            return NamespaceRules(enforced=True) if enforced else NO_RULES
        read = await self._read(self._api, name)
        rules = NamespaceRules.from_annotations(read.annotations, read.labels, enforced=enforced)
        policies = self._policies()
        if policies is None:
            return rules
        return replace(rules, verdict=policies.verdict(PodLabels(name, read.labels, labels)))

    async def _read(self, api: ApiServer, name: str) -> _Read:
        lock = self._locks.setdefault(name, trio.Lock())
        try:
            async with lock:  # concurrent reviews share one request
                held = self._cache.get(name)
                if held is None or self._now() >= held.at + self._ttl:
                    held = await self._ask(api, name, held)
                return held
        finally:
            if not lock.locked():
                self._locks.pop(name, None)

    async def _ask(self, api: ApiServer, name: str, held: _Read | None) -> _Read:
        try:
            found = await api.get(namespace(name))
        except NotFoundError:
            found = {}
        except ApiError as error:
            if held is not None and self._now() < held.at + self._ttl + _STALE_SECONDS:
                log.warning("a namespace is used as it was read before", namespace=name, error=str(error))
                return held
            raise NamespaceError(
                f"The namespace {name} cannot be read now, so that it is not known what its Pods may have. {error} "
                "Try again."
            ) from None
        self._cache[name] = read = _Read(_ours(annotations_of(found)), labels_of(found), self._now())
        self._cache.move_to_end(name)
        if len(self._cache) > _MAX_ENTRIES:
            self._cache.popitem(last=False)
        return read


def _ours(found: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in found.items() if isinstance(key, str) and key.startswith(PREFIX)}
