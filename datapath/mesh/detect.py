"""Detects the mesh that redirects this namespace's connections, by its rules in iptables-save output. Pure.

Every mesh has chains with its own names in the nat table, and in them a criterion by which it exempts its own proxy:

* Istio's sidecar: ``ISTIO_OUTPUT`` returns packets of gid 1337 (or a configured gid); ``ISTIO_TPROXY`` in the mangle
  table exists where it redirects inbound connections by TPROXY.
* Istio's ambient mode: ``ISTIO_OUTPUT`` redirects packets without the mark 0x539/0xfff.
* Linkerd: ``PROXY_INIT_OUTPUT`` returns packets of uid 2102 (or another).
* Consul: chains named ``CONSUL_``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from datapath.mesh.types import ISTIO, ISTIO_AMBIENT, LINKERD, MeshProxy
from traffic_policy.marks import Mark
from traffic_policy.settings import Mesh

REDIRECT, TPROXY = "REDIRECT", "TPROXY"
"""How inbound connections reach the mesh's proxy."""

_OWNER_RETURNS: Final = re.compile(
    r"^-A (\S+) (?:.* )?-m owner --(uid|gid)-owner (\d+) (?:.* )?-j RETURN$", re.MULTILINE
)
_AMBIENT: Final = re.compile(r"^-A ISTIO_OUTPUT .*! --mark (0x[0-9a-f]+)/(0x[0-9a-f]+) .*-j REDIRECT", re.MULTILINE)
_PORT: Final = re.compile(r"^-A (?P<chain>\S+) .*(?:--to-ports|--on-port) (?P<port>\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DetectedMesh:
    """A detected mesh. ``ports`` are those it redirects to, in the order of its rules, without duplicates.

    ``mesh`` and ``proxy`` are None for a mesh that is known by name only.
    """

    mesh: Mesh | None
    title: str
    proxy: MeshProxy | None = None
    inbound: str = REDIRECT
    ports: tuple[int, ...] = ()


def detect_mesh(saved: str) -> DetectedMesh | None:
    """The mesh whose rules are in ``saved``, the output of iptables-save for all tables; None if no known one."""
    chains = set(re.findall(r"^:(\S+) ", saved, re.MULTILINE))
    if "ISTIO_OUTPUT" in chains:
        return _istio(saved, chains)
    if "PROXY_INIT_OUTPUT" in chains:
        user = next(_owners(saved, "PROXY_INIT_OUTPUT", "uid"), LINKERD.user)
        (inbound, *_) = (*_ports(saved, "PROXY_INIT_REDIRECT"), LINKERD.inbound_port)
        proxy = replace(LINKERD, user=user, inbound_port=inbound)
        return DetectedMesh(Mesh.LINKERD, proxy.title, proxy, ports=_ports(saved, "PROXY_INIT_"))
    if any(chain.startswith("CONSUL_") for chain in chains):
        return DetectedMesh(None, "Consul", ports=_ports(saved, "CONSUL_"))
    return None


def _istio(saved: str, chains: set[str]) -> DetectedMesh:
    if ambient := _AMBIENT.search(saved):
        proxy = replace(ISTIO_AMBIENT, mark=Mark(int(ambient[1], 16), int(ambient[2], 16)))
    else:
        group = next(_owners(saved, "ISTIO_OUTPUT", "gid"), ISTIO.group)
        (redirected, *_) = (*_ports(saved, "ISTIO_IN_REDIRECT"), ISTIO.inbound_port)
        proxy = replace(ISTIO, group=group, inbound_port=redirected)
    inbound = TPROXY if "ISTIO_TPROXY" in chains else REDIRECT
    return DetectedMesh(Mesh.ISTIO, proxy.title, proxy, inbound, _ports(saved, "ISTIO_"))


def _owners(saved: str, chain: str, kind: str) -> Iterator[int]:
    """The owners whose packets a chain returns unconditionally."""
    for found, owner, number in _OWNER_RETURNS.findall(saved):
        if found == chain and owner == kind:
            yield int(number)


def _ports(saved: str, prefix: str) -> tuple[int, ...]:
    found = (int(m["port"]) for m in _PORT.finditer(saved) if m["chain"].startswith(prefix))
    return tuple(dict.fromkeys(found))
