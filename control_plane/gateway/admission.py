"""Who may come in: how many connections without a certificate there are from where, and steps of handshakes."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from control_plane.gateway.limits import GatewayLimits

_STEPS: Final = 4
"""Steps of handshakes in one turn. Each takes a millisecond, which all agents wait for."""
_NETWORK: Final = 64
"""Bits of an IPv6 address that say where it is from: who has one has all with the same (RFC 6177)."""


class Admission:
    """Counts. Pure."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._unproven: Counter[str] = Counter()
        self._turn = 0
        self._steps = 0

    def enter(self, address: str) -> bool:
        """Count a new connection, if there may be one from there."""
        place = _place(address)
        if self._unproven[place] >= self._limits.unproven_per_address:
            return False
        self._unproven[place] += 1
        return True

    def leave(self, address: str) -> None:
        """A connection has shown its certificate, or is closed without."""
        place = _place(address)
        self._unproven[place] -= 1
        if not self._unproven[place]:
            del self._unproven[place]

    def may_shake(self, turn: int) -> bool:
        """Whether another step of a handshake belongs into this turn."""
        if turn != self._turn:
            self._turn, self._steps = turn, 0
        self._steps += 1
        return self._steps <= _STEPS


def _place(address: str) -> str:
    if ":" not in address:
        return address
    parsed = ip_address(address)
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((int(parsed), _NETWORK), strict=False))
