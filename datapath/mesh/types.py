"""The meshes that are known, as far as capture and routing must know them. Pure.

Behind a mesh's proxy the application's own packets never leave: nat redirects them to the proxy, after the mangle rules
have seen them with their first destination. What leaves are the proxy's packets, and these are told by who owns their
socket (``-m owner``, only ever asked of SYNs, which always have one), or in Istio's ambient mode by their mark.

The mesh must leave alone what our proxy sends in turn, or that would go in circles. It knows its own proxy by the same
sign, so our sockets wear it, too; the two are told apart by our OWN mark (:mod:`traffic_policy.marks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from traffic_policy.marks import Mark
from traffic_policy.ports import PortRange


class Mesh(StrEnum):
    """What the setting says of the Pod's mesh."""

    AUTO = "auto"
    """Whichever the rules in the network namespace tell of."""
    ISTIO = "istio"
    LINKERD = "linkerd"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MeshProxy:
    """A mesh's proxy in the Pod: by what its sockets are known, and what of it is left alone.

    One of ``group`` (gid), ``user`` (uid) and ``mark`` is set. No name decides on ``ports``, which belong to the mesh:
    its control plane, health, metrics, tunnels. ``service_names``: SNI may be Istio's name of a service
    (:mod:`datapath.routing.service_names`).
    """

    title: str
    group: int | None = None
    user: int | None = None
    mark: Mark | None = None
    ports: tuple[PortRange, ...] = ()
    service_names: bool = False

    @property
    def sign(self) -> str:
        """By what its sockets are known, in words."""
        if self.group is not None:
            return f"gid {self.group}"
        return f"uid {self.user}" if self.user is not None else f"mark {self.mark}"


_ISTIO_PORTS: Final = (PortRange(15000, 15090),)
"""https://istio.io/latest/docs/ops/deployment/application-requirements/: 15000-15010 and 15020-15090 of the sidecar,
with HBONE at 15008; 15010, 15012, 15014 and 15017 of istiod."""
ISTIO: Final = MeshProxy("Istio", group=1337, ports=_ISTIO_PORTS, service_names=True)
"""The sidecar. Its uid is 1337 as well, but 0 where it intercepts by TPROXY; the gid is the same in both."""
ISTIO_AMBIENT: Final = MeshProxy("Istio (ambient)", mark=Mark(0x539, 0xFFF), ports=_ISTIO_PORTS, service_names=True)
"""ztunnel, whose sockets are in the Pod's network namespace under this mark
(https://github.com/istio/istio/blob/master/architecture/ambient/ztunnel-cni-lifecycle.md)."""
LINKERD: Final = MeshProxy("Linkerd", user=2102, ports=(PortRange(4140, 4143), PortRange(4190, 4191)))
"""https://linkerd.io/2/reference/proxy-configuration/"""
USUAL: Final = {Mesh.ISTIO: ISTIO, Mesh.LINKERD: LINKERD}
"""What a mesh is like whose rules are not there to tell."""
HBONE_PORT: Final = 15008
"""The tunnel in which Istio's ambient mode carries connections: HTTP/2 in mutual TLS, which shows nothing of them."""
