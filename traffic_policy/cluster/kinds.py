"""The names of the kinds that Podlane adds to a cluster."""

from __future__ import annotations

from typing import Final

GROUP: Final = "podlane.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
TRAFFIC_POLICY: Final = "TrafficPolicy"
CLUSTER_TRAFFIC_POLICY: Final = "ClusterTrafficPolicy"
KINDS: Final = (TRAFFIC_POLICY, CLUSTER_TRAFFIC_POLICY)
"""Those of policies."""
TRAFFIC_REPORT: Final = "TrafficReport"
"""What the agent of a node has in force; one for each node, of its name."""


def plural(kind: str) -> str:
    """As in the path of its objects: ``trafficpolicies``."""
    return f"{kind.lower().removesuffix('y')}ies" if kind.endswith("y") else f"{kind.lower()}s"
