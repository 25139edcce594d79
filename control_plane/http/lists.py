"""Lists: what can be asked of them, and a page of one from the tables that queries read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import Query

from control_plane.http.context import Paging
from control_plane.http.problems import MalformedError
from control_plane.read_models.listing import Filter, Listing, begins, equal
from control_plane.read_models.lists import EVENTS
from control_plane.service import ControlPlane
from control_plane.store.database import Value

_AT_ONCE: Final = 1000
_SORT: Final = Query(description="The order; with - before it, backwards.")

PolicySort = Annotated[Literal["name", "-name", "version", "-version"], _SORT]
RevisionSort = Annotated[Literal["revision", "-revision"], _SORT]
ClusterSort = Annotated[Literal["name", "-name", "agents", "-agents"], _SORT]
JoinTokenSort = Annotated[Literal["id", "-id", "expires_at", "-expires_at"], _SORT]
AgentSort = Annotated[Literal["node", "-node", "joined", "-joined"], _SORT]
TokenSort = Annotated[Literal["id", "-id", "title", "-title", "expires_at", "-expires_at"], _SORT]
EventSort = Annotated[Literal["position", "-position"], _SORT]
AlertSort = Annotated[Literal["at", "-at", "rule", "-rule"], _SORT]
RuleSort = Annotated[Literal["name", "-name", "version", "-version"], _SORT]
SilenceSort = Annotated[Literal["id", "-id", "ends_at", "-ends_at"], _SORT]
ChannelSort = Annotated[Literal["name", "-name"], _SORT]
AlertStateWanted = Annotated[Literal["firing", "resolved"] | None, Query(description="Only those that are so.")]

Prefix = Annotated[str, Query(pattern="^[a-z0-9.-]{0,253}$", description="Only those that begin so.")]
Exactly = Annotated[str | None, Query(pattern="^[ -~]{1,400}$", description="Only those with this value.")]
Yes = Annotated[bool | None, Query(description="Only those that have one (true), or none (false).")]
Milliseconds = Annotated[int | None, Query(ge=0, le=2**53, description="In milliseconds of Unix time.")]


def read_page(
    plane: ControlPlane,
    listing: Listing,
    tenant: str,
    paging: Paging,
    sort: str,
    filters: Sequence[Filter] = (),
    wanted: Callable[[Mapping[str, Any]], bool] | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """Rows by their columns' names, and the cursor of what follows.

    ``wanted`` filters by what is in no table; then all may have to be read. Raises :class:`MalformedError`.
    """
    after: Sequence[Value] = _place(listing, sort, paging.after) if paging.after else ()
    read = plane.lists.log_page if listing is EVENTS else plane.lists.page
    at_once = paging.limit + 1 if wanted is None else _AT_ONCE
    found: list[dict[str, Any]] = []
    while True:
        rows = read(listing, tenant, filters=filters, order=sort, after=after, limit=at_once)
        for row in rows:
            named = dict(zip(listing.columns, row, strict=True))
            if wanted is None or wanted(named):
                if len(found) == paging.limit:
                    place = listing.place(sort, tuple(found[-1].values()))
                    return found, paging.cursor(json.dumps([sort, *place]))
                found.append(named)
        if len(rows) < at_once:
            return found, None
        after = listing.place(sort, rows[-1])


def _place(listing: Listing, sort: str, cursor: str) -> list[Any]:
    try:
        match json.loads(cursor):
            case [str(order), *place] if order == sort and listing.is_place(sort, place):
                return place
    except (ValueError, RecursionError):
        pass
    raise MalformedError("This is no cursor of this list.", "Send `next` of the page before, with the same `sort`.")


def prefixed(column: str, prefix: str) -> list[Filter]:
    """Rows that begin so; all, if there is no prefix."""
    return [begins(column, prefix)] if prefix else []


def having(column: str, value: str | None) -> list[Filter]:
    """Rows with this value; all, if there is none."""
    return [] if value is None else [equal(column, str(value))]


def present(column: str, yes: bool | None) -> list[Filter]:
    """Rows whose number is above 0, or is 0; all, if neither is asked for."""
    return [] if yes is None else [Filter(f"{column} {'>' if yes else '='} 0", ())]
