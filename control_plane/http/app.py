"""The application: all routes, and what holds for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.access.gate import Gate
from control_plane.access.refusals import RefusalRecorder
from control_plane.alerts.desk import AlertDesk, desk_of
from control_plane.fleet.agent_status import FleetStatus
from control_plane.fleet.invitation import Invitation
from control_plane.fleet.past import LanePast
from control_plane.health import Dependency
from control_plane.http import (
    agents,
    audit,
    clusters,
    grants,
    health,
    login,
    metrics,
    policies,
    progress,
    questions,
    rollouts,
    tenants,
)
from control_plane.http.alerting import routes as alerts
from control_plane.http.policy import budgets, names, preview, trial
from control_plane.http.problems import ProblemDocument, install, problem_response
from control_plane.http.refused import RefusalNotes
from control_plane.http.traced import TracedRequests
from control_plane.live import place
from control_plane.live.place import LivePlace
from control_plane.live.rows import DOCUMENTED
from control_plane.metrics import ControlPlaneMetrics
from control_plane.service import ControlPlane
from control_plane.web_pages import WebFiles
from daemon.version import installed_version

_LONGEST_BODY: Final = 2**19
"""Bytes. A policy of 254 classes with a dozen names each is some 200 kB."""


def create_app(
    plane: ControlPlane,
    fleet: FleetStatus | None = None,
    invitation: Invitation | None = None,
    dependencies: Sequence[Dependency] = (),
    gate: Gate | None = None,
    connections: Callable[[], int] = lambda: 0,
    prometheus: str = "",
    desk: AlertDesk | None = None,
) -> FastAPI:
    """The application of a control plane. Without an invitation no agent can join.

    ``dependencies`` are told of at ``/healthz``, besides the database; ``connections`` is how many agents have,
    ``prometheus`` the URL of one that knows figures of long ago. Who starts it has the gate's recorder write.
    """
    gate = gate or Gate(plane, RefusalRecorder(plane), requests=0)
    app = FastAPI(
        title="Podlane",
        version=installed_version() or "source",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.plane = plane
    app.state.fleet = fleet or FleetStatus()
    app.state.invitation = invitation
    app.state.gate = gate
    app.state.past = LanePast(prometheus)
    app.state.live = LivePlace(plane, app.state.fleet, gate)
    app.state.metrics = ControlPlaneMetrics(plane, app.state.fleet, app.state.live, dependencies, connections)
    app.state.alerts = desk or desk_of(plane)
    rooms = (
        login,
        tenants,
        grants,
        clusters,
        agents,
        policies,
        budgets,
        preview,
        trial,
        names,
        progress,
        questions,
        rollouts,
        alerts,
        audit,
        place,
        metrics,
    )
    for room in rooms:
        app.include_router(room.router)
    app.include_router(health.router_of(plane, dependencies))
    app.router.default = WebFiles(app.router.not_found)
    install(app)
    app.add_middleware(_BodyLimit)
    app.add_middleware(TracedRequests, plane=plane)
    app.add_middleware(RefusalNotes, plane, gate.recorder)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        components = schema["components"]["schemas"]
        if "ProblemDocument" not in components:
            document = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            components.update(document.pop("$defs"))
            components["ProblemDocument"] = document
            for row in DOCUMENTED:
                components[row.__name__] = row.model_json_schema(ref_template="#/components/schemas/{model}")
                components.update(components[row.__name__].pop("$defs", {}))
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _BodyLimit:
    """Refuses a body that is too long before it is in memory, whether or not its length is said."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if len(body) > _LONGEST_BODY:
                remedy = f"Send at most {_LONGEST_BODY} bytes."
                response = problem_response(413, "too-long", "The request is too long", "The body is too long.", remedy)
                await response(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)
