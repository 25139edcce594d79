"""The properties of known meshes that capture and routing need. Pure.

With a mesh's proxy the application's own packets never leave the Pod: nat redirects them to the proxy, after the mangle
rules have processed them with their original destination. The packets that leave are the proxy's. They are identified
by the owner of their socket (``-m owner``, matched on SYNs only, which always have one), or in Istio's ambient mode by
their mark.

The mesh must not redirect what our proxy sends, which would be a loop. The mesh exempts its own proxy by that owner or
mark, so our sockets have it, too; our OWN mark distinguishes them (:mod:`traffic_policy.marks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from traffic_policy.marks import Mark
from traffic_policy.ports import PortRange
from traffic_policy.settings import Mesh


@dataclass(frozen=True, slots=True)
class MeshProxy:
    """A mesh's proxy in the Pod: how its sockets are identified, and its own ports.

    One of ``group`` (gid), ``user`` (uid) and ``mark`` is set. Names do not decide on ``ports``, which belong to the
    mesh: control plane, health, metrics, tunnels. ``service_names``: SNI may be Istio's name of a service
    (:mod:`datapath.routing.service_names`). ``inbound_port``: where nat leads what clients open; the proxy's sockets
    have this port then, and packets on the wire the one that the client meant.
    """

    title: str
    group: int | None = None
    user: int | None = None
    mark: Mark | None = None
    ports: tuple[PortRange, ...] = ()
    service_names: bool = False
    inbound_port: int = 0

    @property
    def sign(self) -> str:
        """How its sockets are identified, in words."""
        if self.group is not None:
            return f"gid {self.group}"
        return f"uid {self.user}" if self.user is not None else f"mark {self.mark}"


_ISTIO_PORTS: Final = (PortRange(15000, 15090),)
"""https://istio.io/latest/docs/ops/deployment/application-requirements/: 15000-15010 and 15020-15090 of the sidecar,
with HBONE at 15008; 15010, 15012, 15014 and 15017 of istiod."""
_ISTIO_INBOUND: Final = 15006
ISTIO: Final = MeshProxy("Istio", group=1337, ports=_ISTIO_PORTS, service_names=True, inbound_port=_ISTIO_INBOUND)
"""The sidecar. Its uid is 1337 as well, but 0 where it intercepts by TPROXY; the gid is the same in both."""
ISTIO_AMBIENT: Final = MeshProxy(
    "Istio (ambient)",
    mark=Mark(0x539, 0xFFF),
    ports=_ISTIO_PORTS,
    service_names=True,
    inbound_port=_ISTIO_INBOUND,
)
"""ztunnel, whose sockets are in the Pod's network namespace under this mark
(https://github.com/istio/istio/blob/master/architecture/ambient/ztunnel-cni-lifecycle.md)."""
LINKERD: Final = MeshProxy(
    "Linkerd", user=2102, ports=(PortRange(4140, 4143), PortRange(4190, 4191)), inbound_port=4143
)
"""https://linkerd.io/2/reference/proxy-configuration/"""
USUAL: Final = {Mesh.ISTIO: ISTIO, Mesh.LINKERD: LINKERD}
"""The defaults of a mesh whose rules are not installed yet."""
HBONE_PORT: Final = 15008
"""The port of Istio's ambient tunnel: HTTP/2 in mutual TLS, which hides the names of the connections inside."""
