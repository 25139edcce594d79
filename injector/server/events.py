"""Events on the objects whose Pods are injected, skipped or refused.

Answers never wait for them: :mod:`daemon.kubernetes.events` writes them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from daemon.kubernetes.api import ApiServer, replica_set
from daemon.kubernetes.errors import ApiError, NotFoundError
from daemon.kubernetes.event_series import Happening, Owner
from daemon.kubernetes.events import EventWriter
from daemon.log import Logger
from injector.pod.happenings import controller_of
from injector.pod.pods import metadata_of
from injector.server.metrics import InjectorMetrics

_MAX_OWNERS: Final = 1000

log_some = Logger(spacing=60.0)


class Events:
    """Events of one injector. :meth:`run` writes them."""

    def __init__(self, api: ApiServer, metrics: InjectorMetrics) -> None:
        self._api = api
        self._owners: OrderedDict[str, Owner] = OrderedDict()
        self._writer = EventWriter(api, "podlane-injector", metrics.event, self._owner)

    def add(self, happening: Happening | None) -> None:
        """Take note of a happening, to be written later; of None nothing is."""
        if happening is not None:
            self._writer.add(happening)

    async def run(self) -> None:
        """Write what is added, until cancelled."""
        await self._writer.run()

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
        self._owners[owner.uid] = upper = controller_of(found) or owner
        if len(self._owners) > _MAX_OWNERS:
            self._owners.popitem(last=False)
        return upper
