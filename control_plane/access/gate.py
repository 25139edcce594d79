"""Decides who a request is from, and whether it comes too soon after others."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from control_plane.access.limits import RequestBuckets
from control_plane.access.refusals import RefusalRecorder
from control_plane.domain.errors import TooManyError, UnauthenticatedError
from control_plane.service import Caller, ControlPlane

_BURST: Final = 4
"""Seconds worth of them may come at once."""
_FAILED_BURST: Final = 20
_FAILED_RATE: Final = 0.5
"""Requests without a valid token from one address: at once, and a second."""


@dataclass(slots=True)
class Gate:
    """Any thread may use it. ``requests``: how many a second one token may send; 0: any number."""

    plane: ControlPlane
    recorder: RefusalRecorder
    requests: int
    clock: Callable[[], float] = time.monotonic
    _lock: Lock = field(default_factory=Lock)
    _callers: RequestBuckets = field(init=False)
    _strangers: RequestBuckets = field(init=False)

    def __post_init__(self) -> None:
        self._callers = RequestBuckets(max(1, self.requests), max(1, self.requests) * _BURST)
        self._strangers = RequestBuckets(_FAILED_RATE, _FAILED_BURST)

    def admit(self, credentials: str | None, address: str) -> Caller:
        """Whose credentials these are. Raises :class:`UnauthenticatedError`, :class:`TooManyError`.

        Who has a token is never refused for what others at the same address have tried: behind a proxy all have one.
        To guess a token is hopeless however often one may try.
        """
        caller = None if credentials is None else self.plane.authenticate(credentials)
        if caller is None:
            self._check(self._strangers, address, "Too many requests without a valid token came from this address.")
            raise UnauthenticatedError(
                "The request has no valid token.",
                "Send Authorization: Bearer and a token that is not revoked or expired.",
            )
        return caller

    def count(self, caller: Caller) -> None:
        """Count a request of a caller. Raises :class:`TooManyError`."""
        if self.requests:
            self._check(self._callers, caller.author, f"{caller.author} may send {self.requests} requests a second.")

    def _check(self, buckets: RequestBuckets, name: str, told: str) -> None:
        with self._lock:
            wait = buckets.take(name, self.clock())
        if wait:
            raise TooManyError(told, wait)
