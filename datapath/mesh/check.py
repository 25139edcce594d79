"""Restrictions of a policy in a Pod with a mesh, and notes about its effects. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from datapath.mesh.types import HBONE_PORT, MeshProxy
from traffic_policy.policy import Bound, Quic, TrafficPolicy
from traffic_policy.settings import Datapath


def beyond_mesh(policy: TrafficPolicy, mesh: MeshProxy | None, datapath: Datapath) -> str | None:
    """Why the policy cannot be put in force with this mesh, and a remedy; None when it can.

    The relay would accept an inbound connection before the mesh's proxy, and connect to the program directly: without
    mutual TLS and without the mesh's authorization. So it does not capture inbound connections in a Pod with a mesh.
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


def mesh_notes(policy: TrafficPolicy, mesh: MeshProxy, datapath: Datapath) -> Iterator[str]:
    """Sentences about the effects of a policy with this mesh."""
    if problem := beyond_mesh(policy, mesh, datapath):
        yield f"Refused as it is: {problem}"
    if not any(match.needs_content for _, match in policy.rules()):
        return
    ports = ", ".join(str(each) for each in mesh.ports)
    whose = f"what its proxy sends ({mesh.sign})"
    if datapath is Datapath.EBPF:
        whose = "all that leaves, which is what its proxy sends and what the mesh leaves alone"
    yield (
        f"Beside {mesh.title}, in TCP, names decide about {whose}, and not on ports {ports}, which are the mesh's. "
        "Ports and networks are those of the connections that the proxy opens: behind a service, those of its Pod."
    )
    if policy.quic is Quic.CLASSIFY and any(match.quic_ports for _, match in policy.rules()):
        yield "QUIC does not go through the mesh: it is read as the program sends it."
    if mesh.service_names:
        yield (
            "In the mesh's mutual TLS the server name is Istio's name of a service, as outbound_.80_._.HOST. It is "
            "taken for HOST, by sni and by host, and a match by name holds for the service's port or the Pod's."
        )
        yield (
            f"What goes through HBONE (port {HBONE_PORT}) shows no names: it is in the class of its port and address."
        )
