"""TLS for the agents' port."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(certificate: Path, key: Path, roots: str) -> ssl.SSLContext:
    """TLS 1.3 with HTTP/2 only. ``certificate`` (a chain) and ``key`` are PEM files, ``roots`` is PEM.

    Clients may show a certificate, which must then be signed by one of the roots. Those that show none may enrol.
    Raises ssl.SSLError and OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cadata=roots)
    context.verify_mode = ssl.CERT_OPTIONAL
    # Agents keep one connection for days: tickets to resume it would double the work of a handshake for nothing.
    context.num_tickets = 0
    return context
