"""The injector's own certificates over their life: every step, and a simulated decade with lagging replicas."""

from __future__ import annotations

import random
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from daemon.errors import CertificateError
from injector.server.certificates import (
    Certificates,
    KeyPair,
    Lifetimes,
    Step,
    names_of,
    next_step,
    split_bundle,
    take_step,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("podlane-injector.podlane.svc", "127.0.0.1")
LIFE = Lifetimes(timedelta(days=365), timedelta(days=30), timedelta(minutes=10))
FRESH = take_step(Step.CREATE, None, START, NAMES, LIFE)
AGED = START + timedelta(days=250)
RENEWED = take_step(Step.RENEW, FRESH, AGED, NAMES, LIFE)
PREPARED = take_step(Step.PREPARE, RENEWED, AGED, NAMES, LIFE)
PROMOTED = take_step(Step.PROMOTE, PREPARED, AGED + LIFE.overlap, NAMES, LIFE)


def trusts(bundle: bytes, served: bytes, at: datetime) -> bool:
    """Whether a client with this bundle accepts this certificate, as RFC 5280 and the web's rules have it."""
    verifier = (
        PolicyBuilder()
        .store(Store(x509.load_pem_x509_certificates(bundle)))
        .time(at)
        .build_server_verifier(x509.DNSName(NAMES[0]))
    )
    try:
        verifier.verify(x509.load_pem_x509_certificate(served), [])
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize(
    ("held", "now", "names", "trusted_since", "step"),
    [
        pytest.param(None, START, NAMES, None, Step.CREATE, id="nothing stored"),
        pytest.param(FRESH, START, NAMES, None, Step.KEEP, id="all fresh"),
        pytest.param(FRESH, START + timedelta(days=19.9), NAMES, None, Step.KEEP, id="serving not yet ageing"),
        pytest.param(FRESH, START + timedelta(days=20), NAMES, None, Step.RENEW, id="serving past two thirds"),
        pytest.param(FRESH, START + timedelta(days=40), NAMES, None, Step.RENEW, id="serving expired"),
        pytest.param(FRESH, START, (*NAMES, "other.svc"), None, Step.RENEW, id="a name is missing"),
        pytest.param(FRESH, START, NAMES[:1], None, Step.KEEP, id="a name too many does no harm"),
        pytest.param(FRESH, AGED, NAMES, AGED, Step.PREPARE, id="authority past two thirds"),
        pytest.param(FRESH, START + timedelta(days=365), NAMES, None, Step.CREATE, id="authority expired"),
        pytest.param(FRESH, START - timedelta(days=1), NAMES, None, Step.CREATE, id="made in the future"),
        pytest.param(FRESH, START - timedelta(minutes=30), NAMES, None, Step.KEEP, id="clocks differ a little"),
        pytest.param(PREPARED, AGED, NAMES, None, Step.KEEP, id="next one: not trusted"),
        pytest.param(PREPARED, AGED + timedelta(days=9), NAMES, None, Step.KEEP, id="next one: still not trusted"),
        pytest.param(PREPARED, AGED + LIFE.overlap - timedelta(seconds=1), NAMES, AGED, Step.KEEP, id="overlap not over"),
        pytest.param(PREPARED, AGED + LIFE.overlap, NAMES, AGED, Step.PROMOTE, id="overlap over"),
        pytest.param(
            PREPARED, AGED + timedelta(hours=1), NAMES, AGED + timedelta(minutes=51), Step.KEEP, id="trusted only lately"
        ),
        pytest.param(PREPARED, AGED + timedelta(days=20), NAMES, None, Step.RENEW, id="untrusted, but renewals go on"),
        pytest.param(PROMOTED, AGED + timedelta(hours=1), NAMES, AGED, Step.KEEP, id="promoted"),
        pytest.param(
            replace(PROMOTED, serving=take_step(Step.RENEW, PROMOTED, AGED + timedelta(days=30), NAMES, LIFE).serving),
            AGED + timedelta(days=30), NAMES, None, Step.FORGET, id="all that the old one signed has expired",
        ),
    ],
)  # fmt: skip
def test_what_has_to_be_done(
    held: Certificates | None, now: datetime, names: tuple[str, ...], trusted_since: datetime | None, step: Step
) -> None:
    found, reason = next_step(held, now, names, LIFE, trusted_since)
    assert found is step
    assert reason


def test_what_is_made_is_what_tls_asks_for() -> None:
    leaf, authority = FRESH.serving.x509, FRESH.authority.x509
    assert names_of(leaf) == NAMES
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert trusts(FRESH.bundle, FRESH.serving.certificate, START)
    assert not trusts(take_step(Step.CREATE, None, START, NAMES, LIFE).bundle, FRESH.serving.certificate, START)
    assert trusts(FRESH.bundle, FRESH.serving.certificate, START - timedelta(minutes=30))  # a node's clock is behind


def test_a_new_authority_is_trusted_before_it_signs_and_the_old_one_after_it_did() -> None:
    assert PREPARED.serving == RENEWED.serving
    assert split_bundle(PREPARED.bundle) > split_bundle(RENEWED.bundle)
    assert PROMOTED.authority == PREPARED.upcoming
    assert split_bundle(PROMOTED.bundle) == split_bundle(PREPARED.bundle)
    now = AGED + LIFE.overlap
    assert trusts(PREPARED.bundle, PROMOTED.serving.certificate, now)
    assert trusts(PROMOTED.bundle, PREPARED.serving.certificate, now)
    assert PREPARED.authority.key not in PROMOTED.to_data().values()
    assert PROMOTED.previous_until == RENEWED.serving.expires
    forgotten = take_step(Step.FORGET, PROMOTED, now, NAMES, LIFE)
    assert split_bundle(forgotten.bundle) == {PROMOTED.authority.certificate.strip()}


def test_a_serving_certificate_ends_before_its_authority() -> None:
    late = START + timedelta(days=360)
    renewed = take_step(Step.RENEW, FRESH, late, NAMES, LIFE)
    assert renewed.serving.expires == FRESH.authority.expires


@pytest.mark.parametrize("held", [FRESH, PREPARED, PROMOTED], ids=["fresh", "prepared", "promoted"])
def test_the_secret_holds_all_of_it(held: Certificates) -> None:
    assert Certificates.from_data(held.to_data()) == held


DATA = PROMOTED.to_data()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"tls.key": b""}, "tls.key is missing", id="a key is missing"),
        pytest.param({"tls.key": b"", "ca.crt": b""}, "ca.crt, tls.key are missing", id="two are missing"),
        pytest.param({"tls.crt": b"rubbish"}, "tls.crt cannot be read", id="no certificate"),
        pytest.param({"tls.key": b"rubbish"}, "tls.crt cannot be read", id="no key"),
        pytest.param({"tls.key": FRESH.serving.key}, "do not belong together", id="somebody else's key"),
        pytest.param(
            {"ca.crt": FRESH.authority.certificate, "ca.key": FRESH.authority.key}, "not signed", id="another authority"
        ),
        pytest.param({"previous-ca.until": b"soon"}, "previous-ca", id="no date"),
        pytest.param({"previous-ca.crt": b"rubbish"}, "previous-ca", id="no previous authority"),
        pytest.param({"upcoming-ca.crt": b"rubbish"}, "upcoming-ca.crt", id="no next authority"),
    ],
)
def test_damage_is_found(change: dict[str, bytes], says: str) -> None:
    with pytest.raises(CertificateError, match=says):
        Certificates.from_data({**DATA, **change})


def test_what_other_replicas_may_still_serve_stays_trusted_when_the_secret_is_damaged() -> None:
    rubbish = b"rubbish\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n"
    made = take_step(Step.CREATE, None, START, NAMES, LIFE, rubbish + FRESH.bundle + rubbish + FRESH.bundle)
    assert split_bundle(made.previous) == split_bundle(FRESH.bundle)
    assert trusts(made.bundle, FRESH.serving.certificate, START)
    assert trusts(made.bundle, made.serving.certificate, START)
    assert made.previous_until == START + LIFE.serving
    expired = take_step(Step.CREATE, FRESH, START + timedelta(days=400), NAMES, LIFE)
    assert split_bundle(expired.bundle) == {expired.authority.certificate.strip()}


def test_bundles_are_compared_by_what_they_hold() -> None:
    one, two = FRESH.authority.certificate, PROMOTED.authority.certificate
    assert split_bundle(one + b"\n# of old\n" + two) == split_bundle(two + one)
    assert split_bundle(b"rubbish") == frozenset()


def test_openssl_reads_what_is_made() -> None:
    context = ssl.create_default_context(cadata=PROMOTED.bundle.decode())
    assert len(context.get_ca_certs()) == 2


def test_only_elliptic_curves_are_taken_for_authorities() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 1024)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    with pytest.raises(CertificateError, match="curve"):
        KeyPair.read(FRESH.authority.certificate, pem, "ca.crt")


@pytest.mark.parametrize("seed", range(2))
def test_over_years_nothing_is_served_that_is_not_trusted(seed: int) -> None:
    """Two replicas look at the Secret now and then, API servers see the bundle late; both within the overlap."""
    dice = random.Random(seed)
    life = Lifetimes(timedelta(days=90), timedelta(days=15), timedelta(hours=12))
    now = START
    stored = take_step(Step.CREATE, None, now, NAMES, life)
    served = {0: stored.serving.certificate, 1: stored.serving.certificate}
    bundles = [(now, stored.bundle)]  # as written to the webhook configuration
    trusted: dict[int, tuple[frozenset[bytes], datetime]] = {}
    steps: set[Step] = set()
    while now < START + timedelta(days=200):
        now += timedelta(hours=dice.uniform(2, 12))
        replica = dice.randrange(2)
        while True:
            bundle = split_bundle(stored.bundle)
            if not bundle <= split_bundle(bundles[-1][1]):
                trusted.pop(replica, None)
            elif replica not in trusted or trusted[replica][0] != bundle:
                trusted[replica] = bundle, now
            since = trusted[replica][1] if replica in trusted else None
            step, _ = next_step(stored, now, NAMES, life, since)
            if step is Step.KEEP:
                break
            steps.add(step)
            stored = take_step(step, stored, now, NAMES, life)
        if split_bundle(bundles[-1][1]) != split_bundle(stored.bundle):
            bundles.append((now, stored.bundle))
        served[replica] = stored.serving.certificate
        seen_by_a_late_api_server = [b for t, b in bundles if t <= now - timedelta(minutes=20)][-1:] or [bundles[0][1]]
        for certificate in served.values():
            for bundle_pem in (bundles[-1][1], *seen_by_a_late_api_server):
                assert trusts(bundle_pem, certificate, now), now
    assert steps == {Step.PREPARE, Step.PROMOTE, Step.FORGET, Step.RENEW}
