"""Decides about policies: their drafts, their revisions, and how these reach agents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from control_plane.domain.commands import (
    AdvanceRollout,
    DiscardDraft,
    DraftPolicy,
    PauseRollout,
    PolicyCommand,
    PublishPolicy,
    RemovePolicy,
    ResumeRollout,
    RolloutCommand,
    TakeBackRollout,
)
from control_plane.domain.errors import InvalidError, StateConflictError, UnknownSubjectError
from control_plane.domain.events import (
    DraftDiscarded,
    Event,
    PolicyDrafted,
    PolicyPublished,
    PolicyRemoved,
    RolloutAdvanced,
    RolloutFinished,
    RolloutPaused,
    RolloutResumed,
    RolloutTakenBack,
)
from control_plane.domain.names import check_name
from control_plane.domain.rollout import OnNewRevision, Rollout, RolloutState, Stage, chosen
from control_plane.domain.tenant import Policy, PolicyContent, Tenant
from control_plane.domain.tenant_caps import beyond, within
from fleet_api.limits import MAX_TO_AGENT

_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9./_-]{0,315}[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?)?")
"""Kubernetes' labels, and names of workloads (NAMESPACE/POD)."""
_BESIDES: Final = 1024
"""Bytes of a policy in a message, besides its document and selector, at most."""
_MOST_LABELS: Final = 32
_LONGEST_REASON: Final = 1000


def about_policy(tenant: Tenant, command: PolicyCommand, now: int) -> tuple[Event, ...]:
    """The events of a command at ``now``. Raises :class:`~control_plane.domain.errors.RefusedError`."""
    name = command.policy
    policy = tenant.policies.get(name, Policy(name))
    if isinstance(command, RolloutCommand):
        return _about_rollout(tenant, policy, command, now)
    match command:
        case DraftPolicy(_, checked, selector, nodes):
            check_name(name, "a policy")
            document, clamps = within(tenant.name, tenant.caps, checked.document)
            if clamps and not tenant.clamps:
                raise beyond(tenant.name, clamps)
            content = PolicyContent(document, checked_labels(selector), checked_labels(nodes))
            if content == (policy.draft or policy.in_force):
                return ()
            if not policy.exists:
                tenant.quota.allow_policy(tenant.name, tenant.policy_count)
            clamped = [str(each) for each in clamps]
            return (PolicyDrafted(name, content.document, content.selector, content.nodes, clamped),)
        case DiscardDraft():
            if policy.draft is None:
                raise UnknownSubjectError(f"The policy {name} has no draft.", "There is nothing to discard.")
            return (DraftDiscarded(name),)
        case PublishPolicy():
            return _publish(tenant, policy, command, now)
        case RemovePolicy():
            if policy.draft is None and policy.in_force is None:
                raise UnknownSubjectError(f"There is no policy {name}.", "`podlane policy list` has those there are.")
            return (PolicyRemoved(name),)


def _publish(tenant: Tenant, policy: Policy, command: PublishPolicy, now: int) -> tuple[Event, ...]:
    name, plan, rollout = policy.name, command.plan, policy.rollout
    if policy.draft is None:
        raise StateConflictError(f"The policy {name} has no draft to publish.", "Draft it first.")
    _, clamps = within(tenant.name, tenant.caps, policy.draft.document)
    if clamps:  # the caps are newer than the draft
        raise beyond(tenant.name, clamps)
    _check_size(tenant, name, policy.draft)
    before = policy.revision
    if rollout is not None and rollout.active:
        if rollout.plan.on_new_revision is OnNewRevision.REFUSE:
            raise StateConflictError(
                f"The rollout of revision {rollout.revision} of {name} has not ended.",
                f"Wait, or take it back by `podlane rollout abort {name}`.",
            )
        before = rollout.before
    revision = len(policy.revisions) + 1
    if plan is None:
        return (PolicyPublished(name, revision),)
    for stage in plan.stages:
        checked_labels(stage.labels or {})
    members = _members(tenant, name, revision, plan.stages[0], frozenset(), policy.draft)
    return (PolicyPublished(name, revision, plan.to_document(), before, members, now),)


def _check_size(tenant: Tenant, name: str, draft: PolicyContent) -> None:
    """All policies of a tenant must fit into one message to its agents."""
    others = [each.in_force for each in tenant.policies.values() if each.name != name]
    contents = [draft, *(content for content in others if content is not None)]
    size = sum(
        len(json.dumps([c.document, c.selector, c.nodes], ensure_ascii=False).encode()) + _BESIDES for c in contents
    )
    if size > MAX_TO_AGENT:
        raise StateConflictError(
            f"The tenant's policies would have {size} bytes together: agents take {MAX_TO_AGENT}.",
            "Remove one, or make some shorter.",
        )


def _about_rollout(tenant: Tenant, policy: Policy, command: RolloutCommand, now: int) -> tuple[Event, ...]:
    name, rollout = policy.name, policy.rollout
    if rollout is None:
        raise UnknownSubjectError(f"The policy {name} has no rollout.", f"`podlane rollout start {name}` begins one.")
    if not rollout.active:
        return _after_the_end(policy.name, rollout, command)
    revision = rollout.revision
    match command:
        case AdvanceRollout(_, meant, stage):
            if meant != revision or stage != rollout.stage + 1:
                return ()
            if rollout.state is RolloutState.PAUSED:
                raise StateConflictError(f"The rollout of {name} is paused.", "Resume it first.")
            if stage >= len(rollout.plan.stages):
                return (RolloutFinished(name, revision),)
            content = policy.revisions[revision - 1]
            members = _members(tenant, name, revision, rollout.plan.stages[stage], rollout.members, content)
            return (RolloutAdvanced(name, revision, stage, members, now),)
        case PauseRollout(_, reason):
            paused = rollout.state is RolloutState.PAUSED
            return () if paused else (RolloutPaused(name, revision, reason[:_LONGEST_REASON]),)
        case ResumeRollout():
            return (RolloutResumed(name, revision, now),) if rollout.state is RolloutState.PAUSED else ()
        case TakeBackRollout(_, reason, meant):
            if meant is not None and meant != revision:
                return ()
            return (RolloutTakenBack(name, revision, reason[:_LONGEST_REASON]),)


def _after_the_end(name: str, rollout: Rollout, command: RolloutCommand) -> tuple[Event, ...]:
    """What is sent twice, or comes late, changes nothing."""
    late = isinstance(command, AdvanceRollout)
    again = isinstance(command, TakeBackRollout) and rollout.state is RolloutState.TAKEN_BACK
    if late or again:
        return ()
    raise StateConflictError(
        f"The rollout of revision {rollout.revision} of {name} has ended: {rollout.state}.",
        f"To have an earlier revision, use `podlane policy restore {name} --revision N`.",
    )


def _members(
    tenant: Tenant, name: str, revision: int, stage: Stage, known: frozenset[str], content: PolicyContent
) -> list[str]:
    """Those that a step adds by count, of clusters that the revision may be for: what else nodes have for labels is not
    in the log."""
    if stage.count is None:
        return []
    possible = [agent for agent in tenant.agents if _may_concern(tenant, content, agent)]
    return [agent for agent in chosen(name, revision, stage.count, possible) if agent not in known]


def _may_concern(tenant: Tenant, content: PolicyContent, agent: str) -> bool:
    known = tenant.labels_at(agent, {})
    return all(known.get(key, value) == value for key, value in content.nodes.items())


def checked_labels(selector: Mapping[str, str]) -> dict[str, str]:
    """Sorted. Raises :class:`InvalidError`."""
    if len(selector) > _MOST_LABELS:
        raise InvalidError(f"{len(selector)} labels are too many for a selector.", f"Use {_MOST_LABELS} at most.")
    for key, value in selector.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise InvalidError(f"{key[:330]!r}: {value[:260]!r} is not a label.", "Write it as Kubernetes does.")
    return dict(sorted(selector.items()))
