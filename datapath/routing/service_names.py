"""The names that Istio's proxies give services in SNI, and what they mean.

Between two proxies the connection is mutual TLS, and its SNI is not the name that the application used but that of
Envoy's cluster: ``outbound_.80_.v1_.reviews.default.svc.cluster.local``, which is the direction, the service's port,
the subset of a DestinationRule (nothing where there is none: ``80_._.reviews``) and the service's host (istio/istio,
pilot/pkg/model, BuildDNSSrvSubsetKey). The HTTP host stays inside the encryption, but the service's name says the same.

Whoever is not in a mesh could send such a name to be taken for another host, so it is read only beside one.
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
    """A service as Istio names it: its host in comparable form, its port (not the Pod's), and the subset, if any."""

    host: str
    port: int
    subset: str = ""


def service_name(sni: str) -> ServiceName | None:
    """What a server name in comparable form says if it is one of Istio's; None for any other name."""
    found = _FORM.fullmatch(sni)
    if found is None or int(found["port"]) > _LAST_PORT:
        return None
    host = normalise_host(found["host"])
    return None if host is None or host != found["host"] else ServiceName(host, int(found["port"]), found["subset"])


def understood(content: Content) -> Content:
    """The content with the service's host in place of Istio's name for it, also as HTTP host, and with its port."""
    service = None if content.sni is None else service_name(content.sni)
    if service is None:
        return content
    return replace(content, sni=service.host, host=content.host or service.host, port=service.port)
