"""All objects of a collection, kept as the API server has them: a list, then a watch.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes defines both, and
k8s.io/client-go/tools/cache (reflector.go) is the model.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, ObjectCollection
from daemon.kubernetes.errors import ApiError, GoneError, NotFoundError
from daemon.log import Logger

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 30.0
"""Seconds before a failed request is tried again."""
_SHORTEST_WATCH_S: Final = 300
"""A watch lasts so many seconds, or up to twice as many, so that clients do not come all at once."""
_UNDEFINED_S: Final = 10.0
"""Seconds before the API server is asked again for a kind of which it has no definition."""
_BUSY: Final = 429

log = Logger()

Objects = Mapping[str, Mapping[str, Any]]
"""By their UID."""
Needed = Callable[[Mapping[str, Any]], Mapping[str, Any]]


async def follow(
    api: ApiServer,
    collection: ObjectCollection,
    changed: Callable[[Objects], None],
    needed: Needed = lambda whole: whole,
    *,
    defined: bool = True,
) -> None:
    """Call ``changed`` with all objects after the first list, and after each change, until cancelled.

    Of each object is kept what ``needed`` leaves, and other changes are none.
    While the API server does not answer nothing is called: objects stay as they were known last. ``defined``
    False: the API server may have no definition of their kind, and so no objects.
    """
    mirror = _Mirror(changed, needed)
    pause = _FIRST_PAUSE_S
    while True:
        try:
            if not mirror.version:
                await mirror.list(api.pages(collection))
            began = mirror.version
            async with api.watch(collection, mirror.version, _watch_seconds()) as watch:
                while (change := await watch.next()) is not None:
                    mirror.take(*change)
                    pause = _FIRST_PAUSE_S
            if mirror.version != began:
                continue  # it ended as it should; one that ends without anything may do so at once
        except GoneError as error:
            mirror.version = ""
            log.info("listed again", kind=str(collection), reason=str(error))
        except ApiError as error:
            if isinstance(error, NotFoundError) and not defined:
                mirror.replace({}, "")
                await trio.sleep(_UNDEFINED_S)
                continue
            if error.status not in (0, _BUSY):
                mirror.version = ""  # it does not like the question, which it may have heard before its restoration
            log.warning("what the API server says is not known now", kind=str(collection), error=str(error))
        await trio.sleep(pause * random.uniform(0.8, 1.2))
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def _watch_seconds() -> int:
    return random.randint(_SHORTEST_WATCH_S, 2 * _SHORTEST_WATCH_S)


class _Mirror:
    """The objects, and the resourceVersion at which they were so; it is empty before the first list."""

    def __init__(self, changed: Callable[[Objects], None], needed: Needed) -> None:
        self.version = ""
        self._needed = needed
        self._objects: dict[str, Mapping[str, Any]] = {}
        self._changed = changed

    async def list(self, pages: AsyncIterator[tuple[list[dict[str, Any]], str]]) -> None:
        """Everything anew. Of each page is kept what is needed before the next one is read."""
        found: dict[str, Mapping[str, Any]] = {}
        version = ""
        async for page, version in pages:  # noqa: B007 - the last one is used
            found.update((_about(each, "uid"), self._needed(each)) for each in page)
        self.replace(found, version)

    def replace(self, objects: dict[str, Mapping[str, Any]], version: str) -> None:
        self._objects, self.version = objects, version
        self._changed(self._objects)

    def take(self, kind: str, found: Mapping[str, Any]) -> None:
        """A change of a watch."""
        self.version = _about(found, "resourceVersion") or self.version
        if kind == "BOOKMARK":
            return
        uid = _about(found, "uid")
        old = self._objects.get(uid)
        new = None if kind == "DELETED" else self._needed(found)
        if new is None:
            self._objects.pop(uid, None)
        else:
            self._objects[uid] = new
        if new != old:
            self._changed(self._objects)


def _about(found: Mapping[str, Any], key: str) -> str:
    metadata = found.get("metadata")
    return str(metadata.get(key, "")) if isinstance(metadata, Mapping) else ""
