"""``/metrics`` for Prometheus. It tells of all tenants, so that it wants a role in the platform's."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from control_plane.domain.access import PLATFORM, Operation
from control_plane.http.context import TheCaller, permit
from control_plane.metrics import ControlPlaneMetrics
from daemon.prometheus_text import CONTENT_TYPE

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
def get_metrics(request: Request, caller: TheCaller) -> Response:
    """In Prometheus' text format: not in the OpenAPI document, whose operations all speak JSON."""
    permit(caller, Operation.READ, PLATFORM)
    metrics: ControlPlaneMetrics = request.app.state.metrics
    return Response(metrics.render(), media_type=CONTENT_TYPE)
