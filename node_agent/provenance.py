"""Where each value of a workload's policy comes from, and which policies are for it and do not count. Pure.

Only evaluated when somebody asks: the same again as when its lanes were made, which nobody needs to remember.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from traffic_policy.cluster.objects import NO_VERDICT, PolicyVerdict
from traffic_policy.errors import PodlaneError
from traffic_policy.pod.agent import effective_for_agent
from traffic_policy.pod.composition import BasePolicy
from traffic_policy.pod.namespace import NO_RULES, NamespaceRules
from traffic_policy.pod.provenance import Origin, origins
from traffic_policy.selection import selected

if TYPE_CHECKING:
    from fleet_api.desired import DesiredState, FleetPolicy


@dataclass(frozen=True, slots=True)
class PodSources:
    """What a Pod's policy is made of: its ``own`` annotations about limits, what its namespace says, the text of the
    shared policy that they name, and the verdict about the cluster's policies. ``labels`` are those by which a control
    plane's policies select it."""

    own: Mapping[str, str] = field(default_factory=dict)
    rules: NamespaceRules = NO_RULES
    shared: str | None = None
    verdict: PolicyVerdict = NO_VERDICT
    labels: Mapping[str, str] = field(default_factory=dict)

    def origins(self, document: Mapping[str, object] | None = None) -> tuple[Origin, ...]:
        """``document``: the control plane's policy that it has. Empty if its policy cannot be honoured."""
        base = self.verdict.base if document is None else BasePolicy(document)
        annotations = {**self.rules.missing(self.own), **self.own}
        try:
            policy = effective_for_agent(
                annotations, self.rules, shared=self.shared, base=base, caps=self.verdict.caps
            )  # fmt: skip
        except PodlaneError:
            return ()
        return origins(self.own, self.rules, policy, self.shared, base)


def provenance(sources: PodSources | None, fleet_policy: str, state: DesiredState | None) -> dict[str, object]:
    """``values`` (what, value, from) and ``overruled`` (whole sentences), as ``kubectl podlane explain`` prints them.

    ``sources`` None: an entry of a file, of which only what a control plane says is known. ``fleet_policy`` is the
    control plane's policy that the workload has (empty: none of these), ``state`` all of them.
    """
    known = {} if state is None else state.policies
    policy = known.get(fleet_policy)
    found: tuple[Origin, ...] = ()
    if policy is not None:
        found = (sources or PodSources()).origins(json.loads(policy.document))
    elif sources is not None and not fleet_policy:
        found = sources.origins()
    return {
        "values": [{"what": each.what, "value": each.value, "from": each.source} for each in found],
        "overruled": [] if sources is None else list(_overruled(sources, policy, known)),
    }


def _overruled(
    sources: PodSources, winner: FleetPolicy | None, known: Mapping[str, FleetPolicy]
) -> Iterator[str]:  # fmt: skip
    if winner is None:
        yield from (f"{each.policy} is for it, too, but {each}" for each in sources.verdict.overruled)
    rest = {name: each for name, each in known.items() if each is not winner}
    while (other := selected(rest.values(), sources.labels)) is not None:
        del rest[other.name]
        yield f"The control plane's policy {other.name} is for it, too, but {_why(other, winner)}."


def _why(other: FleetPolicy, winner: FleetPolicy | None) -> str:
    if winner is None:
        return "annotations and the cluster's own policies go first"
    fewer = len(other.selector) + len(other.nodes) < len(winner.selector) + len(winner.nodes)
    return f"{winner.name} {'names more labels' if fewer else 'sorts first of those with as many labels'}"
