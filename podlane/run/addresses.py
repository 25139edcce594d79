"""Chooses the networks between a run's namespace and the host (pure).

IPv4: a /30 of 198.19.0.0/16, the upper half of the RFC 2544 benchmark range. It is not routed on the Internet, and
unlike RFC 1918 and 100.64.0.0/10 it is not used for hosts by companies, cloud providers, container networks or VPNs.
IPv6: a /64 of a unique local prefix (RFC 4193) with a random global id of our own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from podlane.errors import RunError

IPv4_POOL: Final = ipaddress.IPv4Network("198.19.0.0/16")
IPv6_POOL: Final = ipaddress.IPv6Network("fd4e:9a3c:71d2::/48")
_COUNT: Final = 2 ** (30 - IPv4_POOL.prefixlen)
AnyNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks that connect one namespace to the host: the host has the first address of each, the namespace the
    second."""

    ipv4: ipaddress.IPv4Network
    ipv6: ipaddress.IPv6Network

    @classmethod
    def number(cls, index: int) -> Networks:
        """The ``index``-th pair of networks."""
        ipv4 = ipaddress.IPv4Network((int(IPv4_POOL.network_address) + (index << 2), 30))
        ipv6 = ipaddress.IPv6Network((int(IPv6_POOL.network_address) + (index << 64), 64))
        return cls(ipv4, ipv6)


def free_networks(taken: Iterable[AnyNetwork], start: int) -> Networks:
    """The first pair from ``start`` on (any number) that overlaps nothing in ``taken``; raises :class:`RunError`.

    Default routes overlap everything and are ignored.
    """
    used = [network for network in taken if network.prefixlen]
    for offset in range(_COUNT):
        networks = Networks.number((start + offset) % _COUNT)
        if not any(_overlap(networks, network) for network in used):
            return networks
    raise RunError(f"All of {IPv4_POOL} is in use on this host (see `ip route`). Remove a route to make room.")


def _overlap(networks: Networks, network: AnyNetwork) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return networks.ipv4.overlaps(network)
    return networks.ipv6.overlaps(network)
