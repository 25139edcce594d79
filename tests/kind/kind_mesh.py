"""A mesh's part of a Pod: the real Envoy in Istio's arrangement, which leads to it what the Pod opens and what comes in.

The containers have the names, ids and rights that Istio's have; the rules and Envoy's configuration are those of the
kernel tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from istio_proxy import ProxyConfiguration, Service
from istio_rules import INBOUND, ISTIO_ID, OUTBOUND, Mode, rules_of
from kind_cluster import deployment, web_server

MESH_PROXY: Final = "podlane-mesh-proxy:kind"
"""The image: Envoy, iptables and ip."""
_INSTALL: Final = """
printf %s "$RULES_IPV4" | iptables-restore --noflush
printf %s "$RULES_IPV6" | ip6tables-restore --noflush
ip -6 address add ::6/128 dev lo
"""


def meshed_deployment(name: str, annotations: Mapping[str, str], *services: Service) -> dict[str, Any]:
    """A web server in the mesh, which knows these services."""
    containers = [web_server(), istio_proxy(*services)]
    return deployment(name, annotations, containers=containers, initContainers=[istio_init()])


def istio_init() -> dict[str, Any]:
    """The init container that lays Istio's rules."""
    rules = {f"RULES_IPV{family}": rules_of(family, Mode.REDIRECT) for family in (4, 6)}
    return {
        "name": "istio-init", "image": MESH_PROXY, "command": ["sh", "-ec", _INSTALL],
        "args": ["istio-iptables", "-p", str(OUTBOUND), "-z", str(INBOUND), "-u", str(ISTIO_ID)],
        "env": [{"name": name, "value": text} for name, text in rules.items()],
        "securityContext": {
            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        },
    }  # fmt: skip


def istio_proxy(*services: Service) -> dict[str, Any]:
    """Envoy, which speaks mutual TLS to the Pods behind these services."""
    configuration = json.dumps(ProxyConfiguration(services=services).document())
    listens = f"grep -q ':{INBOUND:04X} .* 0A ' /proc/net/tcp6"
    return {
        "name": "istio-proxy", "image": MESH_PROXY,
        "command": ["envoy", "--concurrency", "1", "--log-level", "warning", "--disable-hot-restart", "--config-yaml", configuration],
        "readinessProbe": {"exec": {"command": ["sh", "-c", listens]}, "periodSeconds": 1},
        "securityContext": {
            "runAsUser": ISTIO_ID, "runAsGroup": ISTIO_ID, "runAsNonRoot": True, "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip
