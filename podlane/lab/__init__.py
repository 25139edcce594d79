"""Network namespaces as data and as an edge: what ``podlane run``, ``podlane demo`` and the kernel tests stand on."""

from __future__ import annotations

from podlane.lab.lab import Endpoint, Host, Lab, Link
from podlane.lab.namespace import Namespace
from podlane.lab.topology import PodNodeServer, pod_node_server

__all__ = ["Endpoint", "Host", "Lab", "Link", "Namespace", "PodNodeServer", "pod_node_server"]
