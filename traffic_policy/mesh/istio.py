"""From a policy to an Istio EnvoyFilter with which Envoy marks its upstream sockets (SO_MARK) by class. Pure.

Istio's Envoy has one cluster for each host and port of the mesh, and the sockets of a cluster can have options
(``upstream_bind_config.socket_options``). So a class is a mark on the clusters of its names; requests are routed to
clusters individually, so each request is in its class, whatever connection it arrived on.

Names outside the mesh share one cluster, PassthroughCluster. For names declared ``external``, clusters of the same kind
(ORIGINAL_DST) are added, one for each class; TLS is routed there by filter chains that match the SNI, plain HTTP by
virtual hosts. For the SNI the catch-all listener must inspect first bytes, which it does not by default, and without a
timeout: so only on given ports, where the client sends first. Its filters run before it hands a connection to the
listener of the original destination, so that one knows the SNI, too.

Alternatives do not work: no well-known filter state object of Envoy (1.40) sets socket options, and ``original_src``
has one mark for a whole listener, and also changes the source address.

Overlapping patches: Istio applies them in order, merges by appending to lists, and of two options with one name the
socket keeps the last. So patches of clusters are written in reverse order, that of the first match last.

Sources: https://istio.io/latest/docs/reference/config/networking/envoy-filter/ and Envoy's
``config.core.v3.BindConfig`` and ``SocketOption``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from traffic_policy.errors import PolicyError, Problem
from traffic_policy.marks import Mark
from traffic_policy.mesh.lanes import MeshLane, lanes
from traffic_policy.names import NameSet
from traffic_policy.policy import TrafficPolicy

ALL: Final = "all"
"""As an external name: all names of the policy."""

_SOL_SOCKET, _SO_MARK = 1, 36
"""asm-generic/socket.h: all architectures that Envoy is built for."""
_CATCH_ALL: Final = "virtualOutbound"
"""Istio's catch-all listener."""
HTTPS: Final = 443
_HTTP: Final = 80
_TYPES: Final = "type.googleapis.com/envoy.extensions"
_OUTBOUND: Final = "SIDECAR_OUTBOUND"


@dataclass(frozen=True, slots=True)
class Generated:
    """An EnvoyFilter as plain data, and remarks for the user who applies it, in whole sentences."""

    document: dict[str, Any]
    notes: tuple[str, ...]


def envoy_filter(
    policy: TrafficPolicy,
    *,
    name: str = "podlane",
    namespace: str | None = None,
    selector: Mapping[str, str] | None = None,
    external: Collection[str] = (),
    tls_ports: Sequence[int] = (HTTPS,),
    alone: bool = True,
) -> Generated:
    """The EnvoyFilter for a policy's names.

    ``selector`` has the labels of the selected Pods (without it, all of the namespace), ``external`` the names of the
    policy outside the mesh, ``tls_ports`` the ports on which TLS to them is detected; ``alone`` is as for
    :func:`~traffic_policy.mesh.lanes.lanes`. Raises :class:`PolicyError` for
    what Envoy cannot do, and for external names that the policy does not have.
    """
    all_lanes = lanes(policy, alone=alone)
    known_names = {each for lane in all_lanes for each in lane.names}
    outside = frozenset(known_names if ALL in external else external)
    problems = [
        Problem("", f"{each!r} is none of the names in the policy.", f"Those are {_listed(known_names)}.")
        for each in sorted(outside - known_names)
    ]
    problems += _beyond_catch_all(all_lanes, outside, tls_ports)
    if not known_names:
        problems.append(Problem("", "No match asks for a name, so Envoy has nothing to mark.", "Use podlane tc."))
    if problems:
        raise PolicyError(problems)
    patches = [
        *_added_clusters(all_lanes, outside),
        *_added_chains(all_lanes, outside, tls_ports),
        *_added_hosts(all_lanes, outside),
        *reversed(list(_marked_clusters(all_lanes, outside))),
    ]
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    chosen = {"workloadSelector": {"labels": dict(selector)}} if selector else {}
    return Generated(
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": metadata,
            "spec": {**chosen, "configPatches": patches},
        },
        tuple(_notes(all_lanes, outside, tls_ports, selected=bool(selector))),
    )


# names of the mesh -------------------------------------------------------------------------------------------------


def _marked_clusters(all_lanes: Sequence[MeshLane], outside: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Options for the existing clusters, in order of precedence."""
    taken: set[tuple[str, int | None]] = set()
    for lane in all_lanes:
        for each in lane.names:
            for port in lane.ports or (None,):
                if each in outside or not taken.isdisjoint({(each, None), (each, port)}):
                    continue
                taken.add((each, port))
                cluster = {"service": each, **({"portNumber": port} if port else {})}
                yield _patch("CLUSTER", {"cluster": cluster}, "MERGE", {"upstream_bind_config": _marking(lane.mark)})


# names of others ---------------------------------------------------------------------------------------------------


def _added_clusters(all_lanes: Sequence[MeshLane], outside: frozenset[str]) -> Iterator[dict[str, Any]]:
    """For each class with external names a cluster like PassthroughCluster, but marked."""
    for class_name, mark in {lane.class_name: lane.mark for lane in all_lanes if outside & set(lane.names)}.items():
        value = {
            "name": _cluster(class_name),
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "10s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                    "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
                }
            },
            "upstream_bind_config": _marking(mark),
        }
        yield _patch("CLUSTER", {}, "ADD", value)


def _added_chains(
    all_lanes: Sequence[MeshLane], outside: frozenset[str], tls_ports: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """TLS by SNI, unless another chain matches.

    No chain matches on a port: with one, Envoy would consider no other chains for connections to that port, so all
    other names would find no chain there.
    """
    taken: list[str] = []
    for number, lane in enumerate(all_lanes):
        names = [each for each in lane.sni if each in outside and not NameSet.from_patterns(taken).covers(each)]
        if not names:
            continue
        if not taken:
            yield from _inspection(tls_ports)
        taken += names
        for listener in (_CATCH_ALL, *(f"0.0.0.0_{port}" for port in tls_ports)):
            chain = _chain(_cluster(lane.class_name), number, names)
            yield _patch("FILTER_CHAIN", {"listener": {"name": listener}}, "ADD", chain)


def _inspection(tls_ports: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The catch-all listener's inspection of first bytes.

    The port is the original one only after ``original_dst``, which Envoy itself puts last.
    """
    ports = [{"destination_port_range": {"start": port, "end": port + 1}} for port in tls_ports]
    elsewhere = {"not_match": {"or_match": {"rules": ports}} if len(ports) > 1 else ports[0]}
    for name, message, more in (
        ("original_dst", "OriginalDst", {}),
        ("tls_inspector", "TlsInspector", {"filter_disabled": elsewhere}),
    ):
        kind = f"{_TYPES}.filters.listener.{name}.v3.{message}"
        value = {"name": f"envoy.filters.listener.{name}", "typed_config": {"@type": kind}, **more}
        yield _patch("LISTENER_FILTER", {"listener": {"name": _CATCH_ALL}}, "ADD", value)


def _chain(cluster: str, number: int, names: Sequence[str]) -> dict[str, Any]:
    """Passes TLS with one of these names through to a cluster."""
    proxy = {
        "@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
    }
    return {
        "name": f"{cluster}-{number}",
        "filter_chain_match": {"transport_protocol": "tls", "server_names": list(names)},
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
    }


def _added_hosts(all_lanes: Sequence[MeshLane], outside: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Plain HTTP by Host, in the routes of the port."""
    taken: dict[int, list[str]] = {}
    for number, lane in enumerate(all_lanes):
        for port in lane.ports or (_HTTP,):
            before = taken.setdefault(port, [])
            names = [each for each in lane.host if each in outside and not NameSet.from_patterns(before).covers(each)]
            if not names:
                continue
            before += names
            cluster = _cluster(lane.class_name)
            value = {
                "name": f"{cluster}-{number}-{port}",
                "domains": [domain for each in names for domain in (each, f"{each}:{port}")],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
            }
            yield _patch("VIRTUAL_HOST", {"routeConfiguration": {"name": str(port)}}, "ADD", value)


def _beyond_catch_all(
    all_lanes: Sequence[MeshLane], outside: frozenset[str], tls_ports: Sequence[int]
) -> Iterator[Problem]:
    for lane in all_lanes:
        names = outside & set(lane.sni)
        if names and lane.ports and set(lane.ports) != set(tls_ports):
            yield Problem(
                "",
                f"Class {lane.class_name} asks for {_listed(names)} on port {_ports(lane.ports)}, but "
                f"TLS to names outside the mesh is looked for on port {_ports(tls_ports)}, for all of them alike.",
                "Name the same ports by --tls-port, remove them, or make the name known to the mesh by a ServiceEntry.",
            )


# pieces ------------------------------------------------------------------------------------------------------------


def _cluster(class_name: str) -> str:
    return f"podlane-{class_name}"


def _marking(mark: Mark) -> dict[str, Any]:
    """Without a source address, which Envoy has not required since 1.25: it would have to be IPv4 or IPv6."""
    option = {
        "description": f"podlane {mark}",
        "level": _SOL_SOCKET,
        "name": _SO_MARK,
        "int_value": mark.value,
        "state": "STATE_PREBIND",
    }
    return {"socket_options": [option]}


def _patch(apply_to: str, match: dict[str, Any], operation: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "applyTo": apply_to,
        "match": {"context": _OUTBOUND, **match},
        "patch": {"operation": operation, "value": value},
    }


def _notes(
    all_lanes: Sequence[MeshLane], outside: frozenset[str], tls_ports: Sequence[int], *, selected: bool
) -> Iterator[str]:
    yield (
        "Envoy needs the capability NET_ADMIN for this, in force and not only allowed: without it every connection of "
        "these classes fails. With the annotation sidecar.istio.io/interceptionMode: TPROXY Istio runs it so."
    )
    if not selected:
        yield "No labels are given, so this is for all Pods of the namespace, whether their Envoy may do it or not."
    if any(outside & set(lane.sni) for lane in all_lanes):
        yield (
            f"On port {_ports(tls_ports)} Envoy now waits for the client's first bytes, whatever the host. "
            "Leave out ports on which servers speak first."
        )
    mixed = sorted(each for lane in all_lanes for each in lane.names if each not in outside if not lane.ports)
    if mixed:
        yield (
            f"A host of the mesh is marked on all of its ports, whether TLS or HTTP is spoken: {_listed(mixed)}. "
            "Name ports where that matters."
        )
    wild = sorted(each for lane in all_lanes for each in lane.names if each.startswith("*.") and each not in outside)
    if wild:
        yield f"Istio compares hosts as they are written: {_listed(wild)} is for a ServiceEntry of that very host."


def _ports(ports: Sequence[int]) -> str:
    return ", ".join(str(port) for port in ports)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(set(names)))
