"""The topology of most tests and the demo: a Pod, its node, and a server behind the node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from podlane.netns.lab import Host, Lab, VethPair


@dataclass(frozen=True, slots=True)
class PodNodeServer:
    """``pod`` -- ``node`` (a router) -- ``server``; the Pod's interface is called eth0, as in Kubernetes."""

    lab: Lab
    pod: Host
    node: Host
    server: Host
    pod_link: VethPair
    server_link: VethPair

    @property
    def server_ipv4(self) -> str:
        return str(self.server_link.a.ipv4)

    @property
    def server_ipv6(self) -> str:
        return str(self.server_link.a.ipv6)


def pod_node_server(lab: Lab, *, sysctls: Mapping[str, str] | None = None) -> PodNodeServer:
    """Make the three hosts in ``lab``; ``sysctls`` are for the Pod and the server. Raises LabError."""
    pod = lab.host("pod", sysctls=sysctls)
    node = lab.host("node", forward=True)
    server = lab.host("server", sysctls=sysctls)
    return PodNodeServer(
        lab,
        pod,
        node,
        server,
        lab.link(pod, "eth0", node, "pod0", gateway=True),
        lab.link(server, "eth0", node, "server0", gateway=True),
    )
