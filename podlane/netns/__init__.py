"""Network namespaces as data and I/O, for ``podlane run``, ``podlane demo`` and the kernel tests."""

from __future__ import annotations

from podlane.netns.lab import Host, Lab, LinkEnd, VethPair
from podlane.netns.namespace import Namespace
from podlane.netns.topology import PodNodeServer, pod_node_server

__all__ = ["Host", "Lab", "LinkEnd", "Namespace", "PodNodeServer", "VethPair", "pod_node_server"]
