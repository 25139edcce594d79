"""The state of one tenant, folded from its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from control_plane.domain.access import Role
from control_plane.domain.alert_book import AlertBook
from control_plane.domain.events import (
    AgentEnrolled,
    AgentRevoked,
    AlertChannelRemoved,
    AlertEvent,
    AlertRuleRemoved,
    BudgetRemoved,
    BudgetSet,
    CapsSet,
    ClusterAdded,
    ClusterEvent,
    ClusterLabelled,
    ClusterRemoved,
    ClusterTrusted,
    DraftDiscarded,
    Event,
    GrantRevoked,
    GroupGranted,
    JoinTokenIssued,
    JoinTokenRevoked,
    PolicyDrafted,
    PolicyEvent,
    PolicyPublished,
    PolicyRemoved,
    RolloutAdvanced,
    RolloutEvent,
    RolloutFinished,
    RolloutPaused,
    RolloutResumed,
    RolloutTakenBack,
    TenantClosed,
    TenantCreated,
    TenantLimited,
    TenantRetitled,
    TokenIssued,
    TokenRevoked,
    subject,
)
from control_plane.domain.quota import NO_QUOTA, TenantQuota
from control_plane.domain.rollout import Rollout, RolloutPlan, RolloutState
from control_plane.domain.volume_budget import VolumeBudget
from traffic_policy.selection import labels_of_node


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token that is valid until it is revoked or ``expires_at``."""

    id: str
    title: str
    role: Role
    digest: str
    expires_at: int | None

    def valid(self, now: int) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True)
class JoinToken:
    """With it one agent can join a cluster, once. ``node``: which; empty: any that has none yet."""

    id: str
    digest: str
    expires_at: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class EnrolledAgent:
    """A node's agent. ``serial`` is of the certificate it was given when it joined, at ``at`` (Unix seconds)."""

    node: str
    serial: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class ClusterTrust:
    """The API server that is asked about tokens of the agents' ServiceAccount (NAMESPACE/NAME)."""

    url: str
    ca: str
    service_account: str


@dataclass(slots=True)
class MemberCluster:
    """Nodes whose agents belong to the tenant. A token that was used or revoked is in ``join_tokens`` no more."""

    name: str
    join_tokens: dict[str, JoinToken] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    """Ids of join tokens that are not to be had again."""
    agents: dict[str, EnrolledAgent] = field(default_factory=dict)
    """By node."""
    trust: ClusterTrust | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of all its nodes, whatever these say."""


@dataclass(frozen=True, slots=True)
class PolicyContent:
    """What a policy says, and for which workloads: those that have all labels of ``selector``, on nodes that have all
    labels of ``nodes``."""

    document: Mapping[str, Any]
    selector: Mapping[str, str]
    nodes: Mapping[str, str] = field(default_factory=dict)
    clamped: Sequence[str] = field(default=(), compare=False)
    """What the tenant's caps have lowered in it, as sentences."""


@dataclass(slots=True)
class Policy:
    """``draft`` is what is being worked on, ``revisions`` what was put in force, the first at index 0.

    ``withdrawn`` are numbers of revisions that are in force no more, and will not be again: of rollouts that were taken
    back or superseded, and all when the policy is removed. Revisions stay, and a new draft continues their numbers.
    ``rollout`` is the last one.
    """

    name: str
    draft: PolicyContent | None = None
    revisions: list[PolicyContent] = field(default_factory=list)
    withdrawn: set[int] = field(default_factory=set)
    rollout: Rollout | None = None
    since: int = 0
    """The position of the last event that changed what agents are to have of it."""

    @property
    def revision(self) -> int:
        """The number of the newest revision that was not withdrawn; 0: there is none."""
        return next((number for number in range(len(self.revisions), 0, -1) if number not in self.withdrawn), 0)

    @property
    def in_force(self) -> PolicyContent | None:
        """That revision: all agents have it, or are to have it when a rollout has reached them."""
        return self.revisions[self.revision - 1] if self.revision else None

    @property
    def exists(self) -> bool:
        """Whether it has a draft or is in force: of one that was removed there are only revisions."""
        return self.draft is not None or self.revision > 0

    @property
    def varies(self) -> bool:
        """Whether not all agents are to have the same of it."""
        content = self.in_force
        return (self.rollout is not None and self.rollout.active) or (content is not None and bool(content.nodes))

    def revision_for(self, agent: str, labels: Mapping[str, str]) -> int:
        """The number of the revision that an agent (CLUSTER/NODE, with its node's labels) is to have; 0: none."""
        rollout = self.rollout
        number = self.revision
        if rollout is not None and rollout.active and not rollout.reaches(self.name, agent, labels):
            number = rollout.before
        return number if self._is_for(number, labels) else 0

    def concerns(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is to have it, or has it as long as its rollout has not come there."""
        before = self.rollout.before if self.rollout is not None and self.rollout.active else 0
        return self._is_for(self.revision, labels) or self._is_for(before, labels)

    def _is_for(self, number: int, labels: Mapping[str, str]) -> bool:
        return number > 0 and self.revisions[number - 1].nodes.items() <= labels.items()


@dataclass(slots=True)
class Tenant:
    """All of a tenant. ``position`` is that of its last event, 0 for one that does not exist."""

    name: str
    title: str = ""
    position: int = 0
    closed: bool = False
    quota: TenantQuota = NO_QUOTA
    tokens: dict[str, ApiToken] = field(default_factory=dict)
    """Those that are not revoked."""
    revoked: set[str] = field(default_factory=set)
    """Ids of tokens that are not to be had again."""
    grants: dict[str, Role] = field(default_factory=dict)
    """By group of the identity provider."""
    clusters: dict[str, MemberCluster] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    alerts: AlertBook = field(default_factory=AlertBook)
    caps: Mapping[str, Any] = field(default_factory=dict)
    """The most that its policies may say; see :mod:`~control_plane.domain.tenant_caps`."""
    clamps: bool = False
    """Whether what is beyond the caps is lowered; else it is refused."""
    budgets: dict[str, VolumeBudget] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    """The position of the last event about each subject: its version."""
    revision: int = 0
    """The position of the last event that changed what agents are to have."""

    @property
    def open(self) -> bool:
        """Whether it exists."""
        return self.position > 0 and not self.closed

    @property
    def agents(self) -> list[str]:
        """All that have joined, as CLUSTER/NODE."""
        return [f"{cluster.name}/{node}" for cluster in self.clusters.values() for node in cluster.agents]

    @property
    def agent_count(self) -> int:
        """How many agents have joined."""
        return sum(len(cluster.agents) for cluster in self.clusters.values())

    @property
    def policy_count(self) -> int:
        """How many policies there are, those that were removed left out."""
        return sum(each.exists for each in self.policies.values())

    def labels_at(self, agent: str, reported: Mapping[str, str]) -> dict[str, str]:
        """The labels of the node of an agent (CLUSTER/NODE), which has said some itself."""
        name = agent.partition("/")[0]
        cluster = self.clusters.get(name)
        return labels_of_node(name, cluster.labels if cluster is not None else {}, reported)

    def version(self, about: str) -> int:
        """The version of a subject; 0 if there is none of it, or there never was."""
        return self.changed.get(about, 0)

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        self.position += 1
        if isinstance(event, _REMOVALS):
            self.changed.pop(subject(event), None)
        else:
            self.changed[subject(event)] = self.position
        match event:
            case TenantCreated(title) | TenantRetitled(title):
                self.title = title
            case TenantLimited(agents, policies):
                self.quota = TenantQuota(agents, policies)
            case TenantClosed():
                self.closed = True
            case CapsSet(caps, clamp):
                self.caps, self.clamps = caps, clamp
            case BudgetSet(budget, document):
                self.budgets[budget] = VolumeBudget.from_document(document)
            case BudgetRemoved(budget):
                del self.budgets[budget]
            case TokenIssued(id, title, role, digest, expires_at):
                self.tokens[id] = ApiToken(id, title, Role(role), digest, expires_at)
            case TokenRevoked(id):
                del self.tokens[id]
                self.revoked.add(id)
            case GroupGranted(group, role):
                self.grants[group] = Role(role)
            case GrantRevoked(group):
                del self.grants[group]
            case ClusterAdded(name):
                self.clusters[name] = MemberCluster(name)
            case ClusterRemoved(name):
                del self.clusters[name]
            case _:
                if isinstance(event, PolicyEvent):
                    policy = self.policies.setdefault(event.policy, Policy(event.policy))
                    _apply_to_policy(policy, event)
                    if isinstance(event, _FOR_AGENTS):
                        policy.since = self.revision = self.position
                elif isinstance(event, ClusterEvent):
                    _apply_to_cluster(self.clusters[event.cluster], event)
                    if isinstance(event, ClusterLabelled):
                        self._relabelled()
                elif isinstance(event, AlertEvent):
                    self.alerts.apply(event)

    def _relabelled(self) -> None:
        """Other nodes may be those of policies, and of steps of rollouts."""
        for policy in self.policies.values():
            if policy.varies:
                policy.since = self.revision = self.position


_REMOVALS: Final = (AlertChannelRemoved, AlertRuleRemoved, BudgetRemoved, ClusterRemoved, GrantRevoked)
"""Events after which there is none of their subject, so that one may be made under the condition that there is none."""

_FOR_AGENTS: Final = (PolicyPublished, PolicyRemoved, RolloutAdvanced, RolloutTakenBack)
"""Events that change what agents are to have."""


def _apply_to_cluster(cluster: MemberCluster, event: ClusterEvent) -> None:
    match event:
        case ClusterTrusted(_, url, ca, service_account):
            cluster.trust = ClusterTrust(url, ca, service_account) if url else None
        case ClusterLabelled(_, labels):
            cluster.labels = labels
        case JoinTokenIssued(_, id, digest, expires_at, node):
            cluster.join_tokens[id] = JoinToken(id, digest, expires_at, node)
        case JoinTokenRevoked(_, id):
            del cluster.join_tokens[id]
            cluster.spent.add(id)
        case AgentEnrolled(_, node, join_token, serial, at):
            if join_token:
                del cluster.join_tokens[join_token]
                cluster.spent.add(join_token)
            cluster.agents[node] = EnrolledAgent(node, serial, at)
        case AgentRevoked(_, node):
            del cluster.agents[node]


def _apply_to_policy(policy: Policy, event: PolicyEvent) -> None:
    match event:
        case PolicyDrafted(_, document, selector, nodes, clamped):
            policy.draft = PolicyContent(document, selector, nodes, clamped)
        case DraftDiscarded():
            policy.draft = None
        case PolicyPublished(_, revision, plan, before, members, at) if policy.draft is not None:
            _supersede(policy)
            policy.revisions.append(policy.draft)
            policy.draft = None
            if plan is not None:
                policy.rollout = Rollout(
                    revision, before, RolloutPlan.from_document(plan), at, members=frozenset(members)
                )
        case PolicyRemoved():
            _supersede(policy)
            policy.draft = None
            policy.withdrawn = set(range(1, len(policy.revisions) + 1))
        case _:
            if isinstance(event, RolloutEvent) and policy.rollout is not None:
                _apply_to_rollout(policy, policy.rollout, event)


def _supersede(policy: Policy) -> None:
    """What was under way ends: agents that it had not reached never get its revision."""
    if policy.rollout is not None and policy.rollout.active:
        policy.rollout.state = RolloutState.SUPERSEDED
        policy.withdrawn.add(policy.rollout.revision)


def _apply_to_rollout(policy: Policy, rollout: Rollout, event: RolloutEvent) -> None:
    match event:
        case RolloutAdvanced(_, _, stage, members, at):
            rollout.stage, rollout.since = stage, at
            rollout.members |= frozenset(members)
        case RolloutPaused(_, _, reason):
            rollout.state, rollout.reason = RolloutState.PAUSED, reason
        case RolloutResumed(_, _, at):
            rollout.state, rollout.reason, rollout.since = RolloutState.RUNNING, "", at
        case RolloutFinished():
            rollout.state, rollout.reason = RolloutState.DONE, ""
        case RolloutTakenBack(_, revision, reason):
            rollout.state, rollout.reason = RolloutState.TAKEN_BACK, reason
            policy.withdrawn.add(revision)


def fold(name: str, events: Iterable[Event]) -> Tenant:
    """The tenant of these events, which are all that it has."""
    tenant = Tenant(name)
    for event in events:
        tenant.apply(event)
    return tenant
