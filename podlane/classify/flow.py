"""The data kept for a flow, and for packets outside any flow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from datapath.protocols.detect import Detection
from datapath.protocols.quic_initial import QuicInitialReader
from datapath.protocols.streams import FirstBytes

_AFRESH: Final = 16
"""Segments at which the detector may restart in a direction whose beginning was not captured."""
_QUIC_LOOKS: Final = 8
"""Datagrams of a UDP flow in which QUIC is searched for: the long headers come first."""
_WELL_KNOWN: Final = 1024


@dataclass(slots=True, eq=False)
class Half:
    """One direction of a flow."""

    flow: Flow
    packets: int = 0
    bytes: int = 0
    """Original lengths, with all headers."""
    stream: FirstBytes | None = None
    initials: QuicInitialReader | None = None
    isn: int | None = None
    finished: bool = False
    afresh: int = _AFRESH

    @property
    def other(self) -> Half:
        """The opposite direction."""
        first, second = self.flow.halves
        return second if self is first else first

    @property
    def held(self) -> int:
        """Bytes in memory that may still affect the verdict."""
        of_stream = 0 if self.stream is None else self.stream.held
        return of_stream if self.initials is None else of_stream + self.initials.held


@dataclass(slots=True, eq=False)
class Flow:
    """A connection, or the traffic between two UDP ports. ``halves[0]`` is the direction seen first."""

    key: bytes
    number: int
    halves: tuple[Half, Half] = field(init=False)
    last: int = field(init=False)
    client: Half | None = None
    """The client's half, once it is certain."""
    whole: bool = False
    """The connection's beginning was captured."""
    closed: bool = False
    detection: Detection | None = None
    hint: Detection | None = None
    """A protocol recognised in the middle of the flow, without names."""
    gap: bool = False
    """The capture lacks some of the first bytes."""
    spoke: bool = False
    """Some payload was seen."""
    opened_at: float | None = None
    delay: float = 0.0
    """Seconds from the end of the handshake to the byte that decided."""
    quic: bool = False
    """UDP that has QUIC's headers; ``detection`` is what its client said."""
    looks: int = _QUIC_LOOKS

    def __post_init__(self) -> None:
        self.halves = (Half(self), Half(self))
        self.last = self.number

    @property
    def protocol(self) -> int:
        """IP protocol number: TCP or UDP."""
        return self.key[-1]

    @property
    def up(self) -> Half:
        """Bytes sent by the client."""
        if self.client is not None:
            return self.client
        source, destination = self.key[-5:-3], self.key[-3:-1]
        from_server = int.from_bytes(source, "big") < _WELL_KNOWN <= int.from_bytes(destination, "big")
        return self.halves[1 if from_server else 0]

    @property
    def down(self) -> Half:
        """Bytes sent by the server."""
        return self.up.other

    def ends(self) -> tuple[bytes, int, bytes, int]:
        """Client's address and port, server's address and port."""
        size = (len(self.key) - 5) // 2
        first = (self.key[:size], int.from_bytes(self.key[-5:-3], "big"))
        second = (self.key[size : 2 * size], int.from_bytes(self.key[-3:-1], "big"))
        return (*first, *second) if self.up is self.halves[0] else (*second, *first)


@dataclass
class CaptureSummary:
    """Counts of packets outside flows; for the notes at the end."""

    packets: int = 0
    bytes: int = 0
    not_ip: int = 0
    other: Counter[int] = field(default_factory=Counter)
    """IP, but neither TCP nor UDP: packets by protocol number."""
    broken: int = 0
    """No flow can be determined: headers truncated or invalid."""
    cut: int = 0
    """Counted, but truncated in the capture."""
    in_the_middle: int = 0
    """Connections whose beginning was not captured."""
    evicted: int = 0
    """Flows evicted for lack of room, though they had not ended."""
    fragments_given_up: int = 0
    unknown_links: dict[int, int] = field(default_factory=dict)
    """Link type: frames."""
