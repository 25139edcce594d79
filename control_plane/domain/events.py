"""What happened. Everything else is computed from these; fields may be added with a default, never changed.

Values are JSON's own. Times are Unix seconds. No event has a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, get_args

from control_plane.domain.errors import UnknownEventError

ADDED: Final = {"added": True}
"""Metadata of a field that an event had not always."""


@dataclass(frozen=True, slots=True)
class TenantCreated:
    """The first event of each tenant."""

    title: str


@dataclass(frozen=True, slots=True)
class TenantRetitled:
    title: str


@dataclass(frozen=True, slots=True)
class TenantLimited:
    """So many agents and policies at most; None: as many as it likes."""

    agents: int | None
    policies: int | None


@dataclass(frozen=True, slots=True)
class TenantClosed:
    """The last event of a tenant."""


@dataclass(frozen=True, slots=True)
class CapsSet:
    """The most that policies which are written from now on may say: ``total``, ``ingress``, ``ceil``, ``priority``, as
    in a ClusterTrafficPolicy's caps; empty: anything. ``clamp``: what is beyond is lowered, else refused."""

    caps: Mapping[str, Any]
    clamp: bool


@dataclass(frozen=True, slots=True)
class BudgetSet:
    """There is a budget of this name, or it says something else from now on. ``document`` is that of
    :class:`~control_plane.domain.volume_budget.VolumeBudget`."""

    budget: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BudgetRemoved:
    budget: str


@dataclass(frozen=True, slots=True)
class TokenIssued:
    """``digest`` is the SHA-256 of its secret, ``expires_at`` None for one without an end."""

    id: str
    title: str
    role: str
    digest: str
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    id: str


@dataclass(frozen=True, slots=True)
class GroupGranted:
    """``group`` as the identity provider names it. A role that it had before is replaced."""

    group: str
    role: str


@dataclass(frozen=True, slots=True)
class GrantRevoked:
    group: str


@dataclass(frozen=True, slots=True)
class ClusterAdded:
    cluster: str


@dataclass(frozen=True, slots=True)
class ClusterRemoved:
    cluster: str


@dataclass(frozen=True, slots=True)
class ClusterTrusted:
    """Who shows a token of this ServiceAccount (NAMESPACE/NAME) joins without a join token. The cluster's API server
    says whether the token is valid: ``url``, ``ca`` in PEM. Empty: nobody does."""

    cluster: str
    url: str
    ca: str
    service_account: str


@dataclass(frozen=True, slots=True)
class ClusterLabelled:
    """All nodes of the cluster have these labels from now on, and none that were given to it before."""

    cluster: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class JoinTokenIssued:
    """``node``: the only one that may use it; empty: any that has no agent yet."""

    cluster: str
    id: str
    digest: str
    expires_at: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class JoinTokenRevoked:
    cluster: str
    id: str


@dataclass(frozen=True, slots=True)
class AgentEnrolled:
    """A node's agent has shown who it is. ``serial`` is of its first certificate, in hexadecimal; all that follow name
    it, too. ``join_token`` is empty for one that came with the token of a ServiceAccount."""

    cluster: str
    node: str
    join_token: str
    serial: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class AgentRevoked:
    cluster: str
    node: str


@dataclass(frozen=True, slots=True)
class PolicyDrafted:
    """``document`` is a policy in the grammar of ``docs/reference/policy.md``, ``selector`` labels of workloads, and
    ``nodes`` labels of the nodes that they are on. ``clamped``: sentences about what the tenant's caps have lowered.
    """

    policy: str
    document: Mapping[str, Any]
    selector: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict, metadata=ADDED)
    clamped: Sequence[str] = field(default=(), metadata=ADDED)


@dataclass(frozen=True, slots=True)
class DraftDiscarded:
    policy: str


@dataclass(frozen=True, slots=True)
class PolicyPublished:
    """The draft has become this revision. Revisions of a policy are numbered from 1 without gaps.

    With a ``plan`` it reaches agents in steps, the first of which begins: ``members`` are those who were chosen by
    count, ``before`` is the revision that the others keep, 0 for none.
    """

    policy: str
    revision: int
    plan: Mapping[str, Any] | None = None
    before: int = 0
    members: Sequence[str] = ()
    at: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRemoved:
    policy: str


@dataclass(frozen=True, slots=True)
class RolloutAdvanced:
    """The step with this index has begun; ``members`` are those who were chosen by count for it."""

    policy: str
    revision: int
    stage: int
    members: Sequence[str]
    at: int


@dataclass(frozen=True, slots=True)
class RolloutPaused:
    """It reaches nobody else until it is resumed. Who has the revision keeps it."""

    policy: str
    revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class RolloutResumed:
    policy: str
    revision: int
    at: int


@dataclass(frozen=True, slots=True)
class RolloutFinished:
    """All agents have the revision."""

    policy: str
    revision: int


@dataclass(frozen=True, slots=True)
class RolloutTakenBack:
    """All agents have what was before."""

    policy: str
    revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class AlertRuleSet:
    """There is a rule of this name, or it says something else from now on. ``document`` is that of
    :class:`~control_plane.domain.alert_rules.AlertRule`."""

    rule: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AlertRuleRemoved:
    """Its alerts are over."""

    rule: str
    at: int


@dataclass(frozen=True, slots=True)
class AlertChannelSet:
    """``document`` is that of :class:`~control_plane.domain.alert_channels.AlertChannel`."""

    channel: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AlertChannelRemoved:
    channel: str


@dataclass(frozen=True, slots=True)
class SilenceSet:
    """``document`` is that of :class:`~control_plane.domain.alert_channels.AlertSilence`. Silences that ended before
    ``at`` are forgotten."""

    silence: str
    document: Mapping[str, Any]
    at: int


@dataclass(frozen=True, slots=True)
class SilenceEnded:
    silence: str


@dataclass(frozen=True, slots=True)
class AlertFired:
    """What a rule looks at was beyond its threshold for long enough, since ``since``. ``alert`` is the id: the same
    each time for the same rule and the same cluster, policy or lane."""

    rule: str
    alert: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    value: float
    since: int
    at: int


@dataclass(frozen=True, slots=True)
class AlertResolved:
    """It is over."""

    rule: str
    alert: str
    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class AlertsTold:
    """A channel was told how these alerts stand (states by id), or could not be, for good: ``trouble`` says why."""

    channel: str
    alerts: Mapping[str, str]
    at: int
    trouble: str = ""


TenantEvent = TenantCreated | TenantRetitled | TenantLimited | TenantClosed
BudgetEvent = BudgetSet | BudgetRemoved
TokenEvent = TokenIssued | TokenRevoked
GrantEvent = GroupGranted | GrantRevoked
ClusterEvent = (
    ClusterAdded
    | ClusterRemoved
    | ClusterTrusted
    | ClusterLabelled
    | JoinTokenIssued
    | JoinTokenRevoked
    | AgentEnrolled
    | AgentRevoked
)  # fmt: skip
RolloutEvent = RolloutAdvanced | RolloutPaused | RolloutResumed | RolloutFinished | RolloutTakenBack
PolicyEvent = PolicyDrafted | DraftDiscarded | PolicyPublished | PolicyRemoved | RolloutEvent
AlertRuleEvent = AlertRuleSet | AlertRuleRemoved
AlertChannelEvent = AlertChannelSet | AlertChannelRemoved
SilenceEvent = SilenceSet | SilenceEnded
AlertEvent = AlertRuleEvent | AlertChannelEvent | SilenceEvent | AlertFired | AlertResolved | AlertsTold
Event = TenantEvent | CapsSet | BudgetEvent | TokenEvent | GrantEvent | ClusterEvent | PolicyEvent | AlertEvent

_KINDS: Final[dict[str, type[Event]]] = {kind.__name__: kind for kind in get_args(Event)}


def subject(event: Event) -> str:
    """What an event is about: ``tenant``, ``caps``, ``budget/NAME``, ``token/ID``, ``grant/GROUP``, ``cluster/NAME``,
    ``policy/NAME``, ``alert-rule/NAME``, ``alert-channel/NAME``, ``silence/ID``; ``alerts/RULE`` and ``told/CHANNEL``
    for what becomes of alerts."""
    if isinstance(event, TenantEvent):
        return "tenant"
    if isinstance(event, CapsSet):
        return "caps"
    if isinstance(event, BudgetEvent):
        return f"budget/{event.budget}"
    if isinstance(event, TokenEvent):
        return f"token/{event.id}"
    if isinstance(event, GrantEvent):
        return f"grant/{event.group}"
    if isinstance(event, ClusterEvent):
        return f"cluster/{event.cluster}"
    if isinstance(event, AlertEvent):
        return _subject_of_alerts(event)
    return f"policy/{event.policy}"


def _subject_of_alerts(event: AlertEvent) -> str:
    if isinstance(event, AlertRuleEvent):
        return f"alert-rule/{event.rule}"
    if isinstance(event, AlertChannelEvent):
        return f"alert-channel/{event.channel}"
    if isinstance(event, SilenceEvent):
        return f"silence/{event.silence}"
    if isinstance(event, AlertsTold):
        return f"told/{event.channel}"
    return f"alerts/{event.rule}"


def encode(event: Event) -> tuple[str, dict[str, Any]]:
    """The kind and the data of an event, as they are stored.

    What was :data:`ADDED` is left out where it says nothing, so that the version before reads the event, too.
    """
    data = asdict(event)
    for each in fields(event):
        if each.metadata.get("added") and not data[each.name]:
            del data[each.name]
    return type(event).__name__, data


def decode(kind: str, data: Mapping[str, Any]) -> Event:
    """The event of this kind with this data. Raises :class:`UnknownEventError`."""
    try:
        return _KINDS[kind](**data)
    except (KeyError, TypeError):
        raise UnknownEventError(
            f"The store has an event {kind} that this version cannot read. Run the version that wrote it."
        ) from None
