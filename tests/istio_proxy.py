"""The configuration of an Envoy as Istio configures its sidecar, as far as traffic goes.

Outbound (15001): plain HTTP is routed by its Host, to a service of the mesh (mutual TLS to its Pod, the SNI being
Istio's name of the service) or on to where it was going; anything else goes where it was going. Inbound (15006): mutual
TLS of the mesh is ended, and all goes on to the application. Istio's control plane would write the same as many
listeners; here it is one for each way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import trustme
from istio_rules import INBOUND, ISTIO_ID, OUTBOUND, Mode

_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters"
_SOCKETS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_ALPN: Final = ["istio-peer-exchange", "istio"]
_SOL_SOCKET, _SO_MARK = 1, 36
AMBIENT_MARK: Final = 0x539
_CA: Final = trustme.CA()
"""The mesh's, for all tests."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the mesh: its name and port, and the address and port of the Pod behind it."""

    host: str
    port: int
    address: str
    target: int
    subset: str = ""

    @property
    def sni(self) -> str:
        """As Istio writes it."""
        return f"outbound_.{self.port}_.{self.subset}_.{self.host}"


@dataclass(frozen=True, slots=True)
class ProxyConfiguration:
    """What Envoy is told, by the way in which connections come to it and the services of the mesh."""

    mode: Mode = Mode.REDIRECT
    services: tuple[Service, ...] = ()

    def document(self) -> dict[str, Any]:
        """As Envoy reads it, in JSON or YAML."""
        return {
            "static_resources": {
                "listeners": [self._outbound(), self._inbound()],
                "clusters": [
                    self._passthrough("PassthroughCluster", self._bind()),
                    self._passthrough("InboundPassthroughCluster", self._inbound_bind()),
                    *(self._mutual_tls(service) for service in self.services),
                ],
            }
        }

    def _outbound(self) -> dict[str, Any]:
        hosts = [
            {"name": s.host, "domains": [s.host, f"{s.host}:{s.port}"], "routes": [_all_to(s.sni)]}
            for s in self.services
        ]
        anywhere = {"name": "allow_any", "domains": ["*"], "routes": [_all_to("PassthroughCluster")]}
        http = {
            "filter_chain_match": {
                "transport_protocol": "raw_buffer",
                "application_protocols": ["http/1.0", "http/1.1", "h2c"],
            },
            "filters": [_http([*hosts, anywhere])],
        }
        return _listener(
            "virtualOutbound", OUTBOUND, ["tls_inspector", "http_inspector"], [http, _tcp("PassthroughCluster")]
        )

    def _inbound(self) -> dict[str, Any]:
        mesh = {
            "filter_chain_match": {"transport_protocol": "tls", "application_protocols": _ALPN},
            "transport_socket": {
                "name": "tls",
                "typed_config": {
                    "@type": f"{_SOCKETS}.DownstreamTlsContext",
                    "require_client_certificate": True,
                    "common_tls_context": _tls_context(),
                },
            },
            **_tcp("InboundPassthroughCluster"),
        }
        listener = _listener("virtualInbound", INBOUND, ["tls_inspector"], [mesh, _tcp("InboundPassthroughCluster")])
        if self.mode is Mode.TPROXY:
            source = {"@type": f"{_FILTERS}.listener.original_src.v3.OriginalSrc", "mark": ISTIO_ID}
            listener["transparent"] = True
            listener["listener_filters"].append({"name": "original_src", "typed_config": source})
        return listener

    def _bind(self) -> dict[str, Any]:
        """ztunnel's sockets have a mark; those of a sidecar nothing."""
        if self.mode is not Mode.AMBIENT:
            return {}
        option = {"level": _SOL_SOCKET, "name": _SO_MARK, "int_value": AMBIENT_MARK, "state": "STATE_PREBIND"}
        source = {"address": "0.0.0.0", "port_value": 0}
        return {"upstream_bind_config": {"source_address": source, "socket_options": [option]}}

    def _inbound_bind(self) -> dict[str, Any]:
        if self.mode is not Mode.REDIRECT:
            return self._bind()
        return {"upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}}}

    def _passthrough(self, name: str, bind: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "10s",
            "typed_extension_protocol_options": _same_protocol(),
            **bind,
        }

    def _mutual_tls(self, service: Service) -> dict[str, Any]:
        address = {"socket_address": {"address": service.address, "port_value": service.target}}
        return {
            "name": service.sni,
            "type": "STATIC",
            "connect_timeout": "10s",
            "typed_extension_protocol_options": _same_protocol(),
            "load_assignment": {
                "cluster_name": service.sni,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
            "transport_socket": {
                "name": "tls",
                "typed_config": {
                    "@type": f"{_SOCKETS}.UpstreamTlsContext",
                    "sni": service.sni,
                    "common_tls_context": {**_tls_context(), "alpn_protocols": _ALPN},
                },
            },
            **self._bind(),
        }


def _listener(name: str, port: int, inspectors: list[str], chains: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = {"original_dst": "OriginalDst", "tls_inspector": "TlsInspector", "http_inspector": "HttpInspector"}
    filters = [
        {"name": each, "typed_config": {"@type": f"{_FILTERS}.listener.{each}.v3.{kinds[each]}"}}
        for each in ("original_dst", *inspectors)
    ]
    *matched, otherwise = chains
    return {
        "name": name,
        "address": {"socket_address": {"address": "::", "port_value": port, "ipv4_compat": True}},
        "listener_filters_timeout": "2s",
        "continue_on_listener_filters_timeout": True,
        "listener_filters": filters,
        "filter_chains": matched,
        "default_filter_chain": otherwise,
    }


def _tcp(cluster: str) -> dict[str, Any]:
    proxy = {"@type": f"{_FILTERS}.network.tcp_proxy.v3.TcpProxy", "stat_prefix": cluster, "cluster": cluster}
    return {"filters": [{"name": "tcp", "typed_config": proxy}]}


def _http(hosts: list[dict[str, Any]]) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"}}
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound",
        "http_filters": [router],
        "route_config": {"name": "routes", "virtual_hosts": hosts},
    }
    return {"name": "http", "typed_config": manager}


def _all_to(cluster: str) -> dict[str, Any]:
    return {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}


def _same_protocol() -> dict[str, Any]:
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
    }
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def _tls_context() -> dict[str, Any]:
    """A certificate of the mesh, and its authority as the only one that is trusted."""
    pair = _CA.issue_cert("workload.default.svc.cluster.local")
    chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems).decode()
    return {
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": chain},
                "private_key": {"inline_string": pair.private_key_pem.bytes().decode()},
            }
        ],
        "validation_context": {"trusted_ca": {"inline_string": _CA.cert_pem.bytes().decode()}},
    }
