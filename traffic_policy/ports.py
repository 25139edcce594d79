"""Transport protocols and their ports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class TransportProtocol(StrEnum):
    """What a policy can tell apart by protocol. ``icmp`` is ICMP in IPv4 and ICMPv6 in IPv6; it has no ports."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"

    @property
    def has_ports(self) -> bool:
        """Whether packets of it have port numbers."""
        return self is not TransportProtocol.ICMP


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Destination ports ``first`` to ``last``, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``443`` or ``"8000-8100"``; raises ValueError with a remedy."""
        if isinstance(value, cls):
            return value
        text = str(value).strip()
        match = None if isinstance(value, bool | float) else re.fullmatch(r"([0-9]{1,6})(?:\s*-\s*([0-9]{1,6}))?", text)
        if not match:
            raise ValueError(f'{value!r} is not a port. Write a number from 1 to 65535 or a range such as "8000-8100".')
        first = int(match[1])
        last = int(match[2] or first)
        if first > last:
            raise ValueError(f'The range {text} runs backwards. Write "{last}-{first}".')
        if not (first >= 1 and last <= 65535):
            raise ValueError(f"{text} is outside the ports there are. Write numbers from 1 to 65535.")
        return cls(first, last)

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.first <= port <= self.last

    @classmethod
    def parse_list(cls, text: str) -> tuple[Self, ...]:
        """Read ``25,9000-9100``; an empty text is an empty list. Raises ValueError with a remedy."""
        return tuple(cls.parse(part.strip()) for part in text.split(",")) if text.strip() else ()

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
