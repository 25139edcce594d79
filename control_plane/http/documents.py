"""What requests and responses have in their bodies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from control_plane.domain.access import Role
from control_plane.domain.events import Event, encode
from control_plane.domain.rollout import RolloutState
from control_plane.domain.tenant import ApiToken, JoinToken, MemberCluster, Policy, PolicyContent, Tenant
from control_plane.store.records import StoredEvent

_Item = TypeVar("_Item", bound=BaseModel)


class Asked(BaseModel):
    """A body that is sent to us: an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[_Item]):
    """A part of a list. ``next`` is the cursor of what follows; null at the end."""

    items: list[_Item]
    next: str | None


class CallerDocument(BaseModel):
    """Whose token it is."""

    tenant: str
    token: str
    role: Role


class TenantWish(Asked):
    title: str = ""


class TenantDocument(BaseModel):
    name: str
    title: str
    version: int

    @classmethod
    def describe(cls, tenant: Tenant) -> TenantDocument:
        return cls(name=tenant.name, title=tenant.title, version=tenant.version("tenant"))


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
    def describe(cls, token: ApiToken, text: str | None = None) -> TokenDocument:
        return cls(id=token.id, title=token.title, role=token.role, expires_at=token.expires_at, token=text)


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

    @classmethod
    def describe(cls, token: JoinToken, text: str | None = None) -> JoinTokenDocument:
        return cls(id=token.id, expires_at=token.expires_at, node=token.node, token=text)


class ClusterDocument(BaseModel):
    name: str
    agents: int
    join_tokens: int
    version: int

    @classmethod
    def describe(cls, cluster: MemberCluster, version: int) -> ClusterDocument:
        return cls(name=cluster.name, agents=len(cluster.agents), join_tokens=len(cluster.join_tokens), version=version)


class AgentDocument(BaseModel):
    """An agent that has joined. ``serial`` is that of its certificate."""

    cluster: str
    node: str
    serial: str


class ContentDocument(BaseModel):
    """A policy in the grammar of policy files, and the labels of the workloads that it is for."""

    document: dict[str, Any]
    selector: dict[str, str]

    @classmethod
    def describe(cls, content: PolicyContent) -> ContentDocument:
        return cls(document=dict(content.document), selector=dict(content.selector))


class DraftWish(Asked):
    document: dict[str, Any]
    selector: dict[str, str] = {}


class PolicyWish(Asked):
    document: dict[str, Any]


class PolicyCheck(BaseModel):
    """The policy in its normal form, and what it means."""

    document: dict[str, Any]
    meaning: str


class PolicyDocument(BaseModel):
    """``revision`` is the number of the newest, 0 before the first.

    ``in_force`` is the content of the newest that was neither taken back nor removed; while ``rollout`` is running or
    paused, agents that it has not reached have the one before.
    """

    name: str
    version: int
    revision: int
    in_force: ContentDocument | None
    draft: ContentDocument | None
    rollout: RolloutState | None

    @classmethod
    def describe(cls, policy: Policy, version: int) -> PolicyDocument:
        return cls(
            name=policy.name,
            version=version,
            revision=len(policy.revisions),
            in_force=None if policy.in_force is None else ContentDocument.describe(policy.in_force),
            draft=None if policy.draft is None else ContentDocument.describe(policy.draft),
            rollout=None if policy.rollout is None else policy.rollout.state,
        )


class RevisionDocument(ContentDocument):
    revision: int


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
