"""An identity provider that speaks OpenID Connect: OAuth 2.0 (RFC 6749) with PKCE (RFC 7636), device flow (RFC 8628),
and tokens that are JWTs (RFC 7519, RFC 9068), checked by its published keys (RFC 7517)."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from control_plane.domain.errors import UnauthenticatedError
from control_plane.health import Dependency
from traffic_policy.errors import PodlaneError

_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Those whose keys are published. No HS256: a public key would be its secret. No "none"."""
_SKEW: Final = 60
"""Seconds by which clocks may differ."""
_KEYS_S: Final = 300.0
"""After so many seconds keys are read again, so that those which were withdrawn count no more."""
_KEPT_S: Final = 3600.0
"""For so many seconds they count while the provider does not answer."""
_SPACING: Final = 5.0
"""Seconds between two readings for keys that we do not know, which anybody can make up, and after one that failed."""
_TIMEOUT: Final = 5.0
_LONGEST: Final = 2**20
_LONGEST_NAME: Final = 100
_MOST_GROUPS: Final = 1000
SCOPES: Final = "openid profile"


class ProviderError(PodlaneError):
    """The identity provider cannot be asked, or answers nonsense."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """``audience``: what a token must be for. ``groups_claim``: which claim has the groups, as in ``realm.groups``."""

    issuer: str
    client_id: str
    audience: str
    secret: str = ""
    groups_claim: str = "groups"


@dataclass(frozen=True, slots=True)
class KnownUser:
    """Who a token is from, as the provider says."""

    subject: str
    name: str
    groups: tuple[str, ...]

    @property
    def author(self) -> str:
        """As it is recorded. The subject is unique and stays; a name may be given to somebody else."""
        return f"oidc:{self.name}/{self.subject}" if self.name else f"oidc:{self.subject}"


@dataclass(frozen=True, slots=True)
class Grant:
    """What the provider gave. ``expires_in`` in seconds."""

    access_token: str
    expires_in: int
    refresh_token: str = ""
    id_token: str = ""


@dataclass(slots=True)
class IdentityProvider:
    """Any thread may use it. Blocks, and raises :class:`ProviderError`."""

    settings: ProviderSettings
    clock: Callable[[], float] = time.time
    dependency: Dependency = field(default_factory=lambda: Dependency("identity provider"))
    """Whether it was there when it was asked last."""
    _metadata: Mapping[str, Any] = field(default_factory=dict, init=False)
    _keys: KeySet | None = field(default=None, init=False)
    _read_at: float = field(default=0.0, init=False)
    _failed_at: float = field(default=0.0, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def endpoint(self, name: str) -> str:
        """The URL of an endpoint, as the provider's metadata have it; empty: it has none."""
        return str(self._about().get(name, ""))

    def _about(self) -> Mapping[str, Any]:
        """OpenID Connect Discovery 1.0, section 4."""
        if not self._metadata:
            found = self._fetch(
                urllib.request.Request(f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration")
            )
            if found.get("issuer") != self.settings.issuer:
                raise ProviderError(
                    f"{self.settings.issuer} says that it is {str(found.get('issuer'))[:200]}. Write --oidc-issuer so."
                )
            self._metadata = found
        return self._metadata

    # --- tokens ------------------------------------------------------------------------------------------------

    def user_of(self, token: str) -> KnownUser:
        """Whose access token it is. Raises :class:`UnauthenticatedError`."""
        claims = self._checked(token, self.settings.audience)
        # Keycloak's ID tokens and refresh tokens are for others, and say what they are.
        if claims.get("typ") in ("ID", "Refresh"):
            raise _not_valid("it is no access token")
        return self._user(claims)

    def user_of_login(self, id_token: str, nonce: str) -> KnownUser:
        """Whom an ID token (OpenID Connect Core 1.0, section 3.1.3.7) is about, who has logged in with this nonce."""
        claims = self._checked(id_token, self.settings.client_id)
        if claims.get("nonce") != nonce:
            raise _not_valid("it is of another login")
        return self._user(claims)

    def _checked(self, token: str, audience: str) -> dict[str, Any]:
        registry = jwt.JWTClaimsRegistry(
            now=lambda: int(self.clock()),
            leeway=_SKEW,
            iss={"essential": True, "value": self.settings.issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        try:
            decoded = self._decoded(token)
            registry.validate(decoded.claims)
        except (JoseError, ValueError) as error:
            # What joserfc says names claims, and has nothing of the token.
            raise _not_valid(str(error)) from None
        return decoded.claims

    def _decoded(self, token: str) -> jwt.Token:
        try:
            return jwt.decode(token, self._current_keys(), algorithms=list(_ALGORITHMS))
        except InvalidKeyIdError:
            # Signed by a key that is newer than our list.
            return jwt.decode(token, self._current_keys(_SPACING), algorithms=list(_ALGORITHMS))

    def _current_keys(self, oldest: float = _KEYS_S) -> KeySet:
        known = self._keys
        if known is not None and self._is_fresh(oldest):
            return known
        # One thread asks; the others go on with what is known, so that a slow provider does not hold up all of them.
        if not self._lock.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            if self._keys is None or not self._is_fresh(oldest):
                self._read_keys()
            assert self._keys is not None
            return self._keys
        finally:
            self._lock.release()

    def _is_fresh(self, oldest: float) -> bool:
        return self._read_at <= self.clock() < self._read_at + oldest

    def _read_keys(self) -> None:
        now = self.clock()
        if self._failed_at <= now < self._failed_at + _SPACING:
            if self._keys is not None:
                return
            raise ProviderError(f"{self.settings.issuer} could not be asked a moment ago. See that it runs.")
        try:
            self._keys = _key_set(self._fetch(urllib.request.Request(self.endpoint("jwks_uri"))))
        except ProviderError:
            self._failed_at = now
            if self._keys is None or now > self._read_at + _KEPT_S:
                raise
        else:
            self._read_at = now

    def _user(self, claims: Mapping[str, Any]) -> KnownUser:
        groups = _claim(claims, self.settings.groups_claim)
        found = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        name = str(claims.get("preferred_username") or claims.get("email") or "")
        return KnownUser(_plain(claims["sub"]), _plain(name), tuple(str(group) for group in found[:_MOST_GROUPS]))

    # --- flows -------------------------------------------------------------------------------------------------

    def login_url(self, redirect: str, state: str, nonce: str, verifier: str) -> str:
        """Where a browser is sent to log in. ``verifier``: of PKCE, and shown when the code is exchanged."""
        query = {
            "response_type": "code", "client_id": self.settings.client_id, "redirect_uri": redirect, "scope": SCOPES,
            "state": state, "nonce": nonce, "code_challenge": _challenge(verifier), "code_challenge_method": "S256",
        }  # fmt: skip
        return f"{self.endpoint('authorization_endpoint')}?{urlencode(query)}"

    def exchange(self, code: str, redirect: str, verifier: str) -> Grant:
        """The tokens for a code. Raises :class:`UnauthenticatedError`."""
        return self._grant(grant_type="authorization_code", code=code, redirect_uri=redirect, code_verifier=verifier)

    def refresh(self, token: str) -> Grant:
        """New tokens for a refresh token. Raises :class:`UnauthenticatedError`."""
        return self._grant(grant_type="refresh_token", refresh_token=token)

    def begin_device(self) -> dict[str, Any]:
        """The document of RFC 8628, section 3.2, for who wants to log in on a device without a browser."""
        url = self.endpoint("device_authorization_endpoint")
        if not url:
            raise ProviderError(f"{self.settings.issuer} has no device flow. Log in with a token instead.")
        # PKCE, which Keycloak asks for here too where a client has to use it; others ignore it. Who has the code has
        # the verifier, since we keep neither.
        verifier = secrets.token_urlsafe(32)
        found = self._ask(url, scope=SCOPES, code_challenge=_challenge(verifier), code_challenge_method="S256")
        if "error" in found:
            told = _plain(str(found.get("error_description") or found["error"]))
            raise ProviderError(f"The identity provider refuses the device flow: {told}. Allow it for our client.")
        return {**found, "device_code": f"{verifier}.{found.get('device_code')}"}

    def device_grant(self, device_code: str) -> Grant | str:
        """The tokens, or why there are none yet: ``authorization_pending``, ``slow_down``, or what ends it."""
        verifier, _, code = device_code.partition(".")
        found = self._ask(
            self.endpoint("token_endpoint"),
            grant_type="urn:ietf:params:oauth:grant-type:device_code", device_code=code, code_verifier=verifier,
        )  # fmt: skip
        return _granted(found) if "error" not in found else _plain(str(found["error"]))

    def revoke(self, token: str) -> None:
        """Withdraw a refresh token (RFC 7009), where the provider can."""
        if url := self.endpoint("revocation_endpoint"):
            self._ask(url, token=token, token_type_hint="refresh_token")

    def _grant(self, **form: str) -> Grant:
        found = self._ask(self.endpoint("token_endpoint"), **form)
        if "error" in found:
            raise _not_valid(_plain(str(found["error"])))
        return _granted(found)

    def _ask(self, url: str, **form: str) -> dict[str, Any]:
        form["client_id"] = self.settings.client_id
        if self.settings.secret:
            form["client_secret"] = self.settings.secret
        return self._fetch(urllib.request.Request(url, urlencode(form).encode()))

    def _fetch(self, request: urllib.request.Request) -> dict[str, Any]:
        try:
            found = _fetch(request)
        except ProviderError as error:
            self.dependency.is_away(str(error))
            raise
        self.dependency.is_up()
        return found


def _challenge(verifier: str) -> str:
    """RFC 7636, section 4.2."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _granted(found: Mapping[str, Any]) -> Grant:
    try:
        return Grant(
            str(found["access_token"]), int(found.get("expires_in", 300)), str(found.get("refresh_token", "")),
            str(found.get("id_token", "")),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise ProviderError("The identity provider gave no access token. Look into its log.") from None


def _not_valid(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"The identity provider's token is not valid: {why[:200]}.", "Log in again.")


def _key_set(found: Mapping[str, Any]) -> KeySet:
    try:
        return KeySet.import_key_set(found)  # type: ignore[arg-type]
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise ProviderError(f"The identity provider's keys cannot be read: {error}. Look at its jwks_uri.") from None


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """By its name, else by the names of objects that are in each other, with dots between."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:_LONGEST_NAME]


def _fetch(request: urllib.request.Request) -> dict[str, Any]:
    """The JSON object that answers, also with an error of OAuth (RFC 6749, section 5.2)."""
    request.add_header("Accept", "application/json")
    try:
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                text = answer.read(_LONGEST)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(_LONGEST)
            if error.code >= 500 or error.code == 404:
                raise ProviderError(f"The identity provider answers {error.code}. See that it runs.") from None
        document = json.loads(text or b"{}")
    except (OSError, ValueError) as error:
        told = getattr(error, "reason", None) or type(error).__name__
        raise ProviderError(
            f"The identity provider cannot be asked: {told}. See that it runs, and what --oidc-issuer says."
        ) from None
    if not isinstance(document, dict):
        raise ProviderError("The identity provider answers no JSON object. See what --oidc-issuer says.")
    return document
