"""Tenants and their tokens."""

from __future__ import annotations

from fastapi import APIRouter, Response

from control_plane.bootstrap import new_token
from control_plane.domain.access import Operation, Role
from control_plane.domain.commands import (
    CloseTenant,
    CreateTenant,
    IssueToken,
    LimitTenant,
    RetitleTenant,
    RevokeToken,
    SetCaps,
)
from control_plane.domain.errors import UnknownSubjectError
from control_plane.domain.events import TokenIssued
from control_plane.domain.quota import TenantQuota
from control_plane.domain.tenant import Tenant
from control_plane.http.context import TheCaller, ThePaging, ThePlane, TheWriting, permit, tag
from control_plane.http.documents import (
    CallerDocument,
    CapsDocument,
    CapsWish,
    Happened,
    Page,
    QuotaDocument,
    TenantDocument,
    TenantWish,
    TokenDocument,
    TokenWish,
)
from control_plane.http.lists import TokenSort, having, read_page
from control_plane.http.problems import responses
from control_plane.read_models.lists import TOKENS
from control_plane.service import Caller, ControlPlane

router = APIRouter(prefix="/v1", responses=responses())
CHANGES = responses(409, 412, 413)


def existing(tenant: Tenant) -> Tenant:
    """Raises :class:`UnknownSubjectError`."""
    if not tenant.open:
        raise UnknownSubjectError(f"There is no tenant {tenant.name[:70]}.", "Look at the list of tenants.")
    return tenant


@router.get("/whoami")
def whoami(plane: ThePlane, caller: TheCaller) -> CallerDocument:
    """Whose request this is, and what roles that gives."""
    roles = roles_of(plane, caller)
    return CallerDocument(author=caller.author, tenant=caller.tenant or None, token=caller.token or None, roles=roles)


def roles_of(plane: ControlPlane, caller: Caller) -> dict[str, Role]:
    """The roles of a caller, by tenant."""
    homes = [caller.tenant] if caller.tenant else plane.names()
    return {home: role for home in homes if (role := caller.role_in(home))}


@router.get("/tenants")
def list_tenants(plane: ThePlane, caller: TheCaller, paging: ThePaging) -> Page[TenantDocument]:
    """Those that the caller may see: all, for the platform's administrators."""
    found = []
    for name in plane.names():
        with plane.reading(name) as tenant:
            document = TenantDocument.describe(tenant) if tenant.open else None
        if document and caller.may(Operation.READ, name):
            found.append((name, document))
    items, after = paging.cut(found)
    return Page(items=items, next=after)


@router.get("/tenants/{tenant}")
def get_tenant(plane: ThePlane, caller: TheCaller, tenant: str, response: Response) -> TenantDocument:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        tag(response, existing(state).version("tenant"))
        return TenantDocument.describe(state)


@router.put("/tenants/{tenant}", responses=CHANGES)
def put_tenant(writing: TheWriting, tenant: str, wish: TenantWish, response: Response) -> TenantDocument | Happened:
    """Create it, or change its title."""
    permit(writing.caller, Operation.GOVERN, tenant)
    with writing.plane.reading(tenant) as state:
        command = RetitleTenant(wish.title) if state.open else CreateTenant(wish.title)
    happened = writing.carry_out(Operation.GOVERN, tenant, command, response)
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return TenantDocument.describe(state)


@router.put("/tenants/{tenant}/quota", responses=CHANGES)
def limit_tenant(
    writing: TheWriting, tenant: str, wish: QuotaDocument, response: Response
) -> TenantDocument | Happened:
    """How many agents and policies it may have. What is there stays."""
    command = LimitTenant(TenantQuota(wish.agents, wish.policies))
    happened = writing.carry_out(Operation.GOVERN, tenant, command, response)
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return TenantDocument.describe(state)


@router.delete("/tenants/{tenant}", responses=CHANGES)
def close_tenant(writing: TheWriting, tenant: str, response: Response) -> Happened:
    """For good: its name cannot be had again. Its log stays."""
    return writing.carry_out(Operation.GOVERN, tenant, CloseTenant(), response)


@router.get("/tenants/{tenant}/caps")
def get_caps(plane: ThePlane, caller: TheCaller, tenant: str, response: Response) -> CapsDocument:
    """The most that policies of the tenant may say."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        document = CapsDocument.describe(existing(state))
    tag(response, document.version)
    return document


@router.put("/tenants/{tenant}/caps", responses=CHANGES)
def put_caps(writing: TheWriting, tenant: str, wish: CapsWish, response: Response) -> CapsDocument | Happened:
    """They count for what is drafted and published from now on: what is in force stays as it is."""
    command = SetCaps(wish.model_dump(exclude={"beyond"}, exclude_none=True), wish.beyond == "clamp")
    happened = writing.carry_out(Operation.GOVERN, tenant, command, response)
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return CapsDocument.describe(state)


@router.get("/tenants/{tenant}/tokens")
def list_tokens(
    plane: ThePlane,
    caller: TheCaller,
    tenant: str,
    paging: ThePaging,
    sort: TokenSort = "id",
    role: Role | None = None,
) -> Page[TokenDocument]:
    """Those that are not revoked, also if they have expired."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    rows, following = read_page(plane, TOKENS, tenant, paging, sort, having("role", role))
    return Page(items=[TokenDocument.from_row(row) for row in rows], next=following)


@router.post("/tenants/{tenant}/tokens", status_code=201, responses=CHANGES)
def issue_token(writing: TheWriting, tenant: str, wish: TokenWish, response: Response) -> TokenDocument | Happened:
    """Its text is in the answer, and nowhere else: a repeated request is answered without."""
    text = new_token(tenant)
    end = None if wish.expires_in is None else writing.plane.now + wish.expires_in
    command = IssueToken(text.id, wish.title, wish.role, text.digest, end)
    happened = writing.carry_out(Operation.ADMINISTER, tenant, command, response)
    if happened.dry_run:
        return happened
    issued = TokenIssued(**happened.events[0].data)
    return TokenDocument(
        id=issued.id,
        title=issued.title,
        role=wish.role,
        expires_at=issued.expires_at,
        token=str(text) if issued.id == text.id else None,
    )


@router.delete("/tenants/{tenant}/tokens/{token}", responses=CHANGES)
def revoke_token(writing: TheWriting, tenant: str, token: str, response: Response) -> Happened:
    return writing.carry_out(Operation.ADMINISTER, tenant, RevokeToken(token), response)
