"""``/healthz``: whether requests can be served, and which dependency is away since when; ``/readyz``: whether to send
any. Neither asks for a token."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel

from control_plane.health import Dependency, DependencyState
from control_plane.service import ControlPlane
from control_plane.store.errors import StoreError


class DependencyDocument(BaseModel):
    """``state`` is up, away, or unknown; ``since`` in RFC 3339."""

    name: str
    state: str
    since: str

    @classmethod
    def describe(cls, state: DependencyState) -> DependencyDocument:
        """Without what is wrong, which may name hosts: the log has it."""
        word = "unknown" if state.up is None else "up" if state.up else "away"
        since = datetime.fromtimestamp(state.since, UTC).isoformat(timespec="seconds")
        return cls(name=state.name, state=word, since=since)


class HealthDocument(BaseModel):
    """``serving``: the database answers, without which nothing can be read or written."""

    serving: bool
    dependencies: list[DependencyDocument]


def router_of(plane: ControlPlane, dependencies: Sequence[Dependency]) -> APIRouter:
    """The route, for probes: not in the OpenAPI document, whose operations all want a token."""
    router = APIRouter(include_in_schema=False)
    database = Dependency("database")

    @router.get("/healthz")
    @router.get("/readyz")
    def get_health(response: Response) -> HealthDocument:
        """The same for both: without the database nothing can be served, and without anything else most can."""
        try:
            with plane.store.database.reading() as execute:
                execute("SELECT 1")
            database.is_up()
        except StoreError as error:
            database.is_away(str(error))
            response.status_code = 503
        states = [each.state for each in (database, *dependencies)]
        described = [DependencyDocument.describe(state) for state in states]
        return HealthDocument(serving=states[0].up is True, dependencies=described)

    return router
