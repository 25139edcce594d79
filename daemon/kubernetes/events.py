"""Events on objects: ``kubectl describe`` shows them.

Nobody waits for them. A happening is left in a bounded table, and one task writes from that, one request at a time.
What does not fit is dropped.

They are Events of core/v1, as Kubernetes' own controllers write them (k8s.io/client-go/tools/record). events.k8s.io/v1
is the same object in the storage; it forbids ``count``, and what it offers instead (``series``, ``action``,
``related``) would show nothing more here. They are written by server-side apply: that makes an Event and changes it by
the same request, also when the API server has deleted it meanwhile, and a repeated request does no harm.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, event
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.kubernetes.event_series import EventSeries, Happening, Owner, Series
from daemon.log import Logger

_SPACING: Final = 0.1
"""Seconds between two requests, and between two looks at what there is to write: Events of a busy cluster must become
a load neither for its API server nor for the program that tells them."""
_LONGEST_NAME: Final = 230
"""Characters of an object's name in the name of an Event, which has 253 at most."""
_PASSING: Final = (0, 408, 409, 429)
"""Status codes of failures that may go by, beside those from 500 on; 0: there was no answer."""

log_some = Logger(spacing=60.0)


async def _its_owner(happening: Happening) -> Owner:
    return happening.owner


class EventWriter:
    """Events of one program. :meth:`run` writes them."""

    def __init__(
        self,
        api: ApiServer,
        component: str,
        wrote: Callable[[str], None] = lambda _: None,
        owner_of: Callable[[Happening], Awaitable[Owner]] = _its_owner,
    ) -> None:
        """``component`` is who tells. ``wrote`` is called with written, failed or dropped, for the metrics.
        ``owner_of`` finds the object to tell it on; it may raise :class:`ApiError`."""
        self._api = api
        self._component = component
        self._wrote = wrote
        self._owner_of = owner_of
        self._series = EventSeries()
        self._added = trio.Event()
        self._instance = socket.gethostname()[:128]

    def add(self, happening: Happening) -> None:
        """Take note of a happening, to be written later."""
        if self._series.add(happening, trio.current_time(), datetime.now(UTC)):
            self._added.set()
        else:
            self._wrote("dropped")

    async def run(self) -> None:
        """Write what is added, until cancelled."""
        while True:
            self._added = trio.Event()
            series = self._series.next()
            if series is None:
                await self._added.wait()
            elif series.due > trio.current_time():
                with trio.move_on_at(series.due):
                    await self._added.wait()
            else:
                await self._write(series)
            await trio.sleep(_SPACING)

    async def _write(self, series: Series) -> None:
        count = series.count
        try:
            owner = await self._owner_of(series.happening)
            document = event_document(series, owner, self._component, self._instance)
            await self._api.apply(event(series.happening.namespace, document["metadata"]["name"]), document)
        except NotFoundError:
            self._wrote("dropped")  # the object, or its namespace, is gone
        except ApiError as error:
            self._wrote("failed")
            log_some.warning("an Event cannot be written", namespace=series.happening.namespace, error=str(error))
            if error.status in _PASSING or error.status >= 500:
                self._series.failed(series, trio.current_time())
                return
        else:
            self._wrote("written")
        self._series.wrote(series, count, trio.current_time())


def event_document(series: Series, owner: Owner, component: str, instance: str) -> Mapping[str, Any]:
    """The Event (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ has both forms)."""
    happening = series.happening
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{owner.name[:_LONGEST_NAME].rstrip('.-')}.{series.id}",
            "namespace": happening.namespace,
        },
        "involvedObject": {
            "apiVersion": owner.api_version,
            "kind": owner.kind,
            "name": owner.name,
            "namespace": happening.namespace,
            "uid": owner.uid,
        },
        "type": "Warning" if happening.is_warning else "Normal",
        "reason": str(happening.reason),
        "message": happening.message,
        "source": {"component": component, "host": instance},
        "reportingComponent": component,
        "reportingInstance": instance,
        "firstTimestamp": _time(series.first),
        "lastTimestamp": _time(series.last),
        "count": series.count,
    }


def _time(when: datetime) -> str:
    """RFC 3339, in whole seconds as metav1.Time has them."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
