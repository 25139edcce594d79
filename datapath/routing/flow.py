"""The properties of a connection by which its class is chosen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from traffic_policy.policy import Bound, TransportProtocol

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ADDRESSES_KEPT: Final = 4096
"""Cache size: an application has few addresses, and parsing one is as expensive as accepting a connection."""


@lru_cache(_ADDRESSES_KEPT)
def parse_address(text: str) -> Address:
    """Parse a socket address, which may have a scope. An IPv4-mapped IPv6 address becomes the IPv4 address."""
    parsed = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


@dataclass(frozen=True, slots=True)
class Destination:
    """The original destination, as the client of the connection addressed it.

    The port is 0 if the protocol has none. Inbound, the destination is local.
    """

    address: Address
    port: int
    protocol: TransportProtocol = TransportProtocol.TCP
    bound: Bound = Bound.OUTBOUND
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.address, self.port, self.protocol, self.bound)))

    def __hash__(self) -> int:
        """Computed once: hashing an ip_address is as expensive as accepting a connection."""
        return self._hash

    @classmethod
    def parse(
        cls,
        address: str,
        port: int,
        protocol: TransportProtocol = TransportProtocol.TCP,
        bound: Bound = Bound.OUTBOUND,
    ) -> Destination:
        """Create from a socket address, parsed by :func:`parse_address`."""
        return cls(parse_address(address), port, protocol, bound)

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Content:
    """What the first bytes contained. Names are in comparable form (:mod:`traffic_policy.names`); None if absent.

    ``port`` is that of a service, if its name includes it.
    """

    sni: str | None = None
    host: str | None = None
    alpn: tuple[str, ...] = ()
    port: int | None = None


NO_CONTENT = Content()
