"""``major:minor`` handles of qdiscs and classes (tc(8), TC_H_MAJ and TC_H_MIN of linux/pkt_sched.h)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from traffic_policy.errors import UnitError

_PATTERN = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{0,4})")


@dataclass(frozen=True, slots=True, order=True)
class Handle:
    """A 32-bit traffic control handle. ``minor`` is 0 for a qdisc. Both are written in hexadecimal."""

    major: int
    minor: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.major <= 0xFFFF and 0 <= self.minor <= 0xFFFF):
            raise UnitError(f"Handle {self.major:x}:{self.minor:x} is outside 0:0 to ffff:ffff.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1:10`` or ``1:`` (hexadecimal, as tc prints it)."""
        match = _PATTERN.fullmatch(text)
        if not match:
            raise UnitError(f"{text!r} is not a handle. Write hexadecimal major:minor, as in 1:10.")
        return cls(int(match[1], 16), int(match[2] or "0", 16))

    @classmethod
    def from_int(cls, value: int) -> Self:
        """From the kernel's 32-bit form."""
        return cls(value >> 16 & 0xFFFF, value & 0xFFFF)

    def __int__(self) -> int:
        return self.major << 16 | self.minor

    def __str__(self) -> str:
        return f"{self.major:x}:{self.minor:x}" if self.minor else f"{self.major:x}:"


ROOT = Handle(0xFFFF, 0xFFFF)
"""TC_H_ROOT: the parent of an interface's root qdisc."""
