"""What one gateway bears."""

from __future__ import annotations

from dataclasses import dataclass

from fleet_api.limits import SILENCE


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Numbers of connections; times in seconds."""

    connections: int = 20_000
    """Open ones. Others wait in the kernel until one ends."""
    unproven: int = 1024
    """Connections that have shown no certificate, yet or at all. The oldest is closed for a new one."""
    unproven_per_address: int = 256
    """Of them, those from one IPv4 address, or from one network of IPv6 (/64). More are closed at once."""
    per_certificate: int = 8
    """Connections with one certificate. The oldest is closed for a new one."""
    handshake_time: float = 10.0
    unproven_time: float = 60.0
    """How long a connection without a certificate may last."""
    unary_time: float = 30.0
    """How long a call with one answer may last."""
    silence: float = SILENCE
    """How long an agent may say nothing, or take nothing of what waits for it."""
    look: float = 1.0
    """Time between two looks after all connections: what is late is ended then, and what floods is counted anew."""
    messages: int = 500
    """Messages from one agent between two looks, about. Then nothing is read from it until the next."""
    linger: float = 2.0
    """How long a client may take to close its side, after we have closed ours."""
    drain_time: float = 10.0
    """How long calls may go on after the gateway was stopped."""
