"""The audit log, which is the event log itself."""

from __future__ import annotations

from fastapi import APIRouter

from control_plane.domain.access import Operation
from control_plane.http.context import TheCaller, ThePaging, ThePlane, permit
from control_plane.http.documents import EventDocument, HeadDocument, Page
from control_plane.http.problems import MalformedError, responses
from control_plane.http.tenants import existing
from control_plane.store.records import START

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())


@router.get("/events")
def list_events(plane: ThePlane, caller: TheCaller, tenant: str, paging: ThePaging) -> Page[EventDocument]:
    """Every change there ever was, the first first: by whom, from where, why."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    if paging.after and not (paging.after.isdecimal() and len(paging.after) <= 15):
        raise MalformedError("This is no cursor of events.", "Send `next` of the page before as it was received.")
    events = plane.store.read(tenant, int(paging.after or 0), paging.limit + 1)
    items, after = paging.page([(str(event.position), EventDocument.describe(event)) for event in events])
    return Page(items=items, next=after)


@router.get("/events/head")
def get_head(plane: ThePlane, caller: TheCaller, tenant: str) -> HeadDocument:
    """Where the log ends: note the digest elsewhere, and nobody can shorten the log unseen."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    head = plane.store.heads().get(tenant, START)
    return HeadDocument(position=head.position, digest=head.digest)
