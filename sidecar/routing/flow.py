"""What is known of a connection when its class is chosen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from tc_core.policy import TransportProtocol

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Destination:
    """The original destination: where the application meant to go."""

    address: Address
    port: int
    protocol: TransportProtocol = TransportProtocol.TCP

    @classmethod
    def parse(cls, address: str, port: int, protocol: TransportProtocol = TransportProtocol.TCP) -> Destination:
        """From a socket address. An IPv4-mapped IPv6 address is the IPv4 address it stands for."""
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return cls(parsed, port, protocol)

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Content:
    """What the first bytes said. Names are in comparable form (:mod:`tc_core.names`); None is "not there"."""

    sni: str | None = None
    host: str | None = None
    alpn: tuple[str, ...] = ()


NO_CONTENT = Content()
