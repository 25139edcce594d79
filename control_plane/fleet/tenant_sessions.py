"""The streams of one tenant's agents, and what its log says of them. All in the gateway's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.certificates.identity import AgentIdentity
from control_plane.domain.events import (
    AgentEnrolled,
    AgentRevoked,
    ClusterRemoved,
    Event,
    PolicyEvent,
    PolicyPublished,
    RolloutAdvanced,
    RolloutResumed,
)
from control_plane.domain.rollout_gates import Traffic
from control_plane.domain.tenant import Policy, Tenant
from control_plane.fleet.agent_status import AgentStatus, FleetStatus, RolloutTraffic
from control_plane.fleet.awaited import AwaitedAgents
from control_plane.fleet.credentials import Issuer
from control_plane.fleet.delivery import Delivery
from control_plane.fleet.figures import SECONDS, LaneRow, LaneSeries
from control_plane.fleet.hearing import known_lanes
from control_plane.fleet.names.hearing import heard_hits, heard_names
from control_plane.fleet.names.seen import MatchPlace
from control_plane.fleet.questions import Reply
from control_plane.fleet.session import EXPIRED, REPLACED, REVOKED, AgentSession
from control_plane.gateway.rpc import GrpcStatus
from daemon.log import Logger
from fleet_api.agent_pb2 import Credentials, LaneSum, NamesSeen, Question
from traffic_policy.match_key import document_key

_BEFORE: Final = 60
"""Seconds before a rollout over which its policy's traffic is what it is compared with."""
_AT_ONCE: Final = 200
"""Agents that are told without looking at what others want."""

log = Logger(spacing=10.0)
Post = Callable[[Callable[[], None]], None]
"""Has something done in the gateway's thread, soon."""
ReadOn = Callable[[str, Callable[[], None]], None]
"""Has a tenant's log read to its end, and :meth:`TenantSessions.happened` called; then calls, in any thread."""


class TenantSessions:
    """What happens in the log is told to :meth:`happened`; sessions ask and tell the rest."""

    def __init__(self, name: str, fleet: FleetStatus, issuer: Issuer, post: Post, read_on: ReadOn) -> None:
        self.name = name
        self._fleet = fleet
        self.status = fleet.agents(name)
        self._tenant = Tenant(name)
        self.delivery = Delivery(self._tenant)
        self._sessions: dict[tuple[str, str], AgentSession] = {}
        self._issuer = issuer
        self._post = post
        self._read_on = read_on
        self._traces = fleet.traces
        self._awaited = AwaitedAgents(name, fleet.traces)
        self._untold: Iterator[AgentSession] | None = None
        self._matches: dict[tuple[str, int], frozenset[MatchPlace]] = {}
        """Of revisions, by policy and number."""

    @property
    def now(self) -> float:
        """Unix seconds."""
        return self._issuer.clock()

    def admits(self, identity: AgentIdentity) -> bool:
        """Whether the agent belongs to its cluster, by an enrolment that was not revoked."""
        cluster = self._tenant.clusters.get(identity.cluster) if self._tenant.open else None
        agent = cluster.agents.get(identity.node) if cluster else None
        return agent is not None and agent.serial == identity.enrolment

    def wait(self, session: AgentSession) -> None:
        """Call :meth:`AgentSession.caught_up` after the log was read."""
        self._read_on(self.name, lambda: self._post(session.caught_up))

    def overlapping_roots(self) -> Credentials | None:
        """All roots, while one is being replaced by another."""
        return self._issuer.overlapping_roots()

    def issue(self, identity: AgentIdentity, key: ec.EllipticCurvePublicKey) -> tuple[Credentials, float]:
        """The next certificate, and when it expires."""
        return self._issuer.issue(identity, key)

    def came(self, session: AgentSession) -> None:
        """It is the node's connection from now on."""
        key = (session.identity.cluster, session.identity.node)
        before = self._sessions.get(key)
        self._sessions[key] = session
        if before is not None:
            before.end(GrpcStatus.CANCELLED, REPLACED)
        status = session.status
        status.connected, status.since, status.expires = True, self.now, session.expires
        status.epoch = self._fleet.next_epoch()
        self.status.agents[key] = status
        self.changed(session)

    def left(self, session: AgentSession) -> None:
        """Its call is over."""
        key = (session.identity.cluster, session.identity.node)
        if self._sessions.get(key) is session:
            del self._sessions[key]
            session.status.connected, session.status.since = False, self.now
            self._silent(session.identity)
            self._awaited.left(key)
            self.changed(session)

    def changed(self, session: AgentSession) -> None:
        """Its status is not as it was."""
        identity = session.identity
        if self.status.agents.get((identity.cluster, identity.node)) is session.status:
            self._fleet.changed(self.name, identity.cluster, identity.node, session.status)

    def elsewhere(self, cluster: str, node: str, status: AgentStatus) -> None:
        """Another process says this of an agent. If it has moved there since, its connection here is over; one that was
        asked to move ends it itself, when it has all there."""
        key = (cluster, node)
        known = self.status.agents.get(key)
        if known is not None and (known.epoch > status.epoch or (known.epoch == status.epoch and not known.process)):
            return
        if known is not None and known.process == status.process:
            # Of these it tells apart.
            status.traffic, status.reported, status.details = known.traffic, known.reported, known.details
        self.status.agents[key] = status
        session = self._sessions.get(key)
        if session is None:
            return
        self._silent(session.identity)
        if not session.moving:
            del self._sessions[key]
            session.end(GrpcStatus.CANCELLED, REPLACED)

    def summed_elsewhere(self, second: int, sums: Mapping[str, Sequence[LaneRow]]) -> None:
        """Another process has heard this in a second (Unix time), of each cluster and, without a name, of all."""
        if abs(second - self.now) > SECONDS:
            return  # its clock, or ours, is wrong
        for cluster, rows in sums.items():
            if not cluster:
                self.status.figures.add_elsewhere(second, rows)
            elif cluster in self._tenant.clusters and (apart := self.status.cluster_figures(cluster)) is not None:
                apart.add_elsewhere(second, rows)

    def process_gone(self, process: str, since: float) -> None:
        """Another process has ended: its agents are away until they are elsewhere."""
        for status in list(self.status.agents.values()):
            if status.process == process and status.connected:
                status.connected, status.since = False, since

    def answered(self, session: AgentSession, revision: int) -> None:
        """It has said what became of a revision."""
        self._awaited.answered((session.identity.cluster, session.identity.node), revision)

    def reported(self, session: AgentSession, lanes: Sequence[LaneSum]) -> None:
        """It has said what went through lanes in the last second."""
        second, agent = int(self.now), session.identity.agent
        self.status.figures.add(second, agent, lanes)
        if (apart := self.status.cluster_figures(session.identity.cluster)) is not None:
            apart.add(second, agent, lanes)
        for name, traffic in self.status.traffic.items():
            rollout = self._tenant.policies[name].rollout
            labels = self._tenant.labels_at(agent, session.status.labels)
            if rollout is not None and rollout.reaches(name, agent, labels):
                traffic.now = traffic.now.plus(_traffic(each for each in lanes if each.policy == name))

    @property
    def names_every(self) -> int:
        """Seconds between two messages of an agent about names."""
        return self.status.names.every(self.now, len(self._sessions))

    def saw(self, session: AgentSession, names: NamesSeen) -> None:
        """It has said which names its connections had. Raises :class:`RpcError`, and takes nothing then."""
        identity, now = session.identity, self.now
        heard, hits = heard_names(identity.cluster, names), list(heard_hits(names))
        self.status.names.add(now, (identity.cluster, identity.node), heard)
        self.status.names.hit(now, hits)

    def happened(self, position: int, events: Sequence[Event]) -> None:
        """Take in events; the first has this position. Those that are known already are left out."""
        with self._traces.project(self.name, position, position + len(events) - 1):
            self._happened(position, events)

    def _happened(self, position: int, events: Sequence[Event]) -> None:
        revision = self._tenant.revision
        changed = []
        for number, event in enumerate(events, position):
            if number == self._tenant.position + 1:
                self._tenant.apply(event)
                if isinstance(event, AgentEnrolled | AgentRevoked):
                    changed.append((event.cluster, event.node))
                elif isinstance(event, ClusterRemoved):
                    self.status.clusters.pop(event.cluster, None)
                elif isinstance(event, PolicyEvent):
                    self._watch(event)
        for cluster, node in changed:
            self._check(cluster, node)
        if self._tenant.revision != revision:
            self._change()
        if not self._tenant.open:
            for session in list(self._sessions.values()):
                session.end(GrpcStatus.PERMISSION_DENIED, REVOKED)

    def trust(self, roots: Credentials) -> None:
        """Tell all which roots to trust from now on."""
        for session in self._sessions.values():
            session.trust(roots)

    @property
    def sessions(self) -> list[AgentSession]:
        """Those that are here now."""
        return list(self._sessions.values())

    def ask(self, cluster: str, node: str, question: Question, reply: Reply) -> bool:
        """False: the agent is not connected here, or not let in yet."""
        session = self._sessions.get((cluster, node))
        return session is not None and session.ask(question, reply)

    def expire(self) -> None:
        """End the calls whose certificates have expired."""
        now = self.now
        for session in [each for each in self._sessions.values() if each.expires <= now]:
            session.end(GrpcStatus.UNAUTHENTICATED, EXPIRED)

    def _silent(self, identity: AgentIdentity) -> None:
        """It says nothing here any more."""
        self.status.figures.left(identity.agent)
        if (apart := self.status.clusters.get(identity.cluster)) is not None:
            apart.left(identity.agent)

    def _check(self, cluster: str, node: str) -> None:
        session = self._sessions.get((cluster, node))
        if session is not None and not self.admits(session.identity):
            session.end(GrpcStatus.PERMISSION_DENIED, REVOKED)
        found = self._tenant.clusters.get(cluster)
        if found is None or node not in found.agents:
            self.status.agents.pop((cluster, node), None)
            self._fleet.changed(self.name, cluster, node, None)

    def _watch(self, event: PolicyEvent) -> None:
        """Gather the traffic that a rollout is judged by."""
        policy = self._tenant.policies[event.policy]
        rollout = policy.rollout
        if rollout is None or not rollout.active:
            self.status.traffic.pop(policy.name, None)
            return
        step = (rollout.revision, rollout.stage, rollout.since)
        if isinstance(event, PolicyPublished):
            # Each process says what it has heard: who decides adds it up.
            lanes = self.status.figures.window(int(self.now), _BEFORE, policy.name, here=True)
            self.status.traffic[policy.name] = RolloutTraffic(_summed(lanes), step=step)
        elif isinstance(event, RolloutAdvanced | RolloutResumed):
            before = self.status.traffic.get(policy.name, RolloutTraffic(Traffic())).before
            self.status.traffic[policy.name] = RolloutTraffic(before, step=step)

    def _change(self) -> None:
        if not self.delivery.advance():
            log.error(
                "the policies of a tenant are too large for one message: agents keep those before", tenant=self.name
            )
            return
        self.status.revision = self.delivery.revision
        known = {name: lanes for name, policy in self._tenant.policies.items() if (lanes := _lanes_of(policy))}
        for figures in (self.status.figures, *self.status.clusters.values()):
            figures.know(known)
        self.status.names.know(self._known_matches())
        going = self._untold is not None
        self._untold = iter(list(self._sessions.values()))
        self._awaited.told(self.delivery.revision, self._sessions)
        if not going:
            self._tell()

    def _known_matches(self) -> dict[str, frozenset[MatchPlace]]:
        """Those of what some agents are to have of each policy."""
        before, self._matches = self._matches, {}
        found = {}
        for name, policy in self._tenant.policies.items():
            numbers = _numbers_of(policy)
            for number in numbers:
                key = name, number
                self._matches[key] = before.get(key) or matches_of(policy.revisions[number - 1].document)
            if numbers:
                found[name] = frozenset().union(*(self._matches[name, number] for number in numbers))
        return found

    def _tell(self) -> None:
        """Tell some agents, and then the others, so that those of other tenants are heard meanwhile."""
        if self._untold is None:
            return
        some = list(islice(self._untold, _AT_ONCE))
        for session in some:
            session.push()
        if len(some) < _AT_ONCE:
            self._untold = None
        else:
            self._post(self._tell)


def _lanes_of(policy: Policy) -> frozenset[str]:
    """Those of what some agents are to have of it."""
    contents = [policy.revisions[number - 1] for number in _numbers_of(policy)]
    return frozenset().union(
        *(known_lanes(each["name"] for each in content.document.get("classes", ())) for content in contents)
    )


def _numbers_of(policy: Policy) -> set[int]:
    """The revisions that some agents are to have."""
    numbers = {policy.revision}
    if policy.rollout is not None and policy.rollout.active:
        numbers.add(policy.rollout.before)
    return numbers - {0}


def matches_of(document: Mapping[str, Any]) -> frozenset[MatchPlace]:
    """Lane and key of each match of a policy in the normal form, and of what no match takes."""
    return frozenset(
        [("default", b""), *((e["name"], document_key(m)) for e in document.get("classes", ()) for m in e["match"])]
    )


def _traffic(lanes: Iterable[LaneSum]) -> Traffic:
    packets = dropped = throttled = 0
    for each in lanes:
        packets, dropped, throttled = packets + each.packets, dropped + each.dropped, throttled + each.overlimits
    return Traffic(packets, dropped, throttled)


def _summed(lanes: Iterable[LaneSeries]) -> Traffic:
    """The traffic of all lanes over all seconds."""
    names = ("packets", "dropped", "overlimits")
    return Traffic(*map(sum, zip(*([sum(each.values[n]) for n in names] for each in lanes), strict=True)))
