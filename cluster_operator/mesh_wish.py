"""In which namespaces a policy with ``spec.mesh`` is to have an EnvoyFilter, and what its status says of it. Pure.

An EnvoyFilter selects Pods by their labels, whatever their Envoy may do and whichever policy they have. Where Envoy may
not set marks, each connection that it should mark fails. So in a namespace there is none unless all Pods that it would
select can have it; without one, names are read from what Envoy sends, as for any Pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cluster_operator.conditions import condition_of, with_condition
from cluster_operator.pods import WatchedPod, labels_for_selectors
from traffic_policy.cluster.objects import ClusterPolicies, PolicyObject
from traffic_policy.mesh.owned import ROOT_NAMESPACE, owned_name

MESH_PROGRAMMED: Final = "MeshProgrammed"
_NAMED: Final = 3
"""Namespaces and obstacles that a message has at most."""
_REMEDY: Final = (
    "Give their template the annotation sidecar.istio.io/interceptionMode: TPROXY, with which Istio runs Envoy as root "
    "with NET_ADMIN, and create them again; or remove mesh, or select other Pods."
)


@dataclass(frozen=True, slots=True)
class MeshWish:
    """``namespaces`` are to have the object, for so many Pods each. ``unable``: namespace -> why it has none; there
    are ``relayed`` Pods whose sidecar takes no marks."""

    namespaces: Mapping[str, int] = field(default_factory=dict)
    unable: Mapping[str, str] = field(default_factory=dict)
    unable_reason: str = ""
    relayed: int = 0


@dataclass(frozen=True, slots=True)
class MeshState:
    """What became of it: whether it is so, the reason and the message of a condition."""

    so: str
    reason: str
    message: str


def mesh_wishes(
    policies: Iterable[PolicyObject], pods: Iterable[WatchedPod], namespaces: Mapping[str, Mapping[str, str]]
) -> dict[str, MeshWish]:
    """By UID, for all ``policies`` with ``spec.mesh``. ``namespaces``: labels by name."""
    known = ClusterPolicies(policies)
    asking = [each for each in known.all if each.mesh is not None]
    if not asking:
        return {}
    found = {each.uid: _Found() for each in asking}
    for pod in pods:
        if pod.envoy is None or not any(each.namespace in ("", pod.namespace) for each in asking):
            continue
        labels = labels_for_selectors(pod, namespaces)
        mine = [each for each in asking if each.is_for(labels)]
        if not mine:
            continue
        winner = known.verdict(labels).winner
        for each in mine:
            found[each.uid].add(each, pod, winner)
    return {uid: each.wish() for uid, each in found.items()}


@dataclass(slots=True)
class _Found:
    served: Counter[str] = field(default_factory=Counter)
    overruled: dict[str, str] = field(default_factory=dict)
    unable: dict[str, list[str]] = field(default_factory=dict)
    relayed: int = 0

    def add(self, policy: PolicyObject, pod: WatchedPod, winner: PolicyObject | None) -> None:
        assert pod.envoy is not None
        place = pod.namespace
        if place == ROOT_NAMESPACE:
            self.overruled[place] = f"An EnvoyFilter in {place} would be for Pods of all namespaces. Select others."
        elif winner is None or winner.uid != policy.uid or pod.own_policy:
            other = f"ConfigMap {pod.own_policy}" if pod.own_policy or winner is None else str(winner)
            self.overruled[place] = (
                f"Pod {place}/{pod.envoy.pod} has the labels, and another policy, {other}, whose classes the marks do "
                "not mean. Select Pods that no other policy is for."
            )
        elif not pod.envoy.marks:
            self.unable.setdefault(place, []).append(f"{place}/{pod.envoy.pod}")
        elif pod.relayed:
            self.relayed += 1
        else:
            self.served[place] += 1

    def wish(self) -> MeshWish:
        why = {
            place: f"Envoy of {_pods(len(names))}, as {min(names)}, may not set marks. {_REMEDY}"
            for place, names in self.unable.items()
        }
        reason = "ProxyMayNotMark" if why else "Overruled" if self.overruled else ""
        why = {**self.overruled, **why}
        free = {place: count for place, count in self.served.items() if place not in why}
        return MeshWish(dict(sorted(free.items())), dict(sorted(why.items())), reason, self.relayed)


def mesh_state(policy: PolicyObject, wish: MeshWish, problems: Mapping[str, str], waiting: Iterable[str]) -> MeshState:
    """What to say of a policy. ``problems``: namespace -> why its object could not be written; ``waiting``: those for
    which that is not known yet."""
    name, waits = owned_name(policy), set(waiting)
    if failed := {place: problems[place] for place in wish.namespaces if place in problems}:
        undefined = any(text == NO_DEFINITION for text in failed.values())
        return MeshState("False", "NoDefinition" if undefined else "Failed", _told(failed))
    if wish.unable:
        return MeshState("False", wish.unable_reason, f"Names are read in their place. {_told(wish.unable)}")
    aside = (
        f" {_pods(wish.relayed)} with a sidecar of Podlane are not served: it reads names itself."
        if wish.relayed
        else ""
    )
    if not wish.namespaces:
        return MeshState("True", "NoProxies", f"No Pod that an agent may hold has Istio's proxy.{aside}")
    if not waits.isdisjoint(wish.namespaces):
        return MeshState("False", "Pending", f"EnvoyFilter {name} is being written.")
    places = ", ".join(list(wish.namespaces)[:_NAMED]) + (" ..." if len(wish.namespaces) > _NAMED else "")
    served = sum(wish.namespaces.values())
    text = f"EnvoyFilter {name} in {places}: by it Envoy marks what {_pods(served)} send, and agents take its marks."
    return MeshState("True", "Programmed", text + aside)


NO_DEFINITION: Final = (
    "The cluster has no definition of EnvoyFilter (networking.istio.io/v1alpha3). Install Istio, or remove mesh."
)


def with_mesh(
    status: Mapping[str, Any], state: MeshState | None, before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """A status with what it says of the mesh; ``state`` None: nothing."""
    if state is None:
        return dict(status)
    return with_condition(status, MESH_PROGRAMMED, (state.so, state.reason, state.message), before, now)


def speaks_of_mesh(status: Mapping[str, Any]) -> bool:
    """Whether it does, which is wrong of a policy without ``spec.mesh``."""
    return bool(condition_of(status, MESH_PROGRAMMED))


def _told(reasons: Mapping[str, str]) -> str:
    """The commonest reasons, each once."""
    return " ".join(list(dict.fromkeys(reasons.values()))[:_NAMED])


def _pods(number: int) -> str:
    return f"{number} Pod" if number == 1 else f"{number} Pods"
