"""A Pod with Istio's sidecar, a Pod of the same mesh behind the node, and a server outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from istio_proxy import Service
from istio_rules import IstioRules, Mode
from mesh_envoy import MeshEnvoy
from webserver import WebServer, start_nginx

from podlane.netns.topology import PodNodeServer

SERVICE: Final = "api.default.svc.cluster.local"
SERVICE_PORT: Final = 8000
"""Of the service; its Pod listens on another one."""
POD_SERVICE: Final = "web.default.svc.cluster.local"
"""The service of which the Pod under test is the only one."""
SUBSET: Final = "canary-of-the-next-version"
"""With it Istio's name of the service is longer than what programs keep of a name."""
VIRTUAL: Final = "10.96.0.10"
"""The service's address, which nobody has: Envoy knows the Pods behind it."""
OUTSIDE: Final = "files.example.com"


@dataclass
class MeshWorld:
    """``topology.pod`` is the one under test, ``topology.server`` the server outside, ``peer`` the other Pod."""

    topology: PodNodeServer
    envoy: MeshEnvoy
    rules: IstioRules
    peer_envoy: MeshEnvoy
    outside: WebServer

    def curl(self, *options: str, check: bool = True) -> str:
        """Run curl in the Pod, as an application would; gives what it printed."""
        argv = ["curl", "-sS", "-k", "--max-time", "15", *options]
        return self.topology.pod.run(argv, check=check).stdout

    def asks_service(self, path: str = "/who") -> str:
        """A request to the service of the mesh."""
        url = f"http://{SERVICE}:{SERVICE_PORT}{path}"
        return self.curl("--resolve", f"{SERVICE}:{SERVICE_PORT}:{VIRTUAL}", url)

    def asks_outside(self, scheme: str = "https", host: str = OUTSIDE) -> str:
        """A request to the server that is not in the mesh."""
        port = 443 if scheme == "https" else 80
        return self.curl("--resolve", f"{host}:{port}:{self.topology.server_ipv4}", f"{scheme}://{host}/who")

    def works(self) -> None:
        """All three kinds of requests get the answers that they should."""
        assert self.asks_service().startswith(f"|{SERVICE}|HTTP/1.1|")
        assert self.asks_outside() == f"{OUTSIDE}|{OUTSIDE}|HTTP/2.0|{self.topology.pod_link.a.ipv4}\n"
        assert self.asks_outside("http") == f"|{OUTSIDE}|HTTP/1.1|{self.topology.pod_link.a.ipv4}\n"


def meshed(topology: PodNodeServer, folder: Path, mode: Mode, *, rules: bool = True, native: bool = False) -> MeshWorld:
    """Make it; ``rules``: those of the Pod under test are installed, too, ``native``: as nftables of Istio's own."""
    peer = topology.lab.host("peer", sysctls={"net.ipv4.tcp_congestion_control": "reno"})
    address = str(topology.lab.link(peer, "eth0", topology.node, "peer0", gateway=True).a.ipv4)
    IstioRules(peer, Mode.REDIRECT).install()
    back = Service(POD_SERVICE, SERVICE_PORT, str(topology.pod_link.a.ipv4), 80)
    peer_envoy = MeshEnvoy(peer, folder / "peer-envoy", services=(back,))
    peer_envoy.start()
    start_nginx(peer, folder / "peer")
    outside = start_nginx(topology.server, folder / "outside")
    service = Service(SERVICE, SERVICE_PORT, address, 80, SUBSET)
    upload = Service(f"upload.{SERVICE}", SERVICE_PORT, address, 9000, "v1")
    envoy = MeshEnvoy(topology.pod, folder / "envoy", mode, (service, upload))
    envoy.start()
    istio = IstioRules(topology.pod, mode, native)
    if rules:
        istio.install()
    return MeshWorld(topology, envoy, istio, peer_envoy, outside)
