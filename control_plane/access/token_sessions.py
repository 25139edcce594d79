"""Sessions that begin with a token of ours: the page that asks for it need not keep it where its scripts can read it.

The database has the digest of the cookie's text, and the token sealed by a key that is made of that text. The token is
looked at with every request, so that the session ends when it is revoked, and after twelve hours.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Final

from control_plane.access.sessions import opened, sealed, session_id
from control_plane.store.sessions import SessionTable, StoredSession

_LONGEST: Final = 12 * 3600
_PREFIX: Final = "token."
"""Of cookies' texts. Those of the identity provider's users have no dot."""


class TokenSessions:
    """Any thread may use it. Blocks, and raises :class:`~control_plane.store.errors.StoreError`. ``clock``: Unix
    seconds."""

    def __init__(self, table: SessionTable, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock

    @staticmethod
    def owns(text: str) -> bool:
        """Whether a cookie may be one of these."""
        return text.startswith(_PREFIX)

    def begin(self, token: str) -> str:
        """The text of a new session's cookie."""
        text = _PREFIX + secrets.token_urlsafe(32)
        now = int(self._clock())
        end = now + _LONGEST
        self._table.put(StoredSession(session_id(text), json.dumps({}), sealed(text, token), end, end), now)
        return text

    def token_of(self, text: str) -> str | None:
        """The token that it began with; None: there is none, or it has ended."""
        found = self._table.get(session_id(text), int(self._clock()))
        return None if found is None else opened(text, found.sealed)

    def end(self, text: str) -> None:
        self._table.remove(session_id(text))
