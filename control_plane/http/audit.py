"""The audit log, which is the event log itself."""

from __future__ import annotations

from fastapi import APIRouter

from control_plane.domain.access import Operation
from control_plane.http.context import TheCaller, ThePaging, ThePlane, permit
from control_plane.http.documents import EventDocument, HeadDocument, Page
from control_plane.http.lists import EventSort, Exactly, Milliseconds, having, read_page
from control_plane.http.problems import responses
from control_plane.http.tenants import existing
from control_plane.read_models.listing import between
from control_plane.read_models.lists import EVENTS
from control_plane.store.event_store import event_of
from control_plane.store.records import START

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())


@router.get("/events")
def list_events(
    plane: ThePlane,
    caller: TheCaller,
    tenant: str,
    paging: ThePaging,
    sort: EventSort = "position",
    author: Exactly = None,
    subject: Exactly = None,
    kind: Exactly = None,
    since: Milliseconds = None,
    until: Milliseconds = None,
) -> Page[EventDocument]:
    """Every change there ever was: by whom, from where, why. `until` itself is left out."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    filters = [*having("author", author), *having("subject", subject), *having("kind", kind)]
    filters += between("at", since, until)
    rows, following = read_page(plane, EVENTS, tenant, paging, sort, filters)
    events = [event_of(list(row.values())) for row in rows]
    return Page(items=[EventDocument.describe(event) for event in events], next=following)


@router.get("/events/head")
def get_head(plane: ThePlane, caller: TheCaller, tenant: str) -> HeadDocument:
    """Where the log ends: note the digest elsewhere, and nobody can shorten the log unseen."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    head = plane.store.heads().get(tenant, START)
    return HeadDocument(position=head.position, digest=head.digest)
