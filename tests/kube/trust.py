"""Which certificates injectors serve, and whom API servers trust: seen from outside, by handshakes and by what is stored."""

from __future__ import annotations

import base64
import socket
import ssl
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families
from release import Injector, Release
from rest import WEBHOOKS, Rest

from injector.server.certificates import Certificates

KINDS: Final = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
_PATIENCE: Final = 10.0


@dataclass(frozen=True)
class Trust:
    """The certificates of an installed chart."""

    release: Release
    rest: Rest
    name: str = field(init=False)
    """Of both webhook configurations."""
    secret: str = field(init=False)
    """Path of the Secret of the injectors' own making."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.release.configuration)
        object.__setattr__(
            self, "secret", f"/api/v1/namespaces/{self.release.namespace}/secrets/{self.release.service}-certificates"
        )

    @property
    def host(self) -> str:
        """The name by which API servers check the certificates."""
        return f"{self.release.service}.{self.release.namespace}.svc"

    def bundle(self) -> bytes:
        """The one ``caBundle`` of all webhooks; fails if they differ."""
        (bundle,) = self.bundles()
        return bundle

    def bundles(self) -> set[bytes]:
        return {
            base64.b64decode(webhook["clientConfig"].get("caBundle", ""))
            for kind in KINDS
            for webhook in self.rest.get(f"{WEBHOOKS}/{kind}/{self.name}")["webhooks"]
        }

    def set_bundle(self, kind: str, bundle: bytes) -> None:
        """Write it into every webhook of a configuration, as somebody with an editor does."""
        path = f"{WEBHOOKS}/{kind}/{self.name}"
        webhooks = self.rest.get(path)["webhooks"]
        for webhook in webhooks:
            webhook["clientConfig"]["caBundle"] = base64.b64encode(bundle).decode()
        self.rest.patch(path, {"webhooks": webhooks})

    def stored(self) -> Certificates:
        """What the Secret holds. Raises CertificateError."""
        data = self.rest.get(self.secret).get("data") or {}
        return Certificates.from_data({key: base64.b64decode(value) for key, value in data.items()})

    def store(self, held: Certificates | None) -> None:
        """Have the Secret hold this; None empties it."""
        data = {key: base64.b64encode(value).decode() for key, value in held.to_data().items()} if held else None
        self.rest.patch(self.secret, {"data": None})
        self.rest.patch(self.secret, {"data": data})

    def served(self, injector: Injector) -> x509.Certificate:
        """The certificate that an injector serves, checked as an API server does for every webhook.

        Raises ssl.SSLError when it would not be trusted. For a moment webhooks may have different bundles.
        """
        return [served(injector.port, self.host, bundle) for bundle in self.bundles()][-1]


def metric(injector: Injector, name: str, *, missing: float | None = None, **labels: str) -> float:
    """The value of one of an injector's metrics; where there is none ``missing``, or else a failure."""
    families = text_string_to_metric_families(injector.answer("/metrics"))
    found = [s.value for f in families for s in f.samples if s.name == name and s.labels == labels]
    if not found and missing is not None:
        return missing
    (value,) = found
    return value


def served(port: int, host: str, bundle: bytes) -> x509.Certificate:
    """The certificate of a server on this machine, checked for its name against a bundle. Raises ssl.SSLError."""
    context = ssl.create_default_context(cadata=bundle.decode())
    with (
        socket.create_connection(("127.0.0.1", port), _PATIENCE) as connection,
        context.wrap_socket(connection, server_hostname=host) as encrypted,
    ):
        certificate = encrypted.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate)
