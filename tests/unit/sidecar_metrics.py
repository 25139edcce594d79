"""All metrics that a sidecar exports, without a sidecar."""

from __future__ import annotations

from datapath.enforcement import Repairs
from sidecar.config.reload_status import ReloadStatus
from sidecar.observability.metrics import EnforcementMetrics, Metrics, ReceivedMetrics, Workers
from sidecar.supervisor.client import RestartMetrics


def rendered_metrics() -> bytes:
    """In Prometheus' text format."""
    return Metrics(
        lambda: (),
        Workers,
        ReloadStatus(),
        ReceivedMetrics(lambda: None),
        RestartMetrics(None),
        EnforcementMetrics(Repairs),
    ).render()
