"""What a policy asks for that cannot be had beside a mesh. Pure."""

from __future__ import annotations

from datapath.kinds import Datapath
from datapath.mesh.types import MeshProxy
from traffic_policy.policy import Bound, TrafficPolicy


def beyond_mesh(policy: TrafficPolicy, mesh: MeshProxy | None, datapath: Datapath) -> str | None:
    """Why the policy cannot be put in force there, and what can be done; None when it can.

    For an inbound connection the relay would accept before the mesh's proxy does, and speak to the program past it:
    without mutual TLS, without the mesh's authorization. So there it does not take inbound connections at all.
    """
    if mesh is None or datapath is not Datapath.RELAY:
        return None
    names = [name for name, match in policy.rules(Bound.INBOUND) if match.needs_content]
    if not names:
        return None
    return (
        f"Class {names[0]}: Beside {mesh.title} inbound matches by sni, host or alpn are not for the relay, which "
        f"would lead clients past {mesh.title}'s proxy. Use datapath: step-aside, or match inbound by port, cidr and "
        "source."
    )
