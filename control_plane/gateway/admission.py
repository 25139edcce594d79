"""Who may come in: counts of connections that are in their handshake, or have shown no certificate."""

from __future__ import annotations

from collections import Counter
from typing import Final

from control_plane.gateway.limits import GatewayLimits

_STEPS: Final = 4
"""Steps of handshakes in one turn. Each takes a millisecond, which all agents wait for."""


class Admission:
    """Counts. Pure."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._unproven: Counter[str] = Counter()
        self._shaking = 0
        self._turn = 0
        self._steps = 0

    @property
    def full(self) -> bool:
        """Whether nobody may be accepted now."""
        return self._shaking >= self._limits.handshakes

    def enter(self, address: str) -> bool:
        """Count a new connection, if there may be one from there."""
        if self._unproven[address] >= self._limits.unproven_per_address:
            return False
        self._unproven[address] += 1
        self._shaking += 1
        return True

    def may_shake(self, turn: int) -> bool:
        """Whether another step of a handshake belongs into this turn."""
        if turn != self._turn:
            self._turn, self._steps = turn, 0
        self._steps += 1
        return self._steps <= _STEPS

    def shaken(self, address: str, *, proven: bool) -> None:
        """A handshake is done."""
        self._shaking -= 1
        if proven:
            self._drop(address)

    def leave(self, address: str, *, proven: bool, shaking: bool) -> None:
        """A connection is closed."""
        if shaking:
            self._shaking -= 1
        if not proven:
            self._drop(address)

    def _drop(self, address: str) -> None:
        self._unproven[address] -= 1
        if not self._unproven[address]:
            del self._unproven[address]
