"""``/classes``: limits, counters and connections of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionCounts:
    """Connections of a class that the proxy relays or has relayed."""

    active: int
    """Alive now."""
    total: int
    """Since the proxy started."""
    by_protocol: Mapping[str, int]
    """The total by what the first bytes showed, as in tls, http1, http2, quic, opaque."""


@dataclass(frozen=True, slots=True)
class Class:
    """A class as the kernel counts it, since the class was made."""

    name: str
    """As in the policy."""
    id: int
    """Number of the class, from 1 to 255; the default class has 255."""
    handle: str
    """Its HTB class, MAJOR:MINOR, hexadecimal."""
    rate_bits_per_second: int
    """Guaranteed rate in force."""
    ceil_bits_per_second: int
    """Most that it may borrow up to."""
    priority: int
    """Who is lent to first: 0 before 7."""
    bytes: int
    """Link headers included. Of a class whose downloads the relay paces: what it has read, too."""
    packets: int
    """Segments of packets that the kernel has put together count one by one."""
    drops: int
    """Packets that the class or its queue dropped."""
    overlimits: int
    """How often the class had to wait for tokens."""
    lended: int
    """Packets sent at the class's own rate."""
    borrowed: int
    """Packets sent with bandwidth that others left unused."""
    backlog_bytes: int
    """Waiting now."""
    backlog_packets: int
    """Waiting now."""
    current_rate_bits_per_second: int
    """Mean over the last second or so."""
    peak_rate_bits_per_second: int
    """Highest of those means since the sidecar started."""
    connections: ConnectionCounts | None = None
    """Only of classes that send."""


@dataclass(frozen=True, slots=True)
class ReceivedClasses:
    """What arrives, where the policy limits it."""

    device: str
    """The ifb device that it passes."""
    names_told_by: str | None
    """Who tells its classes by name: sockets, connmark or pacing. Null: ports and networks decide."""
    total_bits_per_second: int
    """Limit of all that arrives."""
    classes: tuple[Class, ...]
    """The classes that limit what they receive, and the default class for the rest."""


@dataclass(frozen=True, slots=True)
class Classes:
    """All classes of the interface that is shaped, read at one moment."""

    interface: str
    """The one that is shaped."""
    total_bits_per_second: int
    """Limit of all that is sent."""
    datapath: str
    """How the first bytes of connections are seen: relay or step-aside."""
    workers: int
    """Processes that relay."""
    uptime_seconds: float
    """Since the proxy started."""
    read_at_seconds: float | None
    """When the counters were read, on a clock that only goes forward. Null: never yet."""
    classes: tuple[Class, ...]
    """What is sent, in the order of the policy; the default class is the last one."""
    received: ReceivedClasses | None
    """What arrives. Null unless the policy limits it."""
