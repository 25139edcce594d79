"""The audit log: the event log itself, and the requests that were refused."""

from __future__ import annotations

import re
from heapq import merge
from typing import Final

from fastapi import APIRouter

from control_plane.access.refusals import RefusalRecorder
from control_plane.domain.access import Operation
from control_plane.http.context import Paging, TheCaller, TheGate, ThePaging, ThePlane, permit
from control_plane.http.documents import AuditDocument, EventDocument, HeadDocument, Page, RefusalDocument
from control_plane.http.lists import EventSort, Exactly, Milliseconds, having, read_page
from control_plane.http.problems import MalformedError, responses
from control_plane.http.tenants import existing
from control_plane.read_models.listing import between
from control_plane.read_models.lists import EVENTS
from control_plane.service import ControlPlane
from control_plane.store.event_store import event_of
from control_plane.store.records import START

router = APIRouter(prefix="/v1/tenants/{tenant}", responses=responses())
_PLACE: Final = re.compile(r"(\d{1,15})\.(\d{1,15})")
"""Of the last event, and of the last refusal that was read."""


def _place(paging: Paging) -> tuple[int, int]:
    found = _PLACE.fullmatch(paging.after or "0.0")
    if not found:
        raise _no_cursor()
    return int(found[1]), int(found[2])


def _refusals(
    plane: ControlPlane, recorder: RefusalRecorder, tenant: str, after: int, limit: int
) -> list[RefusalDocument]:
    recorder.flush()
    return [RefusalDocument.describe(each) for each in plane.store.refusals.read(tenant, after, limit, plane.now_ms)]


@router.get("/audit")
def list_audit(
    plane: ThePlane, caller: TheCaller, gate: TheGate, tenant: str, paging: ThePaging
) -> Page[AuditDocument]:
    """What happened and what was refused, by time, the first first."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    position, number = _place(paging)
    events = [
        (each.at, 0, each.position, AuditDocument(at=each.at, event=EventDocument.describe(each)))
        for each in plane.store.read(tenant, position, paging.limit + 1)
    ]
    refusals = [
        (each.at, 1, each.number, AuditDocument(at=each.at, refusal=each))
        for each in _refusals(plane, gate.recorder, tenant, number, paging.limit + 1)
    ]
    found = []
    # Each in its own order, also where a clock went back.
    for _, refused, count, document in merge(events, refusals, key=lambda each: each[:2]):
        position, number = (position, count) if refused else (count, number)
        found.append((f"{position}.{number}", document))
    items, after = paging.page(found[: paging.limit + 1])
    return Page(items=items, next=after)


@router.get("/refusals")
def list_refusals(
    plane: ThePlane, caller: TheCaller, gate: TheGate, tenant: str, paging: ThePaging
) -> Page[RefusalDocument]:
    """Requests that were refused: the newest 10,000 of known authors and of others, at most 90 days old."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    found = _refusals(plane, gate.recorder, tenant, _number(paging), paging.limit + 1)
    items, after = paging.page([(str(each.number), each) for each in found])
    return Page(items=items, next=after)


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


def _no_cursor() -> MalformedError:
    return MalformedError("This is no cursor of this list.", "Send `next` of the page before as it was received.")


def _number(paging: Paging) -> int:
    if paging.after and not (paging.after.isdecimal() and len(paging.after) <= 15):
        raise _no_cursor()
    return int(paging.after or 0)
