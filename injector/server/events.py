"""Events on the objects whose Pods are injected, skipped or refused: ``kubectl describe`` shows them.

Answers never wait for them. A review leaves its happening in a bounded table, and one task writes from that, one
request at a time. What does not fit is counted and dropped.

They are Events of core/v1, as Kubernetes' own controllers write them (k8s.io/client-go/tools/record). events.k8s.io/v1
is the same object in the storage; it forbids ``count``, and what it offers instead (``series``, ``action``,
``related``) would show nothing more here. They are written by server-side apply: that makes an Event and changes it by
the same request, also when the API server has deleted it meanwhile, and a repeated request does no harm.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, event, replica_set
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.log import Logger
from injector.pod.happenings import Happening, Owner
from injector.pod.pods import metadata_of
from injector.server.event_series import EventSeries, Series
from injector.server.metrics import InjectorMetrics

_SPACING: Final = 0.1
"""Seconds between two requests, and between two looks at what there is to write: Events of a busy cluster must become
a load neither for its API server nor for the answers."""
_COMPONENT: Final = "podlane-injector"
_LONGEST_OWNER: Final = 230
"""Characters of an object's name in the name of an Event, which has 253 at most."""
_MAX_OWNERS: Final = 1000
_PASSING: Final = (0, 408, 409, 429)
"""Status codes of failures that may go by, beside those from 500 on; 0: there was no answer."""

log_some = Logger(spacing=60.0)


class Events:
    """Events of one injector. :meth:`run` writes them."""

    def __init__(self, api: ApiServer, metrics: InjectorMetrics) -> None:
        self._api = api
        self._metrics = metrics
        self._series = EventSeries()
        self._added = trio.Event()
        self._owners: OrderedDict[str, Owner] = OrderedDict()
        self._instance = socket.gethostname()[:128]

    def add(self, happening: Happening | None) -> None:
        """Take note of a happening, to be written later; of None nothing is."""
        if happening is None:
            return
        if self._series.add(happening, trio.current_time(), datetime.now(UTC)):
            self._added.set()
        else:
            self._metrics.event("dropped")

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
            owner = await self._owner(series.happening)
            document = event_document(series, owner, self._instance)
            await self._api.apply(event(series.happening.namespace, document["metadata"]["name"]), document)
        except NotFoundError:
            self._metrics.event("dropped")  # the object, or its namespace, is gone
        except ApiError as error:
            self._metrics.event("failed")
            log_some.warning("an Event cannot be written", namespace=series.happening.namespace, error=str(error))
            if error.status in _PASSING or error.status >= 500:
                self._series.failed(series, trio.current_time())
                return
        else:
            self._metrics.event("written")
        self._series.wrote(series, count, trio.current_time())

    async def _owner(self, happening: Happening) -> Owner:
        """The object on which people look: of a ReplicaSet that belongs to another object, as a Deployment, that one.
        Raises :class:`ApiError`."""
        owner = happening.owner
        if (owner.api_version, owner.kind) != ("apps/v1", "ReplicaSet"):
            return owner
        if owner.uid in self._owners:
            self._owners.move_to_end(owner.uid)
            return self._owners[owner.uid]
        try:
            found = await self._api.get(replica_set(happening.namespace, owner.name))
        except NotFoundError:
            raise
        except ApiError as error:
            if error.status != 403:
                raise
            log_some.warning("Events stay on ReplicaSets", error=str(error))
            return owner
        if metadata_of(found).get("uid") != owner.uid:
            raise NotFoundError("There is another ReplicaSet of this name.", 404)
        self._owners[owner.uid] = upper = Owner.from_controller_of(found) or owner
        if len(self._owners) > _MAX_OWNERS:
            self._owners.popitem(last=False)
        return upper


def event_document(series: Series, owner: Owner, instance: str) -> Mapping[str, Any]:
    """The Event (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ has both forms)."""
    happening = series.happening
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{owner.name[:_LONGEST_OWNER].rstrip('.-')}.{series.id}",
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
        "reason": happening.reason.value,
        "message": happening.message,
        "source": {"component": _COMPONENT, "host": instance},
        "reportingComponent": _COMPONENT,
        "reportingInstance": instance,
        "firstTimestamp": _time(series.first),
        "lastTimestamp": _time(series.last),
        "count": series.count,
    }


def _time(when: datetime) -> str:
    """RFC 3339, in whole seconds as metav1.Time has them."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
