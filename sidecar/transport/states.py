"""The states of a proxied connection, as a table.

::

    DETECTING --decided--> DIALLING --connected--> RELAYING --up finished----> CLIENT_DONE --down finished--> CLOSED
        |                     |                       |-------down finished--> SERVER_DONE --up finished----> CLOSED
        '---- reset, expired, cut, fault: CLOSED -----'

*Up* is client to server, *down* is server to client. A direction **finishes** when its source sent FIN, and all bytes
and the FIN were relayed (half-close). It **breaks** when its sink reset the connection after having sent its own FIN:
further bytes would not be read, but the bytes that the sink sent before that FIN must still arrive on the other side.
So a broken direction stops, and the other continues (ONLY_UP, ONLY_DOWN). When that one has finished, the remaining
side gets a reset as soon as it has acknowledged its last byte (LINGERING): an earlier reset would destroy data in
flight, and without one a truncated upload would look complete.

Transitions that are not in the table cannot happen; :func:`next_state` raises for them.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Final

from traffic_policy.errors import PodlaneError


class StateError(PodlaneError):
    """An event that the state does not allow: a bug in this program."""


class ConnectionState(enum.IntEnum):
    """The state of a connection. (An IntEnum, because its hash is computed in C.)"""

    DETECTING = enum.auto()
    """The client is connected; its first bytes are awaited."""
    DIALLING = enum.auto()
    """The class is chosen, the connection to the original destination is being made."""
    RELAYING = enum.auto()
    """Both directions are open."""
    CLIENT_DONE = enum.auto()
    """The client's FIN was relayed; the server may still send."""
    SERVER_DONE = enum.auto()
    """The server's FIN was relayed; the client may still send."""
    ONLY_UP = enum.auto()
    """The client finished and then reset: only the bytes it had sent are still delivered."""
    ONLY_DOWN = enum.auto()
    """The server finished and then reset: only the bytes it had sent are still delivered."""
    LINGERING = enum.auto()
    """One direction finished, the other broke: reset once the FIN is acknowledged."""
    CLOSED = enum.auto()
    """Both sockets are closed."""


class ConnectionEvent(enum.IntEnum):
    """The events of a connection."""

    DECIDED = enum.auto()
    CONNECTED = enum.auto()
    DIAL_FAILED = enum.auto()
    UP_FINISHED = enum.auto()
    DOWN_FINISHED = enum.auto()
    UP_BROKEN = enum.auto()
    DOWN_BROKEN = enum.auto()
    DELIVERED = enum.auto()
    """LINGERING is over: everything sent is acknowledged."""
    RESET = enum.auto()
    """A side reset the connection (or its network died) without having finished."""
    EXPIRED = enum.auto()
    """No byte moved for the idle timeout."""
    CUT = enum.auto()
    """The grace period of a drain is over."""
    FAULT = enum.auto()
    """A callback raised an unexpected exception."""


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

# A connection can be ended in every state but the last.
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
