"""The policies of a cluster, by a watch of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, policies_of_cluster
from daemon.kubernetes.reflector import Objects, follow
from traffic_policy.cluster.kinds import KINDS
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject

_ABOUT: Final = ("name", "namespace", "uid", "generation", "creationTimestamp")


class PolicyWatch:
    """Follows TrafficPolicies and ClusterTrafficPolicies."""

    def __init__(self, api: ApiServer, changed: Callable[[], None]) -> None:
        """``changed`` is called after each change of :attr:`known`."""
        self.known: ClusterPolicies | None = None
        """None: not all kinds were read yet. A cluster without their definitions has none."""
        self._api = api
        self._changed = changed
        self._of_kind: dict[str, list[PolicyObject]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for kind in KINDS:
                saw = partial(self._saw, kind)
                nursery.start_soon(partial(follow, self._api, policies_of_cluster(kind), saw, needed, defined=False))

    def _saw(self, kind: str, objects: Objects) -> None:
        self._of_kind[kind] = [PolicyObject.from_object(kind, each) for each in objects.values()]
        if len(self._of_kind) == len(KINDS):
            self.known = ClusterPolicies(each for found in self._of_kind.values() for each in found)
            self._changed()


def needed(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is read of an object; a changed status is no change."""
    about = found.get("metadata")
    kept = {key: about[key] for key in _ABOUT if key in about} if isinstance(about, Mapping) else {}
    return {"metadata": kept, "spec": found.get("spec")}
