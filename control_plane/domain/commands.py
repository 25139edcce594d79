"""What can be asked for. A command is about one subject, as :func:`~control_plane.domain.events.subject` names it.

Ids, secrets' digests and serial numbers come with the command: what decides draws no random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from control_plane.domain.access import Role
from control_plane.domain.alert_channels import AlertChannel, AlertSilence
from control_plane.domain.alert_rules import AlertRule
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.quota import TenantQuota
from control_plane.domain.rollout import RolloutPlan
from control_plane.domain.volume_budget import VolumeBudget


@dataclass(frozen=True, slots=True)
class CreateTenant:
    title: str = ""


@dataclass(frozen=True, slots=True)
class RetitleTenant:
    title: str


@dataclass(frozen=True, slots=True)
class LimitTenant:
    """From now on; what is there stays."""

    quota: TenantQuota


@dataclass(frozen=True, slots=True)
class CloseTenant:
    """For good: its name cannot be had again."""


@dataclass(frozen=True, slots=True)
class SetCaps:
    """See :class:`~control_plane.domain.events.CapsSet`. ``caps`` as its users have written them; empty: none."""

    caps: Mapping[str, Any]
    clamp: bool = False


@dataclass(frozen=True, slots=True)
class SetBudget:
    """Make it, or replace what it says."""

    budget: str
    content: VolumeBudget


@dataclass(frozen=True, slots=True)
class RemoveBudget:
    budget: str


@dataclass(frozen=True, slots=True)
class IssueToken:
    """``expires_at`` in Unix seconds; None: never."""

    id: str
    title: str
    role: Role
    digest: str
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class RevokeToken:
    id: str


@dataclass(frozen=True, slots=True)
class GrantGroup:
    """Whoever the identity provider says is in the group has the role."""

    group: str
    role: Role


@dataclass(frozen=True, slots=True)
class RevokeGrant:
    group: str


@dataclass(frozen=True, slots=True)
class AddCluster:
    cluster: str


@dataclass(frozen=True, slots=True)
class RemoveCluster:
    cluster: str


@dataclass(frozen=True, slots=True)
class TrustCluster:
    """See :class:`~control_plane.domain.events.ClusterTrusted`."""

    cluster: str
    url: str
    ca: str
    service_account: str


@dataclass(frozen=True, slots=True)
class LabelCluster:
    """Replaces all labels that it has."""

    cluster: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class IssueJoinToken:
    """``node``: the only one that may use it; empty: any that has no agent yet."""

    cluster: str
    id: str
    digest: str
    expires_at: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class RevokeJoinToken:
    cluster: str
    id: str


@dataclass(frozen=True, slots=True)
class EnrolAgent:
    """By a join token; ``digest`` is of the secret that the agent has shown."""

    cluster: str
    node: str
    join_token: str
    digest: str
    serial: str


@dataclass(frozen=True, slots=True)
class EnrolReviewedAgent:
    """By the token of a ServiceAccount that the cluster's API server at ``url`` has found valid, and of this node."""

    cluster: str
    node: str
    url: str
    service_account: str
    serial: str


@dataclass(frozen=True, slots=True)
class RevokeAgent:
    cluster: str
    node: str


@dataclass(frozen=True, slots=True)
class DraftPolicy:
    policy: str
    content: CheckedPolicy
    selector: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DiscardDraft:
    policy: str


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """The draft becomes the next revision, which reaches all agents at once, or as ``plan`` says."""

    policy: str
    plan: RolloutPlan | None = None


@dataclass(frozen=True, slots=True)
class RemovePolicy:
    policy: str


@dataclass(frozen=True, slots=True)
class AdvanceRollout:
    """Begin the next step, which has this index; the one behind the last ends the rollout. No other is taken."""

    policy: str
    revision: int
    stage: int


@dataclass(frozen=True, slots=True)
class PauseRollout:
    policy: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ResumeRollout:
    policy: str


@dataclass(frozen=True, slots=True)
class TakeBackRollout:
    """``revision`` is the one that is meant; None: whichever is under way."""

    policy: str
    reason: str = ""
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class SetAlertRule:
    rule: str
    content: AlertRule


@dataclass(frozen=True, slots=True)
class RemoveAlertRule:
    rule: str


@dataclass(frozen=True, slots=True)
class SetAlertChannel:
    channel: str
    content: AlertChannel


@dataclass(frozen=True, slots=True)
class RemoveAlertChannel:
    channel: str


@dataclass(frozen=True, slots=True)
class SetSilence:
    silence: str
    content: AlertSilence


@dataclass(frozen=True, slots=True)
class EndSilence:
    silence: str


@dataclass(frozen=True, slots=True)
class FireAlert:
    """See :class:`~control_plane.domain.events.AlertFired`."""

    rule: str
    alert: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    value: float
    since: int


@dataclass(frozen=True, slots=True)
class ResolveAlert:
    rule: str
    alert: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TellAlerts:
    """A channel was told how alerts stand (states by id), or cannot be: ``trouble``."""

    channel: str
    alerts: Mapping[str, str]
    trouble: str = ""


TenantCommand = CreateTenant | RetitleTenant | LimitTenant | CloseTenant
BudgetCommand = SetBudget | RemoveBudget
TokenCommand = IssueToken | RevokeToken
GrantCommand = GrantGroup | RevokeGrant
ClusterCommand = (
    AddCluster
    | RemoveCluster
    | TrustCluster
    | LabelCluster
    | IssueJoinToken
    | RevokeJoinToken
    | EnrolAgent
    | EnrolReviewedAgent
    | RevokeAgent
)  # fmt: skip
RolloutCommand = AdvanceRollout | PauseRollout | ResumeRollout | TakeBackRollout
PolicyCommand = DraftPolicy | DiscardDraft | PublishPolicy | RemovePolicy | RolloutCommand
AlertRuleCommand = SetAlertRule | RemoveAlertRule
AlertChannelCommand = SetAlertChannel | RemoveAlertChannel
SilenceCommand = SetSilence | EndSilence
AlertCommand = AlertRuleCommand | AlertChannelCommand | SilenceCommand | FireAlert | ResolveAlert | TellAlerts
Command = (
    TenantCommand
    | SetCaps
    | BudgetCommand
    | TokenCommand
    | GrantCommand
    | ClusterCommand
    | PolicyCommand
    | AlertCommand
)  # fmt: skip


def subject_of(command: Command) -> str:
    """What a command is about."""
    if isinstance(command, TenantCommand):
        return "tenant"
    if isinstance(command, SetCaps):
        return "caps"
    if isinstance(command, BudgetCommand):
        return f"budget/{command.budget}"
    if isinstance(command, TokenCommand):
        return f"token/{command.id}"
    if isinstance(command, GrantCommand):
        return f"grant/{command.group}"
    if isinstance(command, ClusterCommand):
        return f"cluster/{command.cluster}"
    if isinstance(command, AlertCommand):
        return _subject_of_alerts(command)
    return f"policy/{command.policy}"


def _subject_of_alerts(command: AlertCommand) -> str:
    if isinstance(command, AlertRuleCommand):
        return f"alert-rule/{command.rule}"
    if isinstance(command, AlertChannelCommand):
        return f"alert-channel/{command.channel}"
    if isinstance(command, SilenceCommand):
        return f"silence/{command.silence}"
    if isinstance(command, TellAlerts):
        return f"told/{command.channel}"
    return f"alerts/{command.rule}"
