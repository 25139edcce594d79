"""Decides who a request is from, and whether it comes too soon after others."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from control_plane.access.limits import RequestBuckets
from control_plane.access.provider import IdentityProvider, KnownUser
from control_plane.access.refusals import RefusalRecorder
from control_plane.access.sessions import BrowserSessions
from control_plane.access.token_sessions import TokenSessions
from control_plane.domain.errors import TooManyError, UnauthenticatedError
from control_plane.service import Caller, ControlPlane

_BURST: Final = 4
"""Seconds worth of them may come at once."""
_FAILED_BURST: Final = 20
_FAILED_RATE: Final = 0.5
"""Requests without a valid token from one address: at once, and a second."""

_LOGIN_BURST: Final = 100
_LOGIN_RATE: Final = 5
"""Requests that are parts of logins, likewise. A program that waits for somebody to log in sends one in 5 s."""


@dataclass(frozen=True, slots=True)
class Users:
    """People who log in by an identity provider. ``url``: how browsers reach us, without a slash at the end."""

    provider: IdentityProvider
    sessions: BrowserSessions
    url: str

    @property
    def secure(self) -> bool:
        """Whether cookies may be sent by TLS alone."""
        return self.url.startswith("https:")


@dataclass(slots=True)
class Gate:
    """Any thread may use it. ``requests``: how many a second one token may send; 0: any number.

    ``secure``: whether browsers reach us by TLS, so that cookies may be sent by it alone.
    """

    plane: ControlPlane
    recorder: RefusalRecorder
    requests: int
    clock: Callable[[], float] = time.monotonic
    users: Users | None = None
    secure: bool = False
    tokens: TokenSessions = field(init=False)
    _lock: Lock = field(default_factory=Lock)
    _callers: RequestBuckets = field(init=False)
    _strangers: RequestBuckets = field(init=False)
    _logins: RequestBuckets = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = TokenSessions(self.plane.store.sessions, time.time)
        self._callers = RequestBuckets(max(1, self.requests), max(1, self.requests) * _BURST)
        self._strangers = RequestBuckets(_FAILED_RATE, _FAILED_BURST)
        self._logins = RequestBuckets(_LOGIN_RATE, _LOGIN_BURST)

    def admit(self, credentials: str | None, address: str) -> Caller:
        """Whose credentials these are. Raises :class:`UnauthenticatedError`, :class:`TooManyError`.

        Who has a token is never refused for what others at the same address have tried: behind a proxy all have one.
        To guess a token is hopeless however often one may try.
        """
        try:
            caller = None if credentials is None else self._owner(credentials)
        except UnauthenticatedError:
            self.count_stranger(address)
            raise
        if caller is None:
            self.count_stranger(address)
            raise UnauthenticatedError(
                "The request has no valid token.",
                "Send Authorization: Bearer and a token that is not revoked or expired.",
            )
        return caller

    def _owner(self, credentials: str) -> Caller | None:
        # JWTs have two dots, tokens of ours none.
        if self.users is not None and credentials.count(".") == 2:
            return self._caller(self.users.provider.user_of(credentials))
        return self.plane.authenticate(credentials)

    def admit_session(self, text: str, address: str) -> Caller:
        """Whose session a cookie stands for. Raises what :meth:`admit` does."""
        if self.tokens.owns(text):
            return self._admit_token_session(text, address)
        try:
            if self.users is None:
                raise UnauthenticatedError("There are no sessions here.", "Use a token.")
            return self._caller(self.users.sessions.user_of(text))
        except UnauthenticatedError:
            self.count_stranger(address)
            raise

    def _admit_token_session(self, text: str, address: str) -> Caller:
        token = self.tokens.token_of(text)
        caller = None if token is None else self.plane.authenticate(token)
        if caller is None:
            self.count_stranger(address)
            raise UnauthenticatedError("The session has ended, or its token was revoked.", "Sign in again.")
        return caller

    def _caller(self, user: KnownUser) -> Caller:
        return Caller(user.author, lambda tenant: self.plane.role_of(user.groups, tenant))

    def count_stranger(self, address: str) -> None:
        """Count a request of somebody who is not known. Raises :class:`TooManyError`."""
        self._check(self._strangers, address, "Too many requests without a valid token came from this address.")

    def count_login(self, address: str) -> None:
        """Count a request that is part of a login. Raises :class:`TooManyError`."""
        self._check(self._logins, address, "Too many logins came from this address.")

    def count(self, caller: Caller) -> None:
        """Count a request of a caller. Raises :class:`TooManyError`."""
        if self.requests:
            self._check(self._callers, caller.author, f"{caller.author} may send {self.requests} requests a second.")

    def _check(self, buckets: RequestBuckets, name: str, told: str) -> None:
        with self._lock:
            wait = buckets.take(name, self.clock())
        if wait:
            raise TooManyError(told, wait)
