"""Who may ask the webhooks: clients with a certificate of the authority that the administrator names.

API servers show one if they are told to (``--admission-control-config-file``). TLS itself has verified who signed it,
and that it is for clients (:class:`injector.server.tls.ServerTls`); here is decided whether that suffices.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.http import RequestError


@dataclass(frozen=True, slots=True)
class Clients:
    """``names``: common names (CN) of which a certificate must have one; empty: any name will do."""

    names: tuple[str, ...] = ()

    def refuse_others(self, certificate: Mapping[str, Any] | None, now: float | None = None) -> None:
        """Raise :class:`RequestError` (403) for a client with this certificate, as ``ssl.SSLSocket.getpeercert`` gives
        it, or without any. ``now`` is Unix time; None: the present."""
        if not certificate:
            raise RequestError(
                403,
                "The injector answers only clients with a certificate of its client-ca, and this one has shown none. "
                "Give the API server one (--admission-control-config-file); docs/reference/injector.md says how.",
            )
        # Connections outlive the handshake in which that was looked at.
        if ssl.cert_time_to_seconds(certificate["notAfter"]) < (time.time() if now is None else now):
            raise RequestError(403, "The client's certificate has expired. Renew it.")
        names = [*_common_names(certificate)]
        if self.names and not set(names).intersection(self.names):
            raise RequestError(
                403,
                f"The client's certificate has the name {', '.join(names)[:200] or 'of nobody'}, and the injector "
                "answers others (client-names). Have that name added, or give the API server another certificate.",
            )


def _common_names(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Common names of the subject (RFC 5280 section 4.1.2.6)."""
    return (value for part in certificate.get("subject", ()) for key, value in part if key == "commonName")
