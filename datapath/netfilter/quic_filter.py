"""Which UDP packets begin a QUIC connection: a small program for iptables' ``bpf`` match.

A client's first packets are told from all others by what every version of QUIC has in the same place (RFC 8999 5.1):
a long header with a version, in a datagram of 1,200 bytes or more (RFC 9000 14.1). Of the versions 1 and 2 only the
type Initial counts; a version that is not known may be one that the server refuses, so that the client begins anew.
Version 0 is Version Negotiation, which only servers send. Names are not in reach of classic BPF: they are encrypted.
"""

from __future__ import annotations

from typing import Final

from datapath.netfilter.data_filter import Instruction
from datapath.netfilter.rules import Family
from datapath.protocols.quic_packets import MIN_DATAGRAM, VERSION_1, VERSION_2

_LENGTH_AT: Final = 4
_PAYLOAD_AT: Final = 8
"""In a UDP datagram: where its length is, which counts the header too, and where that ends (RFC 768)."""
_LONG: Final = 0xC0
"""A long header, and the bit that is 1 in all of QUIC (RFC 9000 17.2), which keeps other protocols out."""
_TYPE: Final = 0x30
_INITIAL: Final = {VERSION_1: 0x00, VERSION_2: 0x10}

# Offsets are from X, where the UDP header begins.
_BODY: Final[tuple[Instruction, ...]] = (
    (0x48, 0, 0, _LENGTH_AT),
    (0x35, 0, 15, _PAYLOAD_AT + MIN_DATAGRAM),  # large enough?
    (0x50, 0, 0, _PAYLOAD_AT),
    (0x54, 0, 0, _LONG),
    (0x15, 0, 12, _LONG),
    (0x40, 0, 0, _PAYLOAD_AT + 1),  # A = version
    (0x15, 10, 0, 0),
    (0x15, 2, 0, VERSION_1),
    (0x15, 4, 0, VERSION_2),
    (0x06, 0, 0, 1),  # one that is not known: matches
    (0x50, 0, 0, _PAYLOAD_AT),
    (0x54, 0, 0, _TYPE),
    (0x15, 3, 4, _INITIAL[VERSION_1]),
    (0x50, 0, 0, _PAYLOAD_AT),
    (0x54, 0, 0, _TYPE),
    (0x15, 0, 1, _INITIAL[VERSION_2]),
    (0x06, 0, 0, 1),
    (0x06, 0, 0, 0),
)

PROGRAMS: Final[dict[Family, tuple[Instruction, ...]]] = {
    Family.V4: ((0xB1, 0, 0, 0), *_BODY),  # X = length of the IP header
    Family.V6: (
        (0x30, 0, 0, 6),  # A = what follows the IPv6 header
        (0x15, 1, 0, 17),  # UDP? Not with an extension header in between, which QUIC has no use for
        (0x06, 0, 0, 0),
        (0x01, 0, 0, 40),
        *_BODY,
    ),
}
