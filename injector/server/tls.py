"""The server's side of TLS: a context made from one certificate and its key, replaced as a whole when they change.

Each new connection uses the current context; open connections keep theirs.
"""

from __future__ import annotations

import ssl
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from daemon.certificate_chain import load_chain
from daemon.errors import CertificateError
from daemon.http_server import ALPN

_CIPHERS_1_2: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 ciphers with forward secrecy and authenticated encryption (RFC 9325 section 4.2)."""


class TlsVersion(StrEnum):
    """The minimum TLS version."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


class ServerTls:
    """Holds the context for new connections. :meth:`use` and :meth:`trust` replace it, or raise and keep the old one.

    Once there are authorities of clients, each client is asked for a certificate. It may come without one: a kubelet's
    probes have none (https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/).
    """

    def __init__(self, oldest: TlsVersion = TlsVersion.TLS_1_3) -> None:
        self._oldest = oldest
        self._context: ssl.SSLContext | None = None
        self._pair = b"", b""
        self._clients = b""
        self.served: x509.Certificate | None = None
        """The served certificate."""

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next connection; :meth:`use` must have been called."""
        assert self._context is not None, "connections are accepted once there is a certificate"
        return self._context

    def use(self, chain: bytes, key: bytes) -> bool:
        """Serve this chain (PEM, the server's own certificate first). Return whether it is new.

        Raises :class:`CertificateError` if certificate and key cannot be used together.
        """
        if (chain, key) == self._pair:
            return False  # connections stay with their context
        try:
            leaf = x509.load_pem_x509_certificate(chain)
        except ValueError as error:
            raise CertificateError(f"The certificate cannot be read: {error}.") from None
        context = self._made(chain, key, self._clients)
        changed = leaf != self.served
        self._context, self._pair, self.served = context, (chain, key), leaf
        return changed

    def trust(self, authorities: bytes) -> bool:
        """Ask clients for a certificate that one of these (PEM) has signed. Return whether they are others than before.

        Raises :class:`CertificateError` if there is none that can be read.
        """
        try:
            found = x509.load_pem_x509_certificates(authorities)
        except ValueError as error:
            raise CertificateError(f"There is no certificate (PEM) that can be read: {error}.") from None
        clients = b"".join(each.public_bytes(Encoding.DER) for each in found)
        if clients == self._clients:
            return False
        if self._context is not None:
            self._context = self._made(*self._pair, clients)
        self._clients = clients
        return True

    def _made(self, chain: bytes, key: bytes, clients: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion[f"TLSv{self._oldest.replace('.', '_')}"]
        context.set_ciphers(_CIPHERS_1_2)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(ALPN)
        context.num_tickets = 0  # API servers resume no sessions: their Go client keeps none
        load_chain(context, chain, key)
        if clients:
            try:
                context.load_verify_locations(cadata=clients)
            except ssl.SSLError as error:
                raise CertificateError(f"An authority of clients cannot be used: {error.reason}.") from None
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate will do, as for Go's servers
        return context
