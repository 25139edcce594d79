"""Messages of ctnetlink that list TCP connections and UDP flows by mark, and change their marks.

linux/netfilter/nfnetlink_conntrack.h. The kernel applies a mask in both the dump and the update: the other bits of a
connection's mark are preserved, even if they change concurrently.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from tc_core.netlink.codec import ACK, DUMP, REQUEST, attribute, attributes, nested
from tc_core.netlink.netfilter import message
from traffic_policy.marks import Mark
from traffic_policy.ports import TransportProtocol

AF_INET: Final = 2
AF_INET6: Final = 10
"""linux/socket.h; a number, so that this pure module does not import socket."""
_SUBSYSTEM: Final = 1 << 8
ENTRY: Final = _SUBSYSTEM | 0
"""IPCTNL_MSG_CT_NEW: an entry in a dump, or the request to change one (without NLM_F_CREATE)."""
_GET: Final = _SUBSYSTEM | 1

_TUPLE_ORIG, _PROTOCOL, _MARK, _COUNTERS_ORIG, _COUNTERS_REPLY, _TIMESTAMP, _MARK_MASK = 1, 4, 8, 9, 10, 20, 21
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4: Final = (1, 2)
_V6: Final = (3, 4)
"""CTA_IP_V*_SRC and CTA_IP_V*_DST."""
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_NUMBERS: Final = {TransportProtocol.TCP: b"\x06", TransportProtocol.UDP: b"\x11"}
_TRANSPORTS: Final = {number: transport for transport, number in _NUMBERS.items()}
_PROTOCOL_TCP: Final = 1
"""CTA_PROTOINFO_TCP, in which CTA_PROTOINFO_TCP_STATE has the same number."""
_COUNTED_BYTES: Final = 2
_BEGAN: Final = 1
_BIG: Final = struct.Struct(">I")
_HUGE_SIZE: Final = 8
_ENDED: Final = frozenset({7, 8})
"""TCP_CONNTRACK_TIME_WAIT and TCP_CONNTRACK_CLOSE (linux/netfilter/nf_conntrack_tcp.h): remembered only."""


class Entry(NamedTuple):
    """A tracked TCP connection or UDP flow.

    ``flow`` is addresses, then ports, both source first and in network byte order.

    ``bytes_up`` and ``bytes_down`` count IP packets, and are None unless net.netfilter.nf_conntrack_acct was on when it
    began. ``began`` is in nanoseconds since 1970, and None unless net.netfilter.nf_conntrack_timestamp was.
    """

    flow: bytes
    mark: int
    ended: bool = False
    bytes_up: int | None = None
    bytes_down: int | None = None
    began: int | None = None
    transport: TransportProtocol = TransportProtocol.TCP


def dump(mark: Mark) -> bytes:
    """The request to dump all entries whose mark equals ``mark`` under its mask."""
    wanted = attribute(_MARK, _BIG.pack(mark.value)) + attribute(_MARK_MASK, _BIG.pack(mark.mask))
    return message(_GET, wanted, flags=REQUEST | DUMP)


def update(entry: Entry, mark: Mark) -> bytes:
    """The request to write ``mark``, under its mask, to an existing entry; ENOENT if it has ended."""
    size = (len(entry.flow) - 4) // 2
    source, destination = entry.flow[:size], entry.flow[size : 2 * size]
    kinds = _V4 if size == 4 else _V6
    identity = nested(
        _TUPLE_ORIG,
        nested(_TUPLE_IP, attribute(kinds[0], source), attribute(kinds[1], destination)),
        nested(
            _TUPLE_PROTO,
            attribute(_PROTO_NUM, _NUMBERS[entry.transport]),
            attribute(_SRC_PORT, entry.flow[-4:-2]),
            attribute(_DST_PORT, entry.flow[-2:]),
        ),
    )
    changed = attribute(_MARK, _BIG.pack(mark.value)) + attribute(_MARK_MASK, _BIG.pack(mark.mask))
    family = AF_INET if size == 4 else AF_INET6
    return message(ENTRY, identity + changed, family=family, flags=REQUEST | ACK)


def read_entry(data: bytes | bytearray, start: int, end: int) -> Entry | None:
    """The entry in a message's attributes; None if it is neither TCP nor UDP."""
    found = attributes(bytes(data[start:end]))
    flow = _flow(found.get(_TUPLE_ORIG, b""))
    if flow is None:
        return None
    up, down = (_number(found.get(kind, b""), _COUNTED_BYTES) for kind in (_COUNTERS_ORIG, _COUNTERS_REPLY))
    return Entry(
        flow[0],
        int.from_bytes(found.get(_MARK, b""), "big"),
        _has_ended(found.get(_PROTOCOL, b"")),
        up,
        down,
        _number(found.get(_TIMESTAMP, b""), _BEGAN),
        flow[1],
    )


def _has_ended(data: bytes) -> bool:
    state = attributes(attributes(data).get(_PROTOCOL_TCP, b"")).get(_PROTOCOL_TCP, b"")
    return state != b"" and state[0] in _ENDED


def _number(data: bytes, wanted: int) -> int | None:
    """The 64-bit attribute of type ``wanted``, if any."""
    found = attributes(data).get(wanted, b"")
    return int.from_bytes(found, "big") if len(found) == _HUGE_SIZE else None


def _flow(data: bytes) -> tuple[bytes, TransportProtocol] | None:
    found = attributes(data)
    addresses, ports = (attributes(found.get(kind, b"")) for kind in (_TUPLE_IP, _TUPLE_PROTO))
    transport = _TRANSPORTS.get(ports.get(_PROTO_NUM, b""))
    if transport is None:
        return None
    parts = [addresses.get(kind, b"") for kind in (_V4 if _V4[0] in addresses else _V6)]
    flow = b"".join([*parts, ports.get(_SRC_PORT, b""), ports.get(_DST_PORT, b"")])
    return (flow, transport) if len(flow) in (12, 36) else None
