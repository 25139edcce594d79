"""The life of a proxied connection, as a table.

::

    DETECTING --decided--> DIALLING --connected--> RELAYING --up finished----> CLIENT_DONE --down finished--> CLOSED
        |                     |                       |-------down finished--> SERVER_DONE --up finished----> CLOSED
        '---- reset, expired, cut, fault: CLOSED -----'

*Up* is client to server, *down* is server to client. A direction **finishes** when its source sent FIN, everything
before the FIN was handed on, and the FIN too (half-close). It **breaks** when its sink reset the connection after
having sent its own FIN: nobody will read what comes, but what the sink sent before that FIN must still arrive on the
other side. So a broken direction stops, the other one goes on (ONLY_UP, ONLY_DOWN), and when that one has finished the
side that is left gets a reset as soon as it has acknowledged its last byte (LINGERING): a reset any earlier would
destroy data in flight, none at all would let a truncated upload look complete.

What is not in the table cannot happen; :func:`next_state` raises for it.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Final

from traffic_policy.errors import PodlaneError


class StateError(PodlaneError):
    """An event in a state that does not know it: a mistake in this program."""


class ConnectionState(enum.IntEnum):
    """Where a connection is. (An IntEnum, because its hash is computed in C.)"""

    DETECTING = enum.auto()
    """The client is connected; its first bytes are awaited."""
    DIALLING = enum.auto()
    """The class is chosen, the connection to the original destination is being made."""
    RELAYING = enum.auto()
    """Both directions are open."""
    CLIENT_DONE = enum.auto()
    """The client's FIN was handed on; the server may still send."""
    SERVER_DONE = enum.auto()
    """The server's FIN was handed on; the client may still send."""
    ONLY_UP = enum.auto()
    """The client finished and then reset: only what it had sent is still delivered."""
    ONLY_DOWN = enum.auto()
    """The server finished and then reset: only what it had sent is still delivered."""
    LINGERING = enum.auto()
    """One direction finished, the other broke: waiting until the FIN is acknowledged, to reset then."""
    CLOSED = enum.auto()
    """Both sockets are closed."""


class ConnectionEvent(enum.IntEnum):
    """What can happen to a connection."""

    DECIDED = enum.auto()
    CONNECTED = enum.auto()
    DIAL_FAILED = enum.auto()
    UP_FINISHED = enum.auto()
    DOWN_FINISHED = enum.auto()
    UP_BROKEN = enum.auto()
    DOWN_BROKEN = enum.auto()
    DELIVERED = enum.auto()
    """LINGERING has waited long enough: everything sent is acknowledged."""
    RESET = enum.auto()
    """A side reset the connection (or its network died) without having finished."""
    EXPIRED = enum.auto()
    """No byte moved for the idle timeout."""
    CUT = enum.auto()
    """The grace period of a drain is over."""
    FAULT = enum.auto()
    """A callback raised what it should not."""


_S, _E = ConnectionState, ConnectionEvent

_STEPS: dict[tuple[ConnectionState, ConnectionEvent], ConnectionState] = {
    (_S.DETECTING, _E.DECIDED): _S.DIALLING,
    (_S.DIALLING, _E.CONNECTED): _S.RELAYING,
    (_S.DIALLING, _E.DIAL_FAILED): _S.CLOSED,
    (_S.RELAYING, _E.UP_FINISHED): _S.CLIENT_DONE,
    (_S.RELAYING, _E.DOWN_FINISHED): _S.SERVER_DONE,
    (_S.RELAYING, _E.UP_BROKEN): _S.ONLY_DOWN,
    (_S.RELAYING, _E.DOWN_BROKEN): _S.ONLY_UP,
    (_S.CLIENT_DONE, _E.DOWN_FINISHED): _S.CLOSED,
    (_S.CLIENT_DONE, _E.DOWN_BROKEN): _S.LINGERING,
    (_S.SERVER_DONE, _E.UP_FINISHED): _S.CLOSED,
    (_S.SERVER_DONE, _E.UP_BROKEN): _S.LINGERING,
    (_S.ONLY_UP, _E.UP_FINISHED): _S.LINGERING,
    (_S.ONLY_UP, _E.UP_BROKEN): _S.CLOSED,
    (_S.ONLY_DOWN, _E.DOWN_FINISHED): _S.LINGERING,
    (_S.ONLY_DOWN, _E.DOWN_BROKEN): _S.CLOSED,
    (_S.LINGERING, _E.DELIVERED): _S.CLOSED,
}

# A connection can be ended in every state that is not the end.
_ENDINGS: dict[tuple[ConnectionState, ConnectionEvent], ConnectionState] = {
    (state, event): _S.CLOSED
    for state in ConnectionState
    if state is not _S.CLOSED
    for event in (_E.RESET, _E.EXPIRED, _E.CUT, _E.FAULT)
}

TRANSITIONS: Final = MappingProxyType(_STEPS | _ENDINGS)
"""(state, event) -> next state."""


def next_state(state: ConnectionState, event: ConnectionEvent) -> ConnectionState:
    """The state after ``event``; raises :class:`StateError` when the table has no such step."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise StateError(f"a connection that is {state.name} cannot have {event.name}") from None
