"""Browsers' sessions: a cookie whose text nobody but the browser has, and what it stands for.

The database has the text's digest, and the provider's refresh token sealed by a key that is made of the text: who reads
the database can neither take a session over nor log in as its user. A session is fresh for ten minutes; then the
provider is asked again, so that who has left a group there loses its roles here, and after twelve hours it ends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from hmac import compare_digest
from threading import Lock
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control_plane.access.provider import Grant, IdentityProvider, KnownUser, ProviderError
from control_plane.domain.errors import NotAllowedError, UnauthenticatedError
from control_plane.store.sessions import SessionTable, StoredSession

_FRESH: Final = 600
_LONGEST: Final = 12 * 3600
_LOCKS: Final = 64


class BrowserSessions:
    """Any thread may use it. Blocks, and raises :class:`~control_plane.access.provider.ProviderError` and
    :class:`~control_plane.store.errors.StoreError`. ``clock``: Unix seconds."""

    def __init__(self, table: SessionTable, provider: IdentityProvider, clock: Callable[[], float]) -> None:
        self._table = table
        self._provider = provider
        self._clock = clock
        self._locks = [Lock() for _ in range(_LOCKS)]

    def begin(self, user: KnownUser, grant: Grant) -> str:
        """The text of a new session's cookie."""
        text = secrets.token_urlsafe(32)
        now = int(self._clock())
        self._put(text, user, grant.refresh_token, now, now + _LONGEST)
        return text

    def user_of(self, text: str) -> KnownUser:
        """Whose session it is. Raises :class:`UnauthenticatedError`."""
        with self._locks[_digest("lock", text)[0] % _LOCKS]:
            now = int(self._clock())
            found = self._table.get(session_id(text), now)
            if found is None:
                raise _ended()
            document = json.loads(found.document)
            user = KnownUser(document["subject"], document["name"], tuple(document["groups"]))
            return user if now < found.fresh_until else self._renewed(text, found, user, now)

    def _renewed(self, text: str, found: StoredSession, user: KnownUser, now: int) -> KnownUser:
        token = opened(text, found.sealed)
        try:
            if not token:
                raise _ended()
            grant = self._provider.refresh(token)
            # The access token, since a refreshed ID token may be left out (OpenID Connect Core 1.0, section 12.2).
            again = self._provider.user_of(grant.access_token)
            if again.subject != user.subject:
                raise _ended()
        except UnauthenticatedError:
            self._table.remove(found.id)
            raise _ended() from None
        self._put(text, again, grant.refresh_token or token, now, found.ends_at)
        return again

    def end(self, text: str) -> None:
        """End it here and, if the provider answers, there."""
        found = self._table.get(session_id(text), int(self._clock()))
        if found is None:
            return
        self._table.remove(found.id)
        if token := opened(text, found.sealed):
            with suppress(ProviderError):
                self._provider.revoke(token)

    def _put(self, text: str, user: KnownUser, refresh: str, now: int, end: int) -> None:
        session = StoredSession(session_id(text), json.dumps(asdict(user)), sealed(text, refresh), now + _FRESH, end)
        self._table.put(session, now)


def csrf_token(text: str) -> str:
    """What a page has to send with every change: another site's page has the cookie sent, but cannot know this."""
    return base64.urlsafe_b64encode(_digest("csrf", text)).rstrip(b"=").decode()


def check_csrf(text: str, sent: str) -> None:
    """Raises :class:`NotAllowedError`."""
    if not compare_digest(csrf_token(text).encode(), sent.encode()):
        raise NotAllowedError(
            "The request has no X-CSRF-Token of this session.", "Send csrf_token of GET /v1/session with every change."
        )


def _digest(purpose: str, text: str) -> bytes:
    # The text has 256 random bits: a fast hash is enough.
    return hashlib.sha256(f"podlane {purpose}\n{text}".encode()).digest()


def session_id(text: str) -> str:
    """What the database knows a session by."""
    return _digest("session", text).hex()


def sealed(text: str, secret: str) -> str:
    """A secret that nobody can read but who has the text of the cookie."""
    nonce = secrets.token_bytes(12)
    return base64.b64encode(nonce + AESGCM(_digest("seal", text)).encrypt(nonce, secret.encode(), None)).decode()


def opened(text: str, secret: str) -> str:
    """What :func:`sealed` has sealed."""
    content = base64.b64decode(secret)
    return AESGCM(_digest("seal", text)).decrypt(content[:12], content[12:], None).decode()


def _ended() -> UnauthenticatedError:
    return UnauthenticatedError("The session has ended.", "Log in again.")
