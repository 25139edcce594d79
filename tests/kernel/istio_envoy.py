"""An Envoy as Istio's agent would run it in a Pod, and EnvoyFilters applied to its configuration as istiod does.

There is no istiod here: the listeners, routes and clusters below are what it makes of a Service
(``api.example.com:80``), a ServiceEntry for TLS (``shop.example.com:443``) and ``outboundTrafficPolicy: ALLOW_ANY``, cut
down to what a connection meets on its way out; and :func:`patched` does what its documentation says of the five kinds of
patches that Podlane writes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from waiting import until_listening

from benchmarks.candidates.envoy import envoy_binary
from podlane.netns.lab import Host

GID = 1337
CAPTURE = 15001
_TYPES = "type.googleapis.com/envoy.extensions"

Document = dict[str, Any]


def bootstrap(address: str) -> Document:
    """The configuration of a Pod's Envoy; ``address`` is where both hosts of the mesh are."""
    return {
        "static_resources": {
            "listeners": [
                {
                    **_listener("virtualOutbound", "127.0.0.1", CAPTURE, bound=True),
                    "use_original_dst": True,
                    "filter_chains": [
                        {
                            "name": "virtualOutbound-blackhole",
                            "filter_chain_match": {"destination_port": CAPTURE},
                            "filters": [_tcp("BlackHoleCluster")],
                        },
                        {"name": "virtualOutbound-catchall-tcp", "filters": [_tcp("PassthroughCluster")]},
                    ],
                },
                {
                    **_listener("0.0.0.0_443", "0.0.0.0", 443),
                    "listener_filters": [_tls_inspector()],
                    "filter_chains": [
                        {
                            "filter_chain_match": {"server_names": ["shop.example.com"]},
                            "filters": [_tcp("outbound|443||shop.example.com")],
                        },
                        {"name": "PassthroughFilterChain", "filters": [_tcp("PassthroughCluster")]},
                    ],
                },
                {**_listener("0.0.0.0_80", "0.0.0.0", 80), "filter_chains": [{"filters": [_http()]}]},
            ],
            "clusters": [
                _endpoints("outbound|80||api.example.com", address, 80),
                _endpoints("outbound|443||shop.example.com", address, 443),
                {"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "10s"},
                {
                    "name": "PassthroughCluster",
                    "type": "ORIGINAL_DST",
                    "lb_policy": "CLUSTER_PROVIDED",
                    "connect_timeout": "10s",
                },
            ],
        }
    }


def _listener(name: str, address: str, port: int, *, bound: bool = False) -> Document:
    made = {
        "name": name,
        "traffic_direction": "OUTBOUND",
        "address": {"socket_address": {"address": address, "port_value": port}},
        "listener_filters_timeout": "0s",  # Istio's default (protocolDetectionTimeout): for ever
        "continue_on_listener_filters_timeout": True,
    }
    return made if bound else {**made, "bind_to_port": False}


def _tls_inspector() -> Document:
    kind = f"{_TYPES}.filters.listener.tls_inspector.v3.TlsInspector"
    return {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": kind}}


def _tcp(cluster: str) -> Document:
    proxy = {"@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": cluster}
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}


def _http() -> Document:
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
            "route_config": {
                "name": "80",
                "ignore_port_in_host_matching": True,
                "virtual_hosts": [
                    _virtual_host("api.example.com:80", ["api.example.com"], "outbound|80||api.example.com"),
                    _virtual_host("allow_any", ["*"], "PassthroughCluster"),
                ],
            },
        },
    }


def _virtual_host(name: str, domains: list[str], cluster: str) -> Document:
    return {
        "name": name,
        "domains": domains,
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
    }


def _endpoints(name: str, address: str, port: int) -> Document:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


# patches -----------------------------------------------------------------------------------------------------------


def patched(configuration: Document, envoy_filter: Document) -> Document:
    """The configuration with an EnvoyFilter applied, patch by patch in order. Raises KeyError for other patches."""
    result = copy.deepcopy(configuration)
    for each in copy.deepcopy(envoy_filter)["spec"]["configPatches"]:
        assert each["match"]["context"] == "SIDECAR_OUTBOUND"
        kind = each["applyTo"], each["patch"]["operation"]
        _PATCHES[kind](result["static_resources"], each["match"], each["patch"]["value"])
    return result


def _merge_cluster(resources: Document, match: Document, value: Document) -> None:
    wanted = match["cluster"]
    for cluster in resources["clusters"]:
        if "|" not in cluster["name"]:
            continue
        _, port, _, service = cluster["name"].split("|")
        if service == wanted["service"] and int(port) == wanted.get("portNumber", int(port)):
            _merge(cluster, value)


def _merge(into: Document, value: Mapping[str, Any]) -> None:
    """As protobuf merges messages: fields are set, lists appended to."""
    for key, new in value.items():
        if isinstance(new, dict) and key in into:
            _merge(into[key], new)
        elif isinstance(new, list):
            into[key] = [*into.get(key, []), *new]
        else:
            into[key] = new


def _add_cluster(resources: Document, _match: Document, value: Document) -> None:
    resources["clusters"].append(value)


def _add_chain(resources: Document, match: Document, value: Document) -> None:
    for listener in resources["listeners"]:
        if listener["name"] == match["listener"]["name"]:
            listener["filter_chains"].append(value)


def _add_listener_filter(resources: Document, match: Document, value: Document) -> None:
    for listener in resources["listeners"]:
        if listener["name"] == match["listener"]["name"]:
            listener.setdefault("listener_filters", []).append(value)


def _add_virtual_host(resources: Document, match: Document, value: Document) -> None:
    for routes in _route_configurations(resources):
        if routes["name"] == match["routeConfiguration"]["name"]:
            routes["virtual_hosts"].append(value)


def _route_configurations(resources: Document) -> Iterator[Document]:
    for listener in resources["listeners"]:
        for chain in listener["filter_chains"]:
            for each in chain["filters"]:
                if "route_config" in each["typed_config"]:
                    yield each["typed_config"]["route_config"]


_PATCHES = {
    ("CLUSTER", "MERGE"): _merge_cluster,
    ("CLUSTER", "ADD"): _add_cluster,
    ("FILTER_CHAIN", "ADD"): _add_chain,
    ("LISTENER_FILTER", "ADD"): _add_listener_filter,
    ("VIRTUAL_HOST", "ADD"): _add_virtual_host,
}


# running it ----------------------------------------------------------------------------------------------------------


def start_envoy(pod: Host, configuration: Document, folder: Path, *before: str) -> None:
    """Let Envoy validate it, then start it with Istio's group, and its capture of what other groups send.

    ``before`` is what setpriv(1) takes besides.
    """
    path = folder / "envoy.json"
    path.write_text(json.dumps(configuration))
    envoy = [str(envoy_binary()), "-c", str(path), "--disable-hot-restart", "--concurrency", "1"]
    said = pod.run([*envoy, "--mode", "validate"])
    assert "OK" in said.stdout + said.stderr
    log = (folder / "envoy.log").open("w")
    pod.popen(
        ["setpriv", "--regid", str(GID), "--clear-groups", *before, *envoy, "-l", "warning"], stdout=log, stderr=log
    )
    until_listening(pod, CAPTURE)
    rule = ["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp"]
    pod.run([*rule, "-m", "owner", "--gid-owner", str(GID), "-j", "RETURN"])
    pod.run([*rule, "!", "-o", "lo", "-j", "REDIRECT", "--to-ports", str(CAPTURE)])
