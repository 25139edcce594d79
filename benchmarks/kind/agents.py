"""The agent of a node, and its lanes in a Pod, as the API server knows them."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.errors import MeasurementError
from benchmarks.kind.cluster import Api, ClusterError, until
from benchmarks.kind.manifests import Place

_AGENTS: Final = "labelSelector=app.kubernetes.io/part-of=podlane,app.kubernetes.io/component=agent"
AGENTS_CONTAINER: Final = "agent"
_PATIENCE: Final = 30.0
"""Seconds for lanes to be in force in a Pod that is ready."""


def agent_of(api: Api, node: str) -> tuple[str, str]:
    """Namespace and name of the agent's Pod on a node. Raises :class:`MeasurementError`, :class:`ClusterError`."""
    for pod in _items(api, f"/api/v1/pods?{_AGENTS}&fieldSelector=spec.nodeName={node}"):
        if "deletionTimestamp" not in pod["metadata"]:
            return pod["metadata"]["namespace"], pod["metadata"]["name"]
    raise MeasurementError(
        f"the node {node} has no agent: Podlane is installed without (agent.enabled), or choose variants by --only"
    )


def until_in_force(api: Api, place: Place, pod: str) -> None:
    """Wait for the Event by which the agent says that a Pod's lanes are in force.

    Raises :class:`MeasurementError`, :class:`ClusterError`.
    """
    uid = api.get(f"/api/v1/namespaces/{place.namespace}/pods/{pod}")["metadata"]["uid"]
    events = f"/api/v1/namespaces/{place.namespace}/events?fieldSelector=involvedObject.uid={uid}"
    try:
        until(
            f"lanes in {pod}",
            lambda: any(event["reason"] == "LanesProgrammed" for event in _items(api, events)),
            _PATIENCE,
        )
    except ClusterError:
        said = "; ".join(f"{event['reason']}: {event['message']}" for event in _items(api, events))
        raise MeasurementError(f"no agent has put lanes into {pod} within {_PATIENCE:g} s ({said})") from None


def _items(api: Api, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(path)["items"]
    return found
