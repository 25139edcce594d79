"""JWTs of an identity provider: who may come in by which, while its keys change. Signed by real keys, over HTTP."""

from __future__ import annotations

import base64
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from control_plane.access.provider import IdentityProvider, KnownUser, ProviderError, ProviderSettings
from control_plane.domain.errors import UnauthenticatedError
from control_plane.settings import load_settings
from traffic_policy.errors import ConfigError

NOW = 1_800_000_000


class Publisher:
    """What a provider publishes: its metadata, and its keys. Counts how often those are read."""

    def __init__(self) -> None:
        self.keys = [RSAKey.generate_key(2048, {"kid": "one"})]
        self.read = 0
        self.broken = False
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                document: dict[str, Any] = {"issuer": publisher.issuer, "jwks_uri": f"{publisher.issuer}/keys"}
                if self.path == "/keys":
                    publisher.read += 1
                    document = KeySet(publisher.keys).as_dict(private=False)
                body = b"<html>" if publisher.broken else json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    thread = threading.Thread(target=publisher.server.serve_forever)
    thread.start()
    yield publisher
    publisher.server.shutdown()
    thread.join()
    publisher.server.server_close()


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(publisher: Publisher, clock: Clock) -> IdentityProvider:
    return IdentityProvider(ProviderSettings(publisher.issuer, "podlane", "podlane-api"), clock)


def signed(
    publisher: Publisher, key: Any = None, algorithm: str = "RS256", header: dict | None = None, **changed: Any
) -> str:
    claims = {
        "iss": publisher.issuer, "aud": "podlane-api", "sub": "7", "exp": NOW + 300, "iat": NOW, "nbf": NOW,
        "preferred_username": "ada", "groups": ["a", "b"],
    } | changed  # fmt: skip
    claims = {name: value for name, value in claims.items() if value is not None}
    key = key or publisher.keys[0]
    return jwt.encode({"alg": algorithm, "kid": key.kid} | (header or {}), claims, key, algorithms=[algorithm])


def test_a_token_says_who_it_is_from(publisher: Publisher, provider: IdentityProvider) -> None:
    user = provider.user_of(signed(publisher))
    assert user == KnownUser("7", "ada", ("a", "b"))
    assert user.author == "oidc:ada/7"
    assert provider.user_of(signed(publisher, aud=["x", "podlane-api"])).subject == "7"
    assert provider.user_of(signed(publisher, groups=None)).groups == ()
    assert provider.user_of(signed(publisher, groups="a")).groups == ("a",)
    assert provider.user_of(signed(publisher, preferred_username="a\nb" + "x" * 500)).name == "a b" + "x" * 97


WRONG = {
    "another issuer": {"iss": "https://elsewhere.example.com"},
    "no issuer": {"iss": None},
    "for somebody else": {"aud": "other"},
    "for nobody": {"aud": None},
    "expired": {"exp": NOW - 61},
    "without an end": {"exp": None},
    "not yet": {"nbf": NOW + 61},
    "from the future": {"iat": NOW + 61},
    "of nobody": {"sub": None},
    "an ID token": {"typ": "ID"},
    "an end that is no number": {"exp": "never"},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_token_that_is_not_for_us_is_refused(publisher: Publisher, provider: IdentityProvider, what: str) -> None:
    token = signed(publisher, **WRONG[what])
    with pytest.raises(UnauthenticatedError) as caught:
        provider.user_of(token)
    assert caught.value.remedy == "Log in again."
    assert not any(part in str(caught.value) for part in token.split("."))


@pytest.mark.parametrize("change", [{"exp": NOW - 59}, {"nbf": NOW + 59}, {"iat": NOW + 59}])
def test_clocks_may_differ_by_a_minute(
    publisher: Publisher, provider: IdentityProvider, change: dict[str, int]
) -> None:
    assert provider.user_of(signed(publisher, **change)).subject == "7"


def test_what_was_not_signed_by_a_published_key_is_refused(publisher: Publisher, provider: IdentityProvider) -> None:
    good = signed(publisher)
    head, body, signature = good.split(".")
    other = RSAKey.generate_key(2048, {"kid": "one"})
    none = "eyJhbGciOiJub25lIiwia2lkIjoib25lIn0"  # {"alg":"none","kid":"one"}
    public = publisher.keys[0].as_pem(private=False)
    # {"alg":"HS256","kid":"one"}: what is public would be the secret. joserfc itself refuses to make such a token.
    hs = f"eyJhbGciOiJIUzI1NiIsImtpZCI6Im9uZSJ9.{body}"
    digest = hmac.digest(public, hs.encode(), "sha256")
    confused = f"{hs}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    for token in (
        signed(publisher, other), f"{head}.{body}.", f"{none}.{body}.", f"{none}.{body}.{signature}", confused,
        f"{head}.{body[:-2]}AA.{signature}", "a.b.c", "..", f"{head}.{body}.{signature}.x", "ä.b.c",
    ):  # fmt: skip
        with pytest.raises(UnauthenticatedError):
            provider.user_of(token)
    assert provider.user_of(good).subject == "7"


def test_keys_may_be_of_elliptic_curves(publisher: Publisher, provider: IdentityProvider) -> None:
    publisher.keys.append(ECKey.generate_key("P-256", {"kid": "curve"}))
    assert provider.user_of(signed(publisher, publisher.keys[1], "ES256")).subject == "7"


def test_keys_change_while_tokens_come(publisher: Publisher, provider: IdentityProvider, clock: Clock) -> None:
    old = signed(publisher)
    provider.user_of(old)
    assert publisher.read == 1
    provider.user_of(old)
    assert publisher.read == 1, "they are kept"
    # A new key signs; both are published.
    publisher.keys.append(RSAKey.generate_key(2048, {"kid": "two"}))
    new = signed(publisher, publisher.keys[1])
    clock.now += 6
    assert provider.user_of(new).subject == "7"
    assert publisher.read == 2
    assert provider.user_of(old).subject == "7"
    # The old one is withdrawn: what it has signed is refused five minutes later, though it has not expired.
    del publisher.keys[0]
    assert provider.user_of(old).subject == "7"
    clock.now += 300
    fresh = signed(publisher, exp=clock.now + 100)
    assert provider.user_of(fresh).subject == "7"
    with pytest.raises(UnauthenticatedError):
        provider.user_of(old)


def test_keys_that_strangers_make_up_do_not_have_us_ask_the_provider(
    publisher: Publisher, provider: IdentityProvider, clock: Clock
) -> None:
    for number in range(50):
        with pytest.raises(UnauthenticatedError):
            provider.user_of(signed(publisher, header={"kid": f"made-up-{number}"}))
    assert publisher.read == 1
    clock.now += 6
    with pytest.raises(UnauthenticatedError):
        provider.user_of(signed(publisher, header={"kid": "made-up"}))
    assert publisher.read == 2


def test_a_provider_that_is_away_or_another_is_named(publisher: Publisher, clock: Clock) -> None:
    away = IdentityProvider(ProviderSettings("http://127.0.0.1:1", "podlane", "podlane-api"), clock)
    with pytest.raises(ProviderError, match=r"cannot be asked.*See that it runs"):
        away.user_of(signed(publisher))
    other = IdentityProvider(ProviderSettings(f"{publisher.issuer}/", "podlane", "podlane-api"), clock)
    with pytest.raises(ProviderError, match="Write --oidc-issuer so"):
        other.user_of(signed(publisher))
    publisher.broken = True
    broken = IdentityProvider(ProviderSettings(publisher.issuer, "podlane", "podlane-api"), clock)
    with pytest.raises(ProviderError, match="cannot be asked"):
        broken.user_of(signed(publisher))


def test_a_provider_that_is_away_for_a_while_locks_nobody_out(
    publisher: Publisher, provider: IdentityProvider, clock: Clock
) -> None:
    token = signed(publisher, exp=NOW + 10_000)
    provider.user_of(token)
    publisher.broken = True
    for seconds in (301, 6, 600):
        clock.now += seconds
        assert provider.user_of(token).subject == "7"
    clock.now += 3600
    with pytest.raises(ProviderError):
        provider.user_of(token)
    publisher.broken = False
    clock.now += 6
    assert provider.user_of(token).subject == "7"


def test_groups_are_where_the_setting_says(publisher: Publisher, clock: Clock) -> None:
    for claim, claims in (
        ("roles", {"roles": ["x"]}),
        ("realm_access.roles", {"realm_access": {"roles": ["x"]}}),
        ("https://example.com/groups", {"https://example.com/groups": ["x"]}),
    ):
        settings = ProviderSettings(publisher.issuer, "podlane", "podlane-api", groups_claim=claim)
        assert IdentityProvider(settings, clock).user_of(signed(publisher, **claims)).groups == ("x",)
        assert IdentityProvider(settings, clock).user_of(signed(publisher, realm_access="no object")).groups == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"oidc_issuer": "http://login.example.com", "oidc_client_id": "x"}, "https://"),
        ({"oidc_issuer": "https://login.example.com"}, "--oidc-client-id"),
        ({"oidc_client_id": "x"}, "--oidc-issuer"),
        ({"public_url": "podlane.example.com"}, "--public-url"),
        ({"public_url": "https://example.com/podlane"}, "--public-url"),
    ],
)
def test_settings_that_cannot_work_are_named(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_settings(given)
