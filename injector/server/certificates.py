"""The injector's own certificates: the stored state, and the next step. Pure: no clock, no files, no network.

An authority (CA) signs the serving certificate; API servers trust the authority through ``caBundle`` of the webhook
configurations. Replicas share one Secret, and an authority is rotated so slowly that a certificate is never served
before API servers trust it:

    state of the Secret            next step
    -----------------------------  ------------------------------------------------------------------------------
    missing, damaged, expired      CREATE: an authority and a serving certificate; trusted authorities stay trusted
    the authority is ageing        PREPARE: the next authority; it is trusted from now on, but signs nothing
    the next one is trusted by     PROMOTE: it signs a new serving certificate; the old authority's key is
    all for the overlap            deleted, the old authority stays trusted
    the last certificate that the  FORGET: it is removed from the bundle
    old one signed has expired
    the serving certificate is     RENEW: the authority signs a new one
    ageing, or lacks a name

"Ageing" is past two thirds of the lifetime, so that a third is left to notice a failing renewal. Keys are ECDSA on
P-256, which every TLS library supports (RFC 8446 section 9.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from daemon.certificate_fields import general_name, key_usage
from daemon.errors import CertificateError

_BACKDATED: Final = timedelta(hours=1)
"""How far notBefore is dated back: the clocks of nodes differ, sometimes by much."""
AUTHORITIES: Final = ("ca.crt", "upcoming-ca.crt", "previous-ca.crt")
"""Keys of the Secret whose certificates are trusted."""
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?")


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Lifetimes; ``overlap`` is the time that API servers and replicas may take to see a change."""

    authority: timedelta = timedelta(days=365)
    serving: timedelta = timedelta(days=30)
    overlap: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM; :meth:`read` verifies that they match."""

    certificate: bytes
    key: bytes

    @classmethod
    def read(cls, certificate: bytes, key: bytes, what: str) -> KeyPair:
        """Verify and return both. Raises :class:`CertificateError` naming ``what``."""
        pair = cls(certificate, key)
        try:
            public = pair.x509.public_key()
            private = pair.private_key
        except (ValueError, TypeError) as error:
            raise CertificateError(f"{what} cannot be read: {error}.") from None
        if private.public_key() != public:
            raise CertificateError(f"{what}: certificate and key do not belong together.")
        return pair

    @property
    def x509(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("not a key on an elliptic curve")
        return key

    @property
    def made(self) -> datetime:
        """The time of creation, without the dating back."""
        return self.x509.not_valid_before_utc + _BACKDATED

    @property
    def expires(self) -> datetime:
        return self.x509.not_valid_after_utc

    def is_ageing(self, now: datetime) -> bool:
        """Whether two thirds of its lifetime are over."""
        return now >= self.made + (self.expires - self.made) * 2 / 3


@dataclass(frozen=True, slots=True)
class Certificates:
    """The content of the Secret: the signing authority, the serving certificate, other trusted authorities."""

    authority: KeyPair
    serving: KeyPair
    upcoming: KeyPair | None = None
    previous: bytes = b""
    previous_until: datetime | None = None

    @property
    def bundle(self) -> bytes:
        """All trusted authorities, PEM: the value for ``caBundle``."""
        return self.authority.certificate + (self.upcoming.certificate if self.upcoming else b"") + self.previous

    def to_data(self) -> dict[str, bytes]:
        """The Secret's data; the first four keys are those of all TLS Secrets."""
        data = {
            "ca.crt": self.authority.certificate,
            "ca.key": self.authority.key,
            "tls.crt": self.serving.certificate,
            "tls.key": self.serving.key,
        }
        if self.upcoming:
            data |= {"upcoming-ca.crt": self.upcoming.certificate, "upcoming-ca.key": self.upcoming.key}
        if self.previous_until:
            data |= {"previous-ca.crt": self.previous, "previous-ca.until": self.previous_until.isoformat().encode()}
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, bytes]) -> Certificates:
        """Read and verify a Secret's data. Raises :class:`CertificateError`."""
        missing = [key for key in ("ca.crt", "ca.key", "tls.crt", "tls.key") if not data.get(key)]
        if missing:
            raise CertificateError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        authority = KeyPair.read(data["ca.crt"], data["ca.key"], "ca.crt")
        serving = KeyPair.read(data["tls.crt"], data["tls.key"], "tls.crt")
        try:
            serving.x509.verify_directly_issued_by(authority.x509)
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateError("tls.crt is not signed by ca.crt") from None
        upcoming = None
        if data.get("upcoming-ca.crt"):
            upcoming = KeyPair.read(data["upcoming-ca.crt"], data.get("upcoming-ca.key", b""), "upcoming-ca.crt")
        until = None
        if data.get("previous-ca.crt"):
            try:
                until = datetime.fromisoformat(data.get("previous-ca.until", b"").decode())
                until = until if until.tzinfo else until.replace(tzinfo=UTC)
                x509.load_pem_x509_certificates(data["previous-ca.crt"])
            except ValueError:
                raise CertificateError("previous-ca.crt or previous-ca.until is damaged") from None
        return cls(authority, serving, upcoming, data["previous-ca.crt"] if until else b"", until)


class Step(StrEnum):
    """The next step for the Secret."""

    KEEP = "keep"
    CREATE = "create"
    PREPARE = "prepare"
    PROMOTE = "promote"
    FORGET = "forget"
    RENEW = "renew"


def next_step(
    held: Certificates | None,
    now: datetime,
    names: Iterable[str],
    lifetimes: Lifetimes,
    trusted_since: datetime | None = None,
) -> tuple[Step, str]:
    """The next step, and its reason. ``held`` is None if nothing usable is stored.

    ``trusted_since`` is the time since which the webhook configurations hold ``held``'s whole bundle, None if they do
    not: an authority that is not trusted yet must not sign.
    """
    if held is None:
        return Step.CREATE, "there are no usable certificates"
    if now >= held.authority.expires:
        return Step.CREATE, "the authority has expired"
    if now + _BACKDATED < held.authority.x509.not_valid_before_utc:
        return Step.CREATE, "the authority is from the future; a clock was wrong"
    if held.upcoming:
        seen = max(held.upcoming.made, trusted_since) if trusted_since else None
        if now >= held.upcoming.expires:
            return Step.PREPARE, "the next authority has expired before it was used"
        if seen and now >= seen + lifetimes.overlap:
            return Step.PROMOTE, "the next authority is trusted everywhere"
    elif held.authority.is_ageing(now):
        return Step.PREPARE, "the authority is ageing"
    if held.serving.is_ageing(now):
        return Step.RENEW, "the serving certificate is ageing"
    lacking = sorted(set(names) - set(names_of(held.serving.x509)))
    if lacking:
        return Step.RENEW, f"the serving certificate lacks {', '.join(lacking)}"
    if held.previous_until and now >= held.previous_until:
        return Step.FORGET, "all that the previous authority signed has expired"
    return Step.KEEP, "all is in order"


def take_step(
    step: Step,
    held: Certificates | None,
    now: datetime,
    names: Iterable[str],
    lifetimes: Lifetimes,
    others: bytes = b"",
) -> Certificates:
    """The certificates after ``step``. CREATE keeps the authorities in ``others`` trusted (PEM, may be damaged):
    another replica may still serve certificates that they signed."""
    if step is Step.CREATE or held is None:
        authority = _new_authority(now, lifetimes)
        old = b"".join(_still_valid((held.bundle if held else b"") + others, now))
        until = now + lifetimes.serving if old else None
        return Certificates(authority, _new_serving(authority, now, names, lifetimes), None, old, until)
    if step is Step.PREPARE:
        return replace(held, upcoming=_new_authority(now, lifetimes))
    if step is Step.PROMOTE:
        assert held.upcoming is not None, "only an authority that was prepared is promoted"
        serving = _new_serving(held.upcoming, now, names, lifetimes)
        previous = held.previous if held.previous_until and now < held.previous_until else b""
        until = max(held.serving.expires, held.previous_until or now)
        return Certificates(held.upcoming, serving, None, held.authority.certificate + previous, until)
    if step is Step.RENEW:
        return replace(held, serving=_new_serving(held.authority, now, names, lifetimes))
    if step is Step.FORGET:
        return replace(held, previous=b"", previous_until=None)
    return held


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses of a certificate; none if they cannot be read."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    addresses = [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def split_bundle(bundle: bytes) -> frozenset[bytes]:
    """The certificates of a bundle, each PEM without surrounding space; order and comments are ignored."""
    return frozenset(found.strip() for found in _CERTIFICATE.findall(bundle))


def _still_valid(bundle: bytes, now: datetime) -> Iterable[bytes]:
    """The certificates of a possibly damaged bundle that are still valid, without duplicates."""
    for found in dict.fromkeys(found.strip() for found in _CERTIFICATE.findall(bundle)):
        try:
            certificate = x509.load_pem_x509_certificate(found)
        except ValueError:
            continue
        if now < certificate.not_valid_after_utc:
            yield found + b"\n"


def _new_authority(now: datetime, lifetimes: Lifetimes) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A unique name: of two authorities with the same name, some libraries try only the first (RFC 4158 section 3.5).
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Podlane injector CA {serial:x}"[:64])])
    certificate = (
        _builder(now, lifetimes.authority, key, serial)
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
    )
    return _sign(certificate, key, key)


def _new_serving(authority: KeyPair, now: datetime, names: Iterable[str], lifetimes: Lifetimes) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.x509
    # A certificate must not outlive its issuer: verification would fail at an unexpected time.
    life = min(lifetimes.serving, authority.expires - now)
    certificate = (
        _builder(now, life, key, x509.random_serial_number())
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "podlane-injector")]))
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(_public(issuer)), critical=False)
    )
    return _sign(certificate, key, authority.private_key)


def _builder(now: datetime, life: timedelta, key: ec.EllipticCurvePrivateKey, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(serial)
        .public_key(key.public_key())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey) -> KeyPair:
    certificate = builder.sign(by, hashes.SHA256())
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )  # fmt: skip


def _public(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "Pair.read lets no other kind through"
    return key
