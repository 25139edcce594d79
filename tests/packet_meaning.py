"""What packet rules mean, in plain Python, to compare the programs with; and packets made byte by byte."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bpf_machine import Skb

from tc_core.compile.packet_rules import PacketRule

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
PORTED = (6, 17, 33, 132, 136)
BY_EIGHT = (0, 43, 60, 135, 139, 140)
MOST_HEADERS = 8


@dataclass(frozen=True)
class Seen:
    """What can be told of a packet; None for what it does not have."""

    source: ipaddress.IPv4Address | ipaddress.IPv6Address
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address
    protocol: int | None
    ports: tuple[int, int] | None


def _ports(rest: bytes, protocol: int | None) -> tuple[int, int] | None:
    if protocol not in PORTED or len(rest) < 4:
        return None
    source, destination = struct.unpack_from("!HH", rest)
    return source, destination


def see(skb: Skb) -> Seen | None:
    """The headers of a packet; None if it is not IP."""
    data = skb.network
    if skb.protocol == IPV4 and len(data) >= 20:
        size = 4 * (data[0] & 15)
        first = not int.from_bytes(data[6:8]) & 0x1FFF
        return Seen(
            ipaddress.IPv4Address(data[12:16]),
            ipaddress.IPv4Address(data[16:20]),
            data[9],
            _ports(data[size:], data[9]) if first and size >= 20 else None,
        )
    if skb.protocol == IPV6 and len(data) >= 40:
        protocol, ports = _last_header(data[6], data[40:])
        return Seen(ipaddress.IPv6Address(data[8:24]), ipaddress.IPv6Address(data[24:40]), protocol, ports)
    return None


def _last_header(number: int, rest: bytes) -> tuple[int | None, tuple[int, int] | None]:
    extensions = (*BY_EIGHT, 44, 51)
    for _ in range(MOST_HEADERS):
        if number not in extensions:
            break
        if len(rest) < 8:
            return None, None
        following = rest[0]
        if number == 44 and int.from_bytes(rest[2:4]) >> 3:
            return (None if following in extensions else following), None
        size = 8 if number == 44 else 4 * (rest[1] + 2) if number == 51 else 8 * (rest[1] + 1)
        number, rest = following, rest[size:]
    if number in extensions:
        return None, None
    return number, _ports(rest, number)


def holds(rule: PacketRule, skb: Skb, *, mirrored: bool = False) -> bool:
    """Whether all criteria of a rule hold for a packet."""
    if rule.mark is not None and skb.mark & rule.mark.mask != rule.mark.value:
        return False
    if not (rule.source or rule.destination or rule.protocols or rule.ports or rule.source_ports):
        return True
    seen = see(skb)
    if seen is None:
        return False
    source, destination = (seen.destination, seen.source) if mirrored else (seen.source, seen.destination)
    if rule.source and not any(source in network for network in rule.source):
        return False
    if rule.destination and not any(destination in network for network in rule.destination):
        return False
    if rule.protocols and seen.protocol not in rule.protocols:
        return False
    if not rule.ports and not rule.source_ports:
        return True
    if seen.ports is None or seen.protocol not in (rule.protocols or (6, 17)):
        return False
    far, near = seen.ports[::-1] if mirrored else seen.ports
    return all(
        not ranges or any(r.first <= port <= r.last for r in ranges)
        for port, ranges in ((near, rule.ports), (far, rule.source_ports))
    )


def verdict(rules: Iterable[PacketRule], skb: Skb, *, mirrored: bool = False) -> int:
    """The handle of the class of the first rule that holds, or 0."""
    return next((int(rule.target) for rule in rules if holds(rule, skb, mirrored=mirrored)), 0)


# --- making packets ----------------------------------------------------------------------------------------------------


def ports_of(source: int, destination: int) -> bytes:
    """The beginning of a TCP or UDP header, and some more."""
    return struct.pack("!HH", source, destination) + bytes(4)


def ipv4(
    payload: bytes = ports_of(40000, 443),
    *,
    protocol: int = 6,
    source: str = "10.1.0.1",
    destination: str = "10.2.0.1",
    options: bytes = b"",
    fragment: int = 0,
    header_words: int | None = None,
    mark: int = 0,
) -> Skb:
    """An IPv4 packet. ``fragment`` is the whole 16-bit field: flags, and offset in units of eight bytes."""
    words = 5 + len(options) // 4 if header_words is None else header_words
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | words, 0, 20 + len(options) + len(payload), 1, fragment, 64, protocol, 0,
        ipaddress.IPv4Address(source).packed, ipaddress.IPv4Address(destination).packed,
    )  # fmt: skip
    return Skb(head + options + payload, IPV4, mark)


def ipv6(
    payload: bytes = ports_of(40000, 443),
    *,
    protocol: int = 6,
    source: str = "fd00:1::1",
    destination: str = "fd00:2::1",
    headers: Sequence[tuple[int, bytes]] = (),
    mark: int = 0,
) -> Skb:
    """An IPv6 packet. ``headers`` are (number, header without its first byte): the chain is linked here."""
    numbers = [number for number, _ in headers] + [protocol]
    chain = b"".join(bytes([following]) + rest for (_, rest), following in zip(headers, numbers[1:], strict=True))
    head = struct.pack(
        "!IHBB16s16s", 6 << 28, min(len(chain) + len(payload), 65535), numbers[0], 64,
        ipaddress.IPv6Address(source).packed, ipaddress.IPv6Address(destination).packed,
    )  # fmt: skip
    return Skb(head + chain + payload, IPV6, mark)


def extension(number: int, units: int = 0, *, fill: int = 0) -> tuple[int, bytes]:
    """An extension header for :func:`ipv6`, of the size that its length field says."""
    size = 4 * (units + 2) if number == 51 else 8 * (units + 1)
    return number, bytes([units]) + bytes([fill]) * (size - 2)


def fragment_header(offset: int, *, more: bool = True) -> tuple[int, bytes]:
    """An IPv6 fragment header; ``offset`` in units of eight bytes."""
    return 44, struct.pack("!BHI", 0, offset << 3 | more, 7)
