"""TrafficPolicies and ClusterTrafficPolicies as documents."""

from __future__ import annotations

from typing import Any

API = "podlane.io/v1alpha1"


def lane(name: str, rate: str = "10Mbit", port: int = 25, **more: Any) -> dict[str, Any]:
    """A class."""
    return {"name": name, "rate": rate, "match": [{"port": [port]}], **more}


def traffic_policy(name: str, total: str | None = "100Mbit", **spec: Any) -> dict[str, Any]:
    """A TrafficPolicy; ``total`` None: without."""
    return {"apiVersion": API, "kind": "TrafficPolicy", "metadata": {"name": name}, "spec": _spec(total, spec)}


def cluster_traffic_policy(name: str, total: str | None = None, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "ClusterTrafficPolicy", "metadata": {"name": name}, "spec": _spec(total, spec)}


def _spec(total: str | None, spec: dict[str, Any]) -> dict[str, Any]:
    return {**({} if total is None else {"total": total}), **spec}
