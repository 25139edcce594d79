"""Which groups of the identity provider have which role in a tenant."""

from __future__ import annotations

from fastapi import APIRouter, Response

from control_plane.domain.access import Operation
from control_plane.domain.commands import GrantGroup, RevokeGrant
from control_plane.http.context import TheCaller, ThePaging, ThePlane, TheWriting, permit
from control_plane.http.documents import GrantDocument, GrantWish, Happened, Page
from control_plane.http.problems import responses
from control_plane.http.tenants import CHANGES, existing

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())


@router.get("/grants")
def list_grants(plane: ThePlane, caller: TheCaller, tenant: str, paging: ThePaging) -> Page[GrantDocument]:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        found = [
            (group, GrantDocument(group=group, role=role, version=state.version(f"grant/{group}")))
            for group, role in existing(state).grants.items()
        ]
    items, after = paging.cut(found)
    return Page(items=items, next=after)


@router.put("/grants/{group:path}", responses=CHANGES)
def grant_group(writing: TheWriting, tenant: str, group: str, wish: GrantWish, response: Response) -> Happened:
    """Give a group a role, instead of the one that it has."""
    return writing.carry_out(Operation.ADMINISTER, tenant, GrantGroup(group, wish.role), response)


@router.delete("/grants/{group:path}", responses=CHANGES)
def revoke_grant(writing: TheWriting, tenant: str, group: str, response: Response) -> Happened:
    return writing.carry_out(Operation.ADMINISTER, tenant, RevokeGrant(group), response)
