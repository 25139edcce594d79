"""Objects that many Pods share, read again after a while: Namespaces, and ConfigMaps with shared policies.

If the API server cannot be asked, what it said last counts: lanes stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, Resource
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.log import Logger

_FRESH_S: Final = 10.0
"""Seconds for which an object counts as it was read."""
_ABSENT_S: Final = 1.0
"""The same for one that was not there: a Pod is often created right after its ConfigMap."""
_AWAY_S: Final = 10.0
"""Seconds for which an API server is not asked that did not answer, where what it said last can be had."""

log_some = Logger(spacing=60.0)


@dataclass(frozen=True, slots=True)
class _Held:
    document: Mapping[str, Any] | None
    until: float


class CachedObjects:
    """Reads objects."""

    def __init__(self, api: ApiServer, now: Callable[[], float] = trio.current_time) -> None:
        """``now`` is a clock in seconds."""
        self._api = api
        self._now = now
        self._held: dict[Resource, _Held] = {}
        self._away_until = 0.0

    async def get(self, resource: Resource) -> Mapping[str, Any] | None:
        """The object; None: it is not there. Raises :class:`ApiError` if that is not known, nor was before."""
        held, now = self._held.get(resource), self._now()
        if held is not None and now < max(held.until, self._away_until):
            return held.document
        document: Mapping[str, Any] | None
        try:
            document = await self._api.get(resource)
        except NotFoundError:
            document = None
        except ApiError as error:
            if held is None:
                raise
            log_some.warning("an object is used as it was read before", object=str(resource), error=str(error))
            self._away_until = self._now() + _AWAY_S
            return held.document
        self._held[resource] = _Held(document, self._now() + (_FRESH_S if document is not None else _ABSENT_S))
        return document

    def keep(self, resources: Collection[Resource]) -> None:
        """Forget all others."""
        for gone in self._held.keys() - set(resources):
            del self._held[gone]
