"""``/connections``: connections that are alive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection."""

    address: str
    """IPv4 or IPv6 address."""
    port: int
    """TCP or UDP port."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection as it is now. Null is what the datapath cannot tell of it."""

    class_: str | None
    """Name of its class; with ebpf of what it sent last. Null while its first bytes are awaited."""
    client: Endpoint
    """Who opened it."""
    destination: Endpoint
    """Where the client wanted to go."""
    direction: str | None
    """outbound: a program of the Pod opened it. inbound: a client of the Pod did."""
    name: str | None
    """TLS server name or HTTP host."""
    protocol: str | None
    """What the first bytes showed, as in tls, http1, http2, quic, opaque."""
    state: str
    """As in detecting, connecting, relaying; stepped-aside; with ebpf connecting, detecting, decided."""
    age_seconds: float | None
    """Since it began."""
    bytes_up: int | None
    """Payload from the client so far."""
    bytes_down: int | None
    """Payload to the client so far."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Some of the connections that are alive. ``?limit=`` and ``?order=`` choose which."""

    active: int
    """How many are alive."""
    order: str
    """newest: the youngest first. largest: those that have carried the most bytes, both ways together, first."""
    connections: tuple[Connection, ...]
    """The first ones in that order."""
