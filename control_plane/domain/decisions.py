"""Decides what a command makes happen, or why it is refused.

A command that changes nothing is decided into no event, so that it can be sent twice.
"""

from __future__ import annotations

import re
from hmac import compare_digest
from typing import Final

from control_plane.domain.access import PLATFORM, Role
from control_plane.domain.alert_decisions import about_alerts
from control_plane.domain.commands import (
    AddCluster,
    AlertCommand,
    BudgetCommand,
    CloseTenant,
    ClusterCommand,
    Command,
    CreateTenant,
    EnrolAgent,
    EnrolReviewedAgent,
    GrantCommand,
    GrantGroup,
    IssueJoinToken,
    IssueToken,
    LabelCluster,
    LimitTenant,
    RemoveBudget,
    RemoveCluster,
    RetitleTenant,
    RevokeAgent,
    RevokeGrant,
    RevokeJoinToken,
    RevokeToken,
    SetBudget,
    SetCaps,
    TenantCommand,
    TokenCommand,
    TrustCluster,
)
from control_plane.domain.errors import InvalidError, StateConflictError, UnknownSubjectError
from control_plane.domain.events import (
    AgentEnrolled,
    AgentRevoked,
    BudgetRemoved,
    BudgetSet,
    CapsSet,
    ClusterAdded,
    ClusterLabelled,
    ClusterRemoved,
    ClusterTrusted,
    Event,
    GrantRevoked,
    GroupGranted,
    JoinTokenIssued,
    JoinTokenRevoked,
    TenantClosed,
    TenantCreated,
    TenantLimited,
    TenantRetitled,
    TokenIssued,
    TokenRevoked,
)
from control_plane.domain.names import check_name
from control_plane.domain.policy_decisions import about_policy, checked_labels
from control_plane.domain.tenant import ClusterTrust, MemberCluster, Tenant
from control_plane.domain.tenant_caps import checked_caps
from control_plane.domain.volume_budget import MOST_BUDGETS
from traffic_policy.selection import CLUSTER_LABEL

_NODE: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""A DNS subdomain: names of Kubernetes' nodes."""
_API_SERVER: Final = re.compile(r"https://[A-Za-z0-9.-]{1,253}(:\d{1,5})?|https://\[[0-9a-fA-F:.]{2,45}\](:\d{1,5})?")
_SERVICE_ACCOUNT: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LONGEST_CA: Final = 65_536
_LONGEST_TITLE: Final = 200
_LONGEST_GROUP: Final = 200


def decide(tenant: Tenant, command: Command, now: int) -> tuple[Event, ...]:
    """The events of a command at ``now`` (Unix seconds).

    Raises :class:`~control_plane.domain.errors.RefusedError`.
    """
    if not isinstance(command, CreateTenant) and not tenant.open:
        raise UnknownSubjectError(f"There is no tenant {tenant.name}.", "Look at the list of tenants.")
    if isinstance(command, TenantCommand):
        return _about_tenant(tenant, command)
    if isinstance(command, SetCaps):
        caps = checked_caps(command.caps)
        clamp = command.clamp and bool(caps)
        return () if (caps, clamp) == (tenant.caps, tenant.clamps) else (CapsSet(caps, clamp),)
    if isinstance(command, BudgetCommand):
        return _about_budget(tenant, command)
    if isinstance(command, TokenCommand):
        return _about_token(tenant, command, now)
    if isinstance(command, GrantCommand):
        return _about_grant(tenant, command)
    if isinstance(command, ClusterCommand):
        return _about_cluster(tenant, command, now)
    if isinstance(command, AlertCommand):
        return about_alerts(tenant.alerts, command, now)
    return about_policy(tenant, command, now)


def _about_tenant(tenant: Tenant, command: TenantCommand) -> tuple[Event, ...]:
    match command:
        case CreateTenant(title):
            check_name(tenant.name, "a tenant")
            if tenant.position:
                what = "was closed, and its name stays with its records" if tenant.closed else "exists"
                raise StateConflictError(f"The tenant {tenant.name} {what}.", "Choose another name.")
            return (TenantCreated(_title(title)),)
        case RetitleTenant(title):
            return () if title == tenant.title else (TenantRetitled(_title(title)),)
        case LimitTenant(quota):
            quota.check()
            return () if quota == tenant.quota else (TenantLimited(quota.agents, quota.policies),)
        case CloseTenant():
            if tenant.name == PLATFORM:
                raise StateConflictError(
                    "The tenant of the platform's administrators cannot be closed.", "Leave it open."
                )
            if any(cluster.agents for cluster in tenant.clusters.values()):
                raise StateConflictError(f"Agents belong to the tenant {tenant.name}.", "Revoke them first.")
            return (TenantClosed(),)


def _about_budget(tenant: Tenant, command: BudgetCommand) -> tuple[Event, ...]:
    match command:
        case SetBudget(name, budget):
            check_name(name, "a budget")
            if name not in tenant.budgets and len(tenant.budgets) >= MOST_BUDGETS:
                raise StateConflictError(f"A tenant has {MOST_BUDGETS} budgets at most.", "Remove one first.")
            return () if tenant.budgets.get(name) == budget else (BudgetSet(name, budget.to_document()),)
        case RemoveBudget(name):
            if name not in tenant.budgets:
                raise UnknownSubjectError(f"There is no budget {name[:70]}.", "Look at the list of budgets.")
            return (BudgetRemoved(name),)


def _about_token(tenant: Tenant, command: TokenCommand, now: int) -> tuple[Event, ...]:
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


def _about_grant(tenant: Tenant, command: GrantCommand) -> tuple[Event, ...]:
    match command:
        case GrantGroup(group, role):
            if not 0 < len(group) <= _LONGEST_GROUP or not group.isprintable() or group != group.strip():
                raise InvalidError(
                    f"{group[:70]!r} is not a name for a group.",
                    f"Write it as the identity provider does, {_LONGEST_GROUP} characters at most.",
                )
            return () if tenant.grants.get(group) is role else (GroupGranted(group, role.value),)
        case RevokeGrant(group):
            if group not in tenant.grants:
                raise UnknownSubjectError(f"The group {group[:70]} has no role.", "Look at the list of grants.")
            return (GrantRevoked(group),)


def _about_cluster(tenant: Tenant, command: ClusterCommand, now: int) -> tuple[Event, ...]:
    if isinstance(command, AddCluster):
        check_name(command.cluster, "a cluster")
        return () if command.cluster in tenant.clusters else (ClusterAdded(command.cluster),)
    cluster = tenant.clusters.get(command.cluster)
    if cluster is None:
        raise UnknownSubjectError(f"There is no cluster {command.cluster}.", "Add it first.")
    match command:
        case RemoveCluster(name):
            if cluster.agents:
                raise StateConflictError(f"{len(cluster.agents)} agents belong to {name}.", "Revoke them first.")
            return (ClusterRemoved(name),)
        case TrustCluster():
            return _trust(cluster, command)
        case LabelCluster(name, labels):
            return _label(cluster, checked_labels(labels))
        case IssueJoinToken(name, id, digest, expires_at, node):
            if id in cluster.join_tokens or id in cluster.spent:
                raise StateConflictError(f"There was a join token {id} already.", "Choose another id.")
            _check_end(expires_at, now)
            if node:
                _check_node(node)
            return (JoinTokenIssued(name, id, digest, expires_at, node),)
        case RevokeJoinToken(name, id):
            if id in cluster.join_tokens:
                return (JoinTokenRevoked(name, id),)
            if id in cluster.spent:
                return ()
            raise UnknownSubjectError(f"There is no join token {id}.", "Look at the list of the cluster.")
        case EnrolAgent():
            return _enrol(tenant, cluster, command, now)
        case EnrolReviewedAgent(name, node, url, service_account, serial):
            trust = cluster.trust
            if trust is None or (trust.url, trust.service_account) != (url, service_account):
                raise StateConflictError(
                    f"Agents do not join {name} by a token of {service_account or 'a ServiceAccount'}.",
                    "See `podlane clusters trust`, or use a join token.",
                )
            _check_node(node)
            _check_quota(tenant, cluster, node)
            return (AgentEnrolled(name, node, "", serial, now),)
        case RevokeAgent(name, node):
            if node not in cluster.agents:
                raise UnknownSubjectError(f"No agent of {node} belongs to {name}.", "Look at the list of its agents.")
            return (AgentRevoked(name, node),)


def _enrol(tenant: Tenant, cluster: MemberCluster, command: EnrolAgent, now: int) -> tuple[Event, ...]:
    """One message for all that can be wrong with a join token: who tries some learns nothing."""
    token = cluster.join_tokens.get(command.join_token)
    if token is None or now >= token.expires_at or not compare_digest(token.digest, command.digest):
        raise StateConflictError(
            "The join token is not valid: it was used, revoked, has expired, or never was.",
            "Issue another; each is for one agent.",
        )
    _check_node(command.node)
    if token.node and token.node != command.node:
        raise StateConflictError(
            f"The join token is for the node {token.node}, not for {command.node}.",
            "Use it there, or issue another.",
        )
    if not token.node and command.node in cluster.agents:
        # Whoever got hold of a token must not take the place of a node that is there.
        raise StateConflictError(
            f"The node {command.node} has an agent in {cluster.name} already, and the join token is for a new one.",
            f"Issue one for this node (podlane join-token {cluster.name} --node {command.node}), or revoke the agent.",
        )
    _check_quota(tenant, cluster, command.node)
    return (AgentEnrolled(cluster.name, command.node, command.join_token, command.serial, now),)


def _check_quota(tenant: Tenant, cluster: MemberCluster, node: str) -> None:
    """A node that joins again is no second one."""
    if node not in cluster.agents:
        tenant.quota.allow_agent(tenant.name, tenant.agent_count)


def _trust(cluster: MemberCluster, command: TrustCluster) -> tuple[Event, ...]:
    wish = (command.url, command.ca, command.service_account)
    if not any(wish):
        return () if cluster.trust is None else (ClusterTrusted(cluster.name, "", "", ""),)
    if not _API_SERVER.fullmatch(command.url):
        raise InvalidError(
            f"{command.url[:200]!r} is not the URL of an API server.", "Write it as in https://10.0.0.1:6443"
        )
    if len(command.ca) > _LONGEST_CA or "-----BEGIN CERTIFICATE-----" not in command.ca:
        raise InvalidError("The API server's CA is no certificate in PEM.", "Send `ca.crt` of the cluster.")
    if not _SERVICE_ACCOUNT.fullmatch(command.service_account):
        raise InvalidError(f"{command.service_account[:200]!r} is not a ServiceAccount.", "Write it as NAMESPACE/NAME.")
    return () if cluster.trust == ClusterTrust(*wish) else (ClusterTrusted(cluster.name, *wish),)


def _label(cluster: MemberCluster, labels: dict[str, str]) -> tuple[Event, ...]:
    if CLUSTER_LABEL in labels:
        raise InvalidError(f"{CLUSTER_LABEL} is the cluster's name.", "Leave it out: each cluster has it.")
    return () if labels == cluster.labels else (ClusterLabelled(cluster.name, labels),)


def _check_node(node: str) -> None:
    if not _NODE.fullmatch(node):
        raise InvalidError(f"{node[:260]!r} is not a node's name.", "Write it as Kubernetes does.")


def _title(text: str) -> str:
    if len(text) > _LONGEST_TITLE or not text.isprintable():
        raise InvalidError("The title is too long, or no text.", f"Write {_LONGEST_TITLE} characters at most.")
    return text


def _check_end(expires_at: int | None, now: int) -> None:
    if expires_at is not None and expires_at <= now:
        raise InvalidError("The token would have expired already.", "Choose a later end.")
