"""What is known of a connection when its class is chosen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from traffic_policy.policy import Bound, TransportProtocol

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ADDRESSES_KEPT: Final = 4096
"""An application has few addresses, and parsing one takes as long as accepting a connection."""


@lru_cache(_ADDRESSES_KEPT)
def parse_address(text: str) -> Address:
    """From a socket address, which may have a scope. An IPv4-mapped IPv6 address is the IPv4 one it stands for."""
    parsed = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


@dataclass(frozen=True, slots=True)
class Destination:
    """The original destination: where whoever opened the connection meant to go.

    The port is 0 where the protocol has none. Inbound, the destination is here.
    """

    address: Address
    port: int
    protocol: TransportProtocol = TransportProtocol.TCP
    bound: Bound = Bound.OUTBOUND
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.address, self.port, self.protocol, self.bound)))

    def __hash__(self) -> int:
        """Worked out once: hashing an ip_address takes as long as accepting a connection."""
        return self._hash

    @classmethod
    def parse(
        cls,
        address: str,
        port: int,
        protocol: TransportProtocol = TransportProtocol.TCP,
        bound: Bound = Bound.OUTBOUND,
    ) -> Destination:
        """From a socket address, as :func:`parse_address` reads it."""
        return cls(parse_address(address), port, protocol, bound)

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Content:
    """What the first bytes said. Names are in comparable form (:mod:`traffic_policy.names`); None is "not there".

    ``port`` is a service's, where its name told it.
    """

    sni: str | None = None
    host: str | None = None
    alpn: tuple[str, ...] = ()
    port: int | None = None


NO_CONTENT = Content()
