"""Decides what a command makes happen, or why it is refused.

A command that changes nothing is decided into no event, so that it can be sent twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hmac import compare_digest
from typing import Final

from control_plane.domain.access import PLATFORM, Role
from control_plane.domain.commands import (
    AddCluster,
    CloseTenant,
    ClusterCommand,
    Command,
    CreateTenant,
    DiscardDraft,
    DraftPolicy,
    EnrolAgent,
    IssueJoinToken,
    IssueToken,
    PolicyCommand,
    PublishPolicy,
    RemoveCluster,
    RemovePolicy,
    RetitleTenant,
    RevokeAgent,
    RevokeJoinToken,
    RevokeToken,
    TenantCommand,
    TokenCommand,
)
from control_plane.domain.errors import InvalidError, StateConflictError, UnknownSubjectError
from control_plane.domain.events import (
    AgentEnrolled,
    AgentRevoked,
    ClusterAdded,
    ClusterRemoved,
    DraftDiscarded,
    Event,
    JoinTokenIssued,
    JoinTokenRevoked,
    PolicyDrafted,
    PolicyPublished,
    PolicyRemoved,
    TenantClosed,
    TenantCreated,
    TenantRetitled,
    TokenIssued,
    TokenRevoked,
)
from control_plane.domain.tenant import MemberCluster, Policy, PolicyContent, Tenant

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A label of RFC 1123, as Kubernetes names things."""
_NODE: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""A DNS subdomain: names of Kubernetes' nodes."""
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9./_-]{0,315}[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?)?")
"""Kubernetes' labels, and names of workloads (NAMESPACE/POD)."""
_LONGEST_TITLE: Final = 200
_MOST_LABELS: Final = 32

Events = tuple[Event, ...]


def decide(tenant: Tenant, command: Command, now: int) -> Events:
    """The events of a command at ``now`` (Unix seconds).

    Raises :class:`~control_plane.domain.errors.RefusedError`.
    """
    if not isinstance(command, CreateTenant) and not tenant.open:
        raise UnknownSubjectError(f"There is no tenant {tenant.name}.", "Look at the list of tenants.")
    if isinstance(command, TenantCommand):
        return _about_tenant(tenant, command)
    if isinstance(command, TokenCommand):
        return _about_token(tenant, command, now)
    if isinstance(command, ClusterCommand):
        return _about_cluster(tenant, command, now)
    return _about_policy(tenant, command)


def _about_tenant(tenant: Tenant, command: TenantCommand) -> Events:
    match command:
        case CreateTenant(title):
            _check_name(tenant.name, "a tenant")
            if tenant.position:
                what = "was closed, and its name stays with its records" if tenant.closed else "exists"
                raise StateConflictError(f"The tenant {tenant.name} {what}.", "Choose another name.")
            return (TenantCreated(_title(title)),)
        case RetitleTenant(title):
            return () if title == tenant.title else (TenantRetitled(_title(title)),)
        case CloseTenant():
            if tenant.name == PLATFORM:
                raise StateConflictError(
                    "The tenant of the platform's administrators cannot be closed.", "Leave it open."
                )
            if any(cluster.agents for cluster in tenant.clusters.values()):
                raise StateConflictError(f"Agents belong to the tenant {tenant.name}.", "Revoke them first.")
            return (TenantClosed(),)


def _about_token(tenant: Tenant, command: TokenCommand, now: int) -> Events:
    match command:
        case IssueToken(id, title, role, digest, expires_at):
            if id in tenant.tokens or id in tenant.revoked:
                raise StateConflictError(f"There was a token {id} already.", "Choose another id.")
            _check_end(expires_at, now)
            return (TokenIssued(id, _title(title), role.value, digest, expires_at),)
        case RevokeToken(id):
            token = tenant.tokens.get(id)
            if token is None:
                if id in tenant.revoked:
                    return ()
                raise UnknownSubjectError(f"There is no token {id}.", "Look at the list of tokens.")
            if tenant.name == PLATFORM and _is_last_key(tenant, id):
                raise StateConflictError(
                    "Without this token nobody could administer the platform.",
                    "Issue another for an administrator, without an end, and revoke this one then.",
                )
            return (TokenRevoked(id),)


def _is_last_key(tenant: Tenant, id: str) -> bool:
    """Whether a token is an administrator's, without an end, and the last such."""
    lasting = [t.id for t in tenant.tokens.values() if t.role is Role.ADMINISTRATOR and t.expires_at is None]
    return lasting == [id]


def _about_cluster(tenant: Tenant, command: ClusterCommand, now: int) -> Events:
    if isinstance(command, AddCluster):
        _check_name(command.cluster, "a cluster")
        return () if command.cluster in tenant.clusters else (ClusterAdded(command.cluster),)
    cluster = tenant.clusters.get(command.cluster)
    if cluster is None:
        raise UnknownSubjectError(f"There is no cluster {command.cluster}.", "Add it first.")
    match command:
        case RemoveCluster(name):
            if cluster.agents:
                raise StateConflictError(f"{len(cluster.agents)} agents belong to {name}.", "Revoke them first.")
            return (ClusterRemoved(name),)
        case IssueJoinToken(name, id, digest, expires_at):
            if id in cluster.join_tokens or id in cluster.spent:
                raise StateConflictError(f"There was a join token {id} already.", "Choose another id.")
            _check_end(expires_at, now)
            return (JoinTokenIssued(name, id, digest, expires_at),)
        case RevokeJoinToken(name, id):
            if id in cluster.join_tokens:
                return (JoinTokenRevoked(name, id),)
            if id in cluster.spent:
                return ()
            raise UnknownSubjectError(f"There is no join token {id}.", "Look at the list of the cluster.")
        case EnrolAgent():
            return _enrol(cluster, command, now)
        case RevokeAgent(name, node):
            if node not in cluster.agents:
                raise UnknownSubjectError(f"No agent of {node} belongs to {name}.", "Look at the list of its agents.")
            return (AgentRevoked(name, node),)


def _enrol(cluster: MemberCluster, command: EnrolAgent, now: int) -> Events:
    """One message for all that can be wrong with a join token: who tries some learns nothing."""
    token = cluster.join_tokens.get(command.join_token)
    if token is None or now >= token.expires_at or not compare_digest(token.digest, command.digest):
        raise StateConflictError(
            "The join token is not valid: it was used, revoked, has expired, or never was.",
            "Issue another; each is for one agent.",
        )
    if not _NODE.fullmatch(command.node):
        raise InvalidError(f"{command.node[:260]!r} is not a node's name.", "Write it as Kubernetes does.")
    return (AgentEnrolled(cluster.name, command.node, command.join_token, command.serial),)


def _about_policy(tenant: Tenant, command: PolicyCommand) -> Events:
    name = command.policy
    policy = tenant.policies.get(name, Policy(name))
    match command:
        case DraftPolicy(_, checked, selector):
            _check_name(name, "a policy")
            content = PolicyContent(checked.document, _checked_selector(selector))
            same = policy.draft or policy.in_force
            return () if content == same else (PolicyDrafted(name, content.document, content.selector),)
        case DiscardDraft():
            if policy.draft is None:
                raise UnknownSubjectError(f"The policy {name} has no draft.", "There is nothing to discard.")
            return (DraftDiscarded(name),)
        case PublishPolicy():
            if policy.draft is None:
                raise StateConflictError(f"The policy {name} has no draft to publish.", "Draft it first.")
            return (PolicyPublished(name, len(policy.revisions) + 1),)
        case RemovePolicy():
            if policy.draft is None and policy.in_force is None:
                raise UnknownSubjectError(f"There is no policy {name}.", "`podlane policy list` has those there are.")
            return (PolicyRemoved(name),)


def _checked_selector(selector: Mapping[str, str]) -> dict[str, str]:
    if len(selector) > _MOST_LABELS:
        raise InvalidError(f"{len(selector)} labels are too many for a selector.", f"Use {_MOST_LABELS} at most.")
    for key, value in selector.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise InvalidError(f"{key[:330]!r}: {value[:260]!r} is not a label.", "Write it as Kubernetes does.")
    return dict(sorted(selector.items()))


def is_name(name: str) -> bool:
    """Whether a tenant, a cluster or a policy can have this name."""
    return _NAME.fullmatch(name) is not None


def _check_name(name: str, what: str) -> None:
    if not is_name(name):
        raise InvalidError(
            f"{name[:70]!r} is not a name for {what}.",
            "Write at most 63 lower-case letters, digits and hyphens, the first and last no hyphen.",
        )


def _title(text: str) -> str:
    if len(text) > _LONGEST_TITLE or not text.isprintable():
        raise InvalidError("The title is too long, or no text.", f"Write {_LONGEST_TITLE} characters at most.")
    return text


def _check_end(expires_at: int | None, now: int) -> None:
    if expires_at is not None and expires_at <= now:
        raise InvalidError("The token would have expired already.", "Choose a later end.")
