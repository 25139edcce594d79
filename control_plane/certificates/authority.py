"""Signs the certificates of agents and of the agents' port. Pure but for random numbers: the clock is an argument.

There is one root, or two while it is rotated. Of two whose keys we have, the time at which the newer was made says what
happens when:

    time since then    signs    trusted
    0 to 24 h          older    both: whoever renews is told both
    24 to 48 h         newer    both: all agents know the newer, some still have a certificate of the older
    from 48 h          newer    newer

since certificates of agents last 24 h. Keys are ECDSA on P-256, which every TLS library supports (RFC 8446
section 9.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.certificates.identity import AgentIdentity
from daemon.certificate_fields import general_name, key_usage
from daemon.errors import CertificateError
from fleet_api.limits import SERVER_NAME

LIFETIME: Final = timedelta(hours=24)
"""Of the certificates of agents, and of the agents' port."""
RENEWAL: Final = LIFETIME / 2
"""After which an agent asks for the next one."""
_ROOT_LIFETIME: Final = timedelta(days=3650)
_BACKDATED: Final = timedelta(hours=1)
"""How far notBefore is dated back: clocks of nodes differ."""
_LONGEST_REQUEST: Final = 16_384


class CertificateRequestError(Exception):
    """A PKCS #10 request cannot be granted. The message says why, and the remedy."""


@dataclass(frozen=True, slots=True)
class Root:
    """A certificate that signs others. ``key`` None: it is trusted, and signs no more."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | None

    @property
    def made(self) -> datetime:
        """When, without the dating back."""
        return self.certificate.not_valid_before_utc + _BACKDATED

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key, PKCS #8."""
        assert self.key is not None, "only roots that sign are written"
        return _private_pem(self.key)

    @property
    def digest(self) -> str:
        """SHA-256 of its SubjectPublicKeyInfo, as join tokens have it (RFC 7469 section 2.4, in hexadecimal)."""
        spki = self.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(spki).hexdigest()


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """``serial`` in hexadecimal; ``chain`` in PEM, without the root."""

    serial: str
    chain: bytes
    expires: datetime


def new_root(now: datetime) -> Root:
    """A root, from now on."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A unique name: of two roots with the same name, some libraries try only the first (RFC 4158 section 3.5).
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Podlane root {serial:x}"[:64])])
    builder = (
        _builder(now, _ROOT_LIFETIME, key.public_key(), serial)
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
    )
    return Root(builder.sign(key, hashes.SHA256()), key)


def read_root(certificate: bytes, key: bytes | None, what: str) -> Root:
    """From PEM. Raises :class:`CertificateError` naming ``what``."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        private = serialization.load_pem_private_key(key, None) if key is not None else None
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise CertificateError(
            f"{what} cannot be read as a CA's: {error}. Give PEM, the key without password."
        ) from None
    if not constraints.ca:
        raise CertificateError(f"{what}: the certificate is not a CA's (basicConstraints). Give that of a CA.")
    if private is None:
        return Root(found, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{what}: the key is not on an elliptic curve. Make one by: openssl ecparam -genkey")
    if private.public_key() != found.public_key():
        raise CertificateError(f"{what}: certificate and key do not belong together. Give those of one CA.")
    return Root(found, private)


@dataclass(frozen=True, slots=True)
class Authority:
    """The roots there are, the oldest first."""

    roots: Sequence[Root]
    trust_domain: str

    def signer(self, now: datetime) -> Root:
        """The root that signs."""
        able = [root for root in self.roots if root.key is not None]
        ripe = [root for root in able if root.made + LIFETIME <= now]
        return ripe[-1] if ripe else able[0]

    def trusted(self, now: datetime) -> list[Root]:
        """Those that have signed a certificate that may still be valid, or will sign."""
        newest = self.roots[-1]
        if any(root.key is None for root in self.roots):
            return list(self.roots)  # somebody else decides, who has the keys
        return [newest] if newest.made + 2 * LIFETIME <= now else list(self.roots)

    def bundle(self, now: datetime) -> bytes:
        """What is trusted, PEM."""
        return b"".join(root.pem for root in self.trusted(now))

    def issue_agent(
        self, identity: AgentIdentity, public: ec.EllipticCurvePublicKey, now: datetime, serial: int = 0
    ) -> IssuedCertificate:
        """The certificate of an agent; without ``serial`` of any number."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri(self.trust_domain))]
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "podlane-agent"),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, identity.enrolment),
            ]
        )
        return self._issue(subject, names, public, now, serial or x509.random_serial_number(), client=True)

    def issue_server(self, names: Iterable[str], now: datetime) -> tuple[IssuedCertificate, bytes]:
        """The certificate of the agents' port, with the root behind it for those who know its digest alone; and its
        key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "podlane-control-plane")])
        general = [general_name(name) for name in dict.fromkeys([SERVER_NAME, *names])]
        serial = x509.random_serial_number()
        issued = self._issue(subject, general, key.public_key(), now, serial, client=False)
        return IssuedCertificate(
            issued.serial, issued.chain + self.signer(now).pem, issued.expires
        ), _private_pem(key)  # fmt: skip

    def _issue(
        self,
        subject: x509.Name,
        names: Sequence[x509.GeneralName],
        public: ec.EllipticCurvePublicKey,
        now: datetime,
        serial: int,
        *,
        client: bool,
    ) -> IssuedCertificate:
        root = self.signer(now)
        assert root.key is not None
        # A certificate must not outlive its issuer: verification would fail at an unexpected time.
        life = min(LIFETIME, root.certificate.not_valid_after_utc - now)
        issuer = root.certificate.public_key()
        assert isinstance(issuer, ec.EllipticCurvePublicKey)
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        certificate = (
            _builder(now, life, public, serial)
            .subject_name(subject)
            .issuer_name(root.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
            .sign(root.key, hashes.SHA256())
        )
        return IssuedCertificate(
            f"{serial:x}", certificate.public_bytes(serialization.Encoding.PEM), certificate.not_valid_after_utc
        )


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a PKCS #10 request (DER) whose owner has signed it. Raises :class:`CertificateRequestError`."""
    if len(request) > _LONGEST_REQUEST:
        raise CertificateRequestError(
            f"The request has {len(request)} bytes: {_LONGEST_REQUEST} at most. Ask for no names."
        )
    try:
        read = x509.load_der_x509_csr(request)
        key = read.public_key()
        signed = read.is_signature_valid
    except (ValueError, TypeError) as error:
        raise CertificateRequestError(
            f"The request is no PKCS #10 request in DER: {str(error)[:200]}. Make another."
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateRequestError("The request's key is not on the curve P-256. Make another.")
    if not signed:
        raise CertificateRequestError("The request is not signed by its own key. Make another.")
    return key


def fingerprint(public: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a key, in hexadecimal."""
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def utc(seconds: float) -> datetime:
    """Unix seconds as X.509 wants them."""
    return datetime.fromtimestamp(int(seconds), UTC)


def _builder(now: datetime, life: timedelta, key: ec.EllipticCurvePublicKey, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(serial)
        .public_key(key)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
