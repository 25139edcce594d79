"""What requests and responses have in their bodies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from control_plane.domain.access import Role
from control_plane.domain.events import Event, encode
from control_plane.domain.rollout import RolloutState
from control_plane.domain.tenant import MemberCluster, Policy, PolicyContent, Tenant
from control_plane.read_models.projection import NEVER
from control_plane.store.records import StoredEvent
from control_plane.store.refusals import RefusedRequest

_Item = TypeVar("_Item", bound=BaseModel)


class Asked(BaseModel):
    """A body that is sent to us: an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[_Item]):
    """A part of a list. ``next`` is the cursor of what follows; null at the end."""

    items: list[_Item]
    next: str | None


class CallerDocument(BaseModel):
    """Whose request it is. ``tenant`` and ``token`` are null for a user of the identity provider."""

    author: str
    tenant: str | None
    token: str | None
    roles: dict[str, Role]


class SessionDocument(BaseModel):
    """``csrf_token`` is null for who sends a token and no cookie."""

    author: str
    roles: dict[str, Role]
    csrf_token: str | None


class SignInDocument(BaseModel):
    """``provider``: whether ``/v1/login`` leads to an identity provider; else there are tokens alone."""

    provider: bool


class LogoutDocument(BaseModel):
    logout_url: str | None


class DeviceDocument(BaseModel):
    """RFC 8628, section 3.2. Times are in seconds."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    expires_in: int
    interval: int = 5


class DeviceWish(Asked):
    device_code: Annotated[str, Field(min_length=1, max_length=4000)]


class RefreshWish(Asked):
    refresh_token: Annotated[str, Field(min_length=1, max_length=16_000)]


class LoginTokens(BaseModel):
    """``access_token`` is sent as Bearer, for ``expires_in`` seconds."""

    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: int | None = None
    pending: str | None = None


class TenantWish(Asked):
    title: str = ""


class QuotaDocument(Asked):
    """So many at most; null: as many as it likes."""

    agents: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    policies: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class TenantDocument(BaseModel):
    """``agents`` and ``policies`` (with a draft, or in force) is how many there are."""

    name: str
    title: str
    version: int
    agents: int
    policies: int
    quota: QuotaDocument

    @classmethod
    def describe(cls, tenant: Tenant) -> TenantDocument:
        return cls(
            name=tenant.name,
            title=tenant.title,
            version=tenant.version("tenant"),
            agents=tenant.agent_count,
            policies=tenant.policy_count,
            quota=QuotaDocument(agents=tenant.quota.agents, policies=tenant.quota.policies),
        )


class CapsWish(Asked):
    """The most that a policy may say; null: anything. Rates are texts, as ``1Gbit``. ``beyond``: a policy that says
    more is refused, or lowered (``clamp``)."""

    total: str | None = None
    ingress: str | None = None
    ceil: str | None = None
    priority: int | None = None
    beyond: Literal["refuse", "clamp"] = "refuse"


class CapsDocument(CapsWish):
    """``version`` 0: there never were any."""

    version: int

    @classmethod
    def describe(cls, tenant: Tenant) -> CapsDocument:
        return cls(**tenant.caps, beyond="clamp" if tenant.clamps else "refuse", version=tenant.version("caps"))


class TokenWish(Asked):
    """``expires_in`` in seconds, at most ten years; null: never."""

    title: str = ""
    role: Role
    expires_in: Annotated[int, Field(ge=1, le=315_360_000)] | None = 7_776_000


class TokenDocument(BaseModel):
    """``token`` is the text to be used. It is told once, and null ever after."""

    id: str
    title: str
    role: Role
    expires_at: int | None
    token: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> TokenDocument:
        """From :data:`~control_plane.read_models.lists.TOKENS`."""
        end = row["expires_at"]
        return cls(id=row["id"], title=row["title"], role=Role(row["role"]), expires_at=None if end == NEVER else end)


class GrantWish(Asked):
    role: Role


class GrantDocument(BaseModel):
    """Whoever the identity provider says is in the group has the role."""

    group: str
    role: Role
    version: int


class JoinTokenWish(Asked):
    """``expires_in`` in seconds, at most a week. ``node``: the only one that may use it; empty: any that has no agent
    yet."""

    expires_in: Annotated[int, Field(ge=1, le=604_800)] = 3600
    node: str = ""


class JoinTokenDocument(BaseModel):
    """``token`` is told once, and null ever after, as is ``control_plane``, HOST:PORT of the agents' port (without a
    host: that of this API)."""

    id: str
    expires_at: int
    node: str = ""
    token: str | None = None
    control_plane: str | None = None


class ClusterLabels(Asked):
    """All labels that the nodes of a cluster have."""

    labels: dict[str, str]


class ClusterDocument(BaseModel):
    """``labels`` are those of all its nodes; besides, each has ``podlane.io/cluster``."""

    name: str
    agents: int
    join_tokens: int
    labels: dict[str, str]
    version: int

    @classmethod
    def describe(cls, cluster: MemberCluster, version: int) -> ClusterDocument:
        return cls(
            name=cluster.name,
            agents=len(cluster.agents),
            join_tokens=len(cluster.join_tokens),
            labels=dict(cluster.labels),
            version=version,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ClusterDocument:
        """From :data:`~control_plane.read_models.lists.CLUSTERS`."""
        return cls(**{**row, "labels": json.loads(row["labels"])})


class AgentDocument(BaseModel):
    """An agent that has joined. ``serial`` is that of its certificate, ``joined`` in Unix seconds."""

    cluster: str
    node: str
    serial: str
    joined: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> AgentDocument:
        """From :data:`~control_plane.read_models.lists.AGENTS`."""
        return cls(**{name: row[name] for name in cls.model_fields})


class ContentDocument(BaseModel):
    """A policy in the grammar of policy files, the labels of the workloads that it is for, and those of their nodes."""

    document: dict[str, Any]
    selector: dict[str, str]
    nodes: dict[str, str]

    @classmethod
    def describe(cls, content: PolicyContent) -> ContentDocument:
        return cls(document=dict(content.document), selector=dict(content.selector), nodes=dict(content.nodes))

    @classmethod
    def parse(cls, document: str, selector: str, nodes: str) -> ContentDocument:
        """From JSON."""
        return cls(document=json.loads(document), selector=json.loads(selector), nodes=json.loads(nodes))


class DraftWish(Asked):
    """``selector``: labels of workloads (``podlane.io/namespace`` is the namespace). ``nodes``: labels of nodes
    (``podlane.io/cluster`` is the cluster). Empty: all."""

    document: dict[str, Any]
    selector: dict[str, str] = {}
    nodes: dict[str, str] = {}


class PolicyWish(Asked):
    document: dict[str, Any]


class PolicyCheck(BaseModel):
    """The policy in its normal form, and what it means."""

    document: dict[str, Any]
    meaning: str


class PolicyDocument(BaseModel):
    """``revision`` is the number of the newest, 0 before the first.

    ``in_force`` is the content of the newest that was neither taken back nor removed; while ``rollout`` is running or
    paused, agents that it has not reached have the one before. ``clamped``: what the tenant's caps have lowered in the
    draft, or, without one, in what is in force; null in lists.
    """

    name: str
    version: int
    revision: int
    in_force: ContentDocument | None
    draft: ContentDocument | None
    rollout: RolloutState | None
    clamped: list[str] | None = None

    @classmethod
    def describe(cls, policy: Policy, version: int) -> PolicyDocument:
        shown = policy.draft or policy.in_force
        return cls(
            clamped=[] if shown is None else list(shown.clamped),
            name=policy.name,
            version=version,
            revision=len(policy.revisions),
            in_force=None if policy.in_force is None else ContentDocument.describe(policy.in_force),
            draft=None if policy.draft is None else ContentDocument.describe(policy.draft),
            rollout=None if policy.rollout is None else policy.rollout.state,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> PolicyDocument:
        """From :data:`~control_plane.read_models.lists.POLICIES`."""
        return cls(
            name=row["name"],
            version=row["version"],
            revision=row["revision"],
            in_force=_content(row, "") if row["in_force"] else None,
            draft=_content(row, "draft_") if row["drafted"] else None,
            rollout=RolloutState(row["rollout"]) if row["rollout"] else None,
        )


def _content(row: Mapping[str, Any], prefix: str) -> ContentDocument:
    return ContentDocument.parse(*(row[f"{prefix}{name}"] for name in ("document", "selector", "nodes")))


class RevisionDocument(ContentDocument):
    revision: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> RevisionDocument:
        """From :data:`~control_plane.read_models.lists.REVISIONS`."""
        return cls(revision=row["revision"], **_content(row, "").model_dump())


class EventDocument(BaseModel):
    """An entry of the audit log. ``at`` is in milliseconds of Unix time; ``digest`` is chained to the one before."""

    tenant: str
    position: int
    subject: str
    kind: str
    data: dict[str, Any]
    author: str
    address: str
    reason: str
    at: int
    digest: str

    @classmethod
    def describe(cls, event: StoredEvent) -> EventDocument:
        return cls(**{name: getattr(event, name) for name in cls.model_fields})


class RefusalDocument(BaseModel):
    """A request that was refused, or ``count`` alike within a second. ``at`` is in milliseconds of Unix time.

    ``known``: the author's token was valid; else ``author`` is only what was claimed. ``operation`` is method and path.
    """

    tenant: str
    number: int
    at: int
    author: str
    known: bool
    address: str
    operation: str
    status: int
    problem: str
    detail: str
    reason: str
    count: int

    @classmethod
    def describe(cls, refused: RefusedRequest) -> RefusalDocument:
        return cls(**{name: getattr(refused, name) for name in cls.model_fields})


class AuditDocument(BaseModel):
    """One of both: what happened, or what was refused."""

    at: int
    event: EventDocument | None = None
    refusal: RefusalDocument | None = None


class HeadDocument(BaseModel):
    """Where the log ends."""

    position: int
    digest: str


class HappenedEvent(BaseModel):
    """One thing that a request has made happen."""

    kind: str
    data: dict[str, Any]


class Happened(BaseModel):
    """What a request has made happen; with ``dry_run`` what it would have, and nothing did."""

    events: list[HappenedEvent]
    dry_run: bool = False

    @classmethod
    def describe(cls, events: Iterable[Event], *, dry_run: bool = False) -> Happened:
        return cls(events=[HappenedEvent(kind=kind, data=data) for kind, data in map(encode, events)], dry_run=dry_run)
