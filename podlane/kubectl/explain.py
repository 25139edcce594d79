"""``kubectl podlane explain``: a Pod's policy, where each value comes from, and how it is enforced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from daemon.documents.codec import to_json
from daemon.documents.policy import EffectivePolicy, Limits
from daemon.documents.workloads import Workloads
from podlane.kubectl.cluster import Cluster
from podlane.kubectl.errors import ClusterError, NotThereError
from podlane.kubectl.holder import HeldBy
from podlane.kubectl.reach import Found, admin_port, document, no_agent
from podlane.text_output import bold, heading, prose, table
from traffic_policy.pod.agent import effective_for_agent
from traffic_policy.pod.annotations import EFFECTIVE, SHARED_POLICY_KEY
from traffic_policy.pod.effective import AnnotationsError, shared_policy_name
from traffic_policy.pod.governed import NOTHING, Governance, governed
from traffic_policy.pod.namespace import NO_RULES
from traffic_policy.pod.provenance import Origin, origins
from traffic_policy.settings import Enforce

_PROGRAMMED: Final = "programmed"
_TOLD: Final = {"LanesProgrammed": _PROGRAMMED, "LanesRefused": "refused", "LanesFailed": "failed"}
"""Reasons of the agent's Events, and the states that they tell of."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What there is to say of a Pod. ``state`` and ``reason`` are those that its agent tells; empty: not known.
    ``refusal``: why its annotations cannot be honoured. ``enforced`` None: nothing is in force, or it is not known."""

    found: Found
    values: tuple[Origin, ...] = ()
    refusal: str = ""
    warnings: tuple[str, ...] = ()
    state: str = ""
    reason: str = ""
    enforced: EffectivePolicy | None = None
    notes: tuple[str, ...] = ()


def explained(cluster: Cluster, found: Found) -> Explained:
    """Ask for all that is needed; what cannot be asked is noted. Raises nothing but for bugs."""
    said = Explained(found, notes=found.notes)
    if found.holder.who is HeldBy.NOBODY:
        return said
    said = _evaluated(cluster, said)
    if found.holder.who is HeldBy.AGENT and found.agent is None:
        return replace(_by_events(cluster, said), notes=tuple(dict.fromkeys((*said.notes, no_agent(found)))))
    try:
        with admin_port(cluster, found) as port:
            return _asked(port, said)
    except ClusterError as error:
        said = replace(said, notes=(*said.notes, f"{_kind(found)} cannot be asked. {error}"))
    return _by_events(cluster, said) if found.holder.who is HeldBy.AGENT else said


def _kind(found: Found) -> str:
    return "Its sidecar" if found.holder.who is HeldBy.SIDECAR else f"The agent of {found.node}"


def _evaluated(cluster: Cluster, said: Explained) -> Explained:
    """With the values that the annotations give, or why they give none."""
    found, asks = said.found, said.found.holder.asks
    if asks is not None and asks.refusal:
        return replace(said, refusal=asks.refusal)
    there = found.pod["metadata"].get("annotations") or {}
    if asks is None:
        return _evaluated_for_sidecar(cluster, said, there)
    annotations = asks.annotations
    rules, verdict = asks.rules, asks.verdict
    own = {name: text for name, text in annotations.items() if name in there}
    try:
        shared = _shared(cluster, found, annotations)
        policy = effective_for_agent(annotations, rules, shared=shared, base=verdict.base, caps=verdict.caps)
    except AnnotationsError as error:
        return replace(said, refusal=str(error))
    except ClusterError as error:
        return replace(said, notes=(*said.notes, str(error)))
    values = origins(own, rules, policy, shared, verdict.base)
    others = (f"{each.policy} is for it, too, but {each}" for each in verdict.overruled)
    return replace(said, values=values, warnings=policy.warnings, notes=(*said.notes, *others))


def _evaluated_for_sidecar(cluster: Cluster, said: Explained, annotations: Mapping[str, str]) -> Explained:
    """The same as its sidecar evaluates them, with what the operator has written there of the cluster's policies."""
    try:
        shared = _shared(cluster, said.found, annotations)
        policy = governed(annotations, shared=shared)
    except AnnotationsError as error:
        return replace(said, refusal=str(error))
    except ClusterError as error:
        return replace(said, notes=(*said.notes, str(error)))
    governance = Governance.read(annotations.get(EFFECTIVE, NOTHING))
    if governance.releases(annotations):
        return replace(said, warnings=policy.warnings)
    values = origins(annotations, NO_RULES, policy, shared, governance.base)
    return replace(said, values=values, warnings=policy.warnings)


def _shared(cluster: Cluster, found: Found, annotations: Mapping[str, str]) -> str | None:
    """The text of the shared policy that annotations name. Raises :class:`ClusterError`."""
    name = shared_policy_name(annotations)
    if name is None:
        return None
    try:
        text = cluster.get("configmap", name, namespace=found.namespace).get("data", {}).get(SHARED_POLICY_KEY)
    except NotThereError:
        return None  # which the evaluation tells
    except ClusterError as error:
        raise ClusterError(f"The shared policy {name} cannot be read. {error}") from None
    return text if isinstance(text, str) else None


def _asked(port: int, said: Explained) -> Explained:
    """With what the sidecar or agent behind a local port says. Raises :class:`ClusterError`."""
    if said.found.holder.who is HeldBy.SIDECAR:
        return replace(said, state=_PROGRAMMED, enforced=document(port, "/policy", EffectivePolicy))
    name = said.found.name
    workload = next((w for w in document(port, "/workloads", Workloads).workloads if w.name == name), None)
    if workload is None:
        return replace(said, notes=(*said.notes, "Its agent does not know it yet. Ask again in a moment."))
    said = replace(said, state=workload.state, reason=workload.reason, warnings=workload.warnings or said.warnings)
    if workload.enforce == Enforce.HOST:
        said = replace(said, notes=(*said.notes, "It is held at the node's end of its link."))
    elif workload.enforce_reason:
        said = replace(said, notes=(*said.notes, f"It is held at its own end. {workload.enforce_reason}"))
    if workload.marked_by:
        said = replace(said, notes=(*said.notes, f"{workload.marked_by} marks its connections by class (spec.mesh)."))
    if workload.budget:
        shared = f"of the budget of {workload.budget_of}, {workload.budget} for {workload.budget_pods} Pods of its node"
        said = replace(said, notes=(*said.notes, f"It has {workload.share} now, {shared}."))
    if workload.lost:
        said = replace(said, notes=(*said.notes, f"Missing, and put back at once: {', '.join(workload.lost)}."))
    if workload.state != _PROGRAMMED:
        return said
    return replace(said, enforced=document(port, "/policy", EffectivePolicy, name))


def _by_events(cluster: Cluster, said: Explained) -> Explained:
    """With the state that the agent's last Event tells of, which users of a namespace may read."""
    about = said.found.pod["metadata"]
    try:
        events = cluster.get(
            "events", f"--field-selector=involvedObject.uid={about['uid']}", namespace=said.found.namespace
        )["items"]
    except ClusterError as error:
        return replace(said, notes=(*said.notes, f"Its Events cannot be read. {error}"))
    told = [each for each in events if each.get("reason") in _TOLD]
    if not told:
        return said
    last = max(told, key=_time)
    return replace(said, state=_TOLD[last["reason"]], reason=f"{last['message']} (its Event of {_time(last)})")


def _time(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    times = series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime")
    return next((str(each) for each in times if each), "")


def explanation_lines(said: Explained) -> Iterator[str]:
    """For a terminal."""
    found = said.found
    place = f" on {found.node}" if found.node else ""
    yield heading(f"{found.name}{place}: held by {_who(found)}")
    yield from prose(found.holder.reason, "  ", "  ")
    if said.refusal:
        yield from ("", bold("Refused"))
        for line in said.refusal.splitlines():
            yield from prose(line, "  ", "    ")
    if said.state:
        told = f"{said.state}: {said.reason}" if said.reason not in ("", said.refusal) else said.state
        yield from prose(f"State: {told}", "  ", "    ")
    if said.values:
        yield ""
        values = [("what", "value", "from"), *((each.what, each.value, each.source) for each in said.values)]
        yield from (f"  {line}" for line in table(values, {0, 1, 2}))
    if (policy := said.enforced) is not None:
        yield ""
        yield bold(f"In force on {policy.interface} ({policy.datapath})")
        rows = [("class", "found by", "in the kernel", "tc class", "mark")]
        for each in policy.classes:
            rows.append((each.name, ", ".join(each.found_by), limits(each.in_force), each.handle, each.mark))
        yield from (f"  {line}" for line in table(rows, {0, 1, 2, 3, 4}))
        received = [each for each in policy.classes if each.received is not None]
        for each in received:
            assert each.received is not None
            kept = each.received.in_force or each.received.in_relay
            yield from prose(f"Of what arrives, {each.name} is held to {limits(kept)}.", "  ", "  ")
    notes = (*said.warnings, *(said.enforced.notes if said.enforced else ()), *said.notes)
    if notes:
        yield ""
        for note in dict.fromkeys(notes):
            yield from prose(note, "- ", "  ")


def _who(found: Found) -> str:
    if found.holder.who is not HeldBy.AGENT:
        return found.holder.who.value
    if found.agent is None:
        return "the agent of its node" if found.notes or not found.node else "nobody: there is no agent on its node"
    version = f", version {found.agent.version}" if found.agent.version else ""
    return f"the agent of its node ({found.agent.namespace}/{found.agent.name}{version})"


def limits(found: Limits | None) -> str:
    """``1Mbit to 50Mbit, priority 4``."""
    return "missing" if found is None else f"{found.rate} to {found.ceil}, priority {found.priority}"


def explanation_document(said: Explained) -> dict[str, Any]:
    """As data."""
    found = said.found
    return {
        "pod": found.name,
        "node": found.node,
        "held_by": {HeldBy.SIDECAR: "sidecar", HeldBy.AGENT: "agent", HeldBy.NOBODY: None}[found.holder.who],
        "because": found.holder.reason,
        "agent": None if found.agent is None else f"{found.agent.namespace}/{found.agent.name}",
        "state": said.state,
        "reason": said.reason,
        "refusal": said.refusal,
        "values": [{"what": each.what, "value": each.value, "from": each.source} for each in said.values],
        "in_force": None if said.enforced is None else to_json(said.enforced),
        "warnings": list(said.warnings),
        "notes": list(said.notes),
    }
