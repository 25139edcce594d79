"""Who the agent is for a control plane: its key, its certificate, the roots that it trusts; kept on disk."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from daemon.certificate_chain import load_chain
from daemon.errors import CertificateError
from daemon.log import Logger
from fleet_api.agent_pb2 import Credentials
from node_agent.fleet.errors import EnrolmentError
from node_agent.fleet.private_file import write_private
from node_agent.fleet.transport import ALPN

_SPIFFE: Final = re.compile(r"spiffe://[^/]+/(.*/)?cluster/(?P<cluster>[^/]+)/node/(?P<node>[^/]+)")

log = Logger()


@dataclass(frozen=True, slots=True)
class AgentCredentials:
    """``key``, ``chain`` and ``roots`` are PEM. ``renew_at`` in Unix seconds. ``token`` is the SHA-256 of the join
    token by which the agent has joined, in hexadecimal."""

    key: str
    chain: str
    roots: str
    renew_at: int
    token: str = ""

    @property
    def certificate(self) -> x509.Certificate:
        """Raises ValueError."""
        return x509.load_pem_x509_certificate(self.chain.encode())

    @property
    def expires(self) -> float:
        """Unix seconds."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def cluster_and_node(self) -> tuple[str, str]:
        """For whom the certificate is; empty where it does not say so."""
        try:
            names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return "", ""
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
            if found := _SPIFFE.fullmatch(uri):
                return found["cluster"], found["node"]
        return "", ""

    def tls(self) -> ssl.SSLContext:
        """Raises :class:`~daemon.errors.CertificateError`."""
        context = tls_to(self.roots)
        load_chain(context, self.chain.encode(), self.key.encode())
        return context

    def renewed(self, credentials: Credentials, keys: Iterable[str]) -> AgentCredentials:
        """With what the control plane has sent: a certificate for one of these keys, other roots, or both. Raises
        :class:`EnrolmentError`."""
        roots = credentials.roots or self.roots
        tls_to(roots)
        if not credentials.certificate_chain:
            return replace(self, roots=roots)
        made = credentials_for(credentials, keys, roots)
        return replace(made, token=self.token)


def credentials_for(credentials: Credentials, keys: Iterable[str], roots: str = "") -> AgentCredentials:
    """What the control plane has issued for one of these keys. Raises :class:`EnrolmentError`."""
    roots = credentials.roots or roots
    tls_to(roots)
    for key in keys:
        made = AgentCredentials(key, credentials.certificate_chain, roots, credentials.renew_at)
        try:
            public = serialization.load_pem_private_key(key.encode(), None).public_key()
            if made.certificate.public_key() == public:
                return made
        except ValueError as error:
            raise EnrolmentError(f"The control plane has sent what is no certificate: {error}. Update it.") from None
    raise EnrolmentError("The control plane has sent a certificate for another key. Update it, or the agent.")


def new_key() -> str:
    """ECDSA on P-256, PEM."""
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def request_for(key: str) -> bytes:
    """A PKCS #10 request in DER, which names nobody: who this is, the control plane decides."""
    private = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)


def tls_to(roots: str) -> ssl.SSLContext:
    """TLS 1.3 to a control plane that one of these roots has signed. Raises :class:`EnrolmentError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(ALPN)
    try:
        context.load_verify_locations(cadata=roots)
    except (ssl.SSLError, ValueError):
        raise EnrolmentError("The control plane's roots cannot be read. Give certificates of CAs in PEM.") from None
    return context


def root_with(digest: str, chain: Iterable[bytes]) -> str:
    """The root with this digest among certificates (DER) that a server has shown, as PEM. Raises
    :class:`EnrolmentError`."""
    for der in chain:
        try:
            certificate = x509.load_der_x509_certificate(der)
            spki = certificate.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        except ValueError:
            continue
        if hashlib.sha256(spki).hexdigest() == digest:
            return certificate.public_bytes(serialization.Encoding.PEM).decode()
    raise EnrolmentError(
        "The control plane shows no root with the digest that the join token names. This is another control plane, or "
        "somebody between. Check --control-plane, and take a fresh token from the right one."
    )


def digest_of(token: str) -> str:
    """By which a join token is remembered."""
    return hashlib.sha256(token.encode()).hexdigest()


class IdentityFiles:
    """``identity.json`` with everything, and ``joining.pem``: the key for which a certificate was asked for, so that an
    answer that was lost can be had again."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "identity.json"
        self._joining = folder / "joining.pem"

    def load(self) -> AgentCredentials | None:
        """None: there is none, or it cannot be used, which is told. Blocks."""
        try:
            document = json.loads(self._file.read_bytes())
            found = AgentCredentials(
                document["key"], document["chain"], document["roots"], document["renew_at"], document["token"]
            )
            found.tls()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, CertificateError, EnrolmentError) as error:
            log.error("the agent's certificate cannot be used", file=str(self._file), error=str(error))
            return None
        return found

    def save(self, identity: AgentCredentials) -> None:
        """Raises OSError. Blocks."""
        document = {name: getattr(identity, name) for name in ("key", "chain", "roots", "renew_at", "token")}
        write_private(self._file, json.dumps(document).encode())
        self._joining.unlink(missing_ok=True)

    def joining_key(self) -> str:
        """Raises OSError. Blocks."""
        try:
            kept = self._joining.read_text()
            request_for(kept)
        except (FileNotFoundError, ValueError):
            kept = new_key()
            write_private(self._joining, kept.encode())
        return kept


def expired(identity: AgentCredentials, now: float) -> bool:
    """``now`` in Unix seconds."""
    return identity.expires <= now


def when(seconds: float) -> str:
    """A time for people."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M:%S} UTC"
