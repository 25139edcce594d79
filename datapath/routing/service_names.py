"""The service names that Istio's proxies send as SNI.

Between two proxies the connection is mutual TLS, and its SNI is not the name that the application used but that of
Envoy's cluster: ``outbound_.80_.v1_.reviews.default.svc.cluster.local``. It consists of the direction, the service's
port, the subset of a DestinationRule (may be empty: ``80_._.reviews``) and the service's host (istio/istio,
pilot/pkg/model, BuildDNSSrvSubsetKey). The HTTP host is encrypted, but the service's name is equivalent.

Outside a mesh a client could send such a name to pass for another host, so it is parsed only in a Pod with a mesh.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from datapath.routing.flow import Content
from traffic_policy.names import normalise_host

_FORM: Final = re.compile(r"outbound_\.(?P<port>[1-9][0-9]{0,4})_\.(?P<subset>[^.]*)_\.(?P<host>.+)")
_LAST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class ServiceName:
    """A service: its host in comparable form, its port (not the Pod's), and the subset, if any."""

    host: str
    port: int
    subset: str = ""


def service_name(sni: str) -> ServiceName | None:
    """Parse a server name in comparable form; None if it is not one of Istio's."""
    found = _FORM.fullmatch(sni)
    if found is None or int(found["port"]) > _LAST_PORT:
        return None
    host = normalise_host(found["host"])
    return None if host is None or host != found["host"] else ServiceName(host, int(found["port"]), found["subset"])


def understood(content: Content) -> Content:
    """The content with Istio's name replaced by the service's host, also as HTTP host, and with its port."""
    service = None if content.sni is None else service_name(content.sni)
    if service is None:
        return content
    return replace(content, sni=service.host, host=content.host or service.host, port=service.port)
