"""Small programs for iptables' ``bpf`` match.

They are classic BPF (Documentation/networking/filter.rst), which takes no privilege beyond that of changing rules.

:data:`CARRIES_DATA`: which TCP packets carry data. There is no match for it. ``length`` cannot tell, since a TCP header
has 20 to 60 bytes: the bare acknowledgement that ends every handshake is as long as a packet with some data and no
options. So the packet's length is compared with that of its headers.

:data:`QUIC_INITIAL`: which UDP packets begin a QUIC connection. A client's first packets are told from all others by
what every version of QUIC has in the same place (RFC 8999 5.1): a long header with a version, in a datagram of 1,200
bytes or more (RFC 9000 14.1). Of the versions 1 and 2 only the type Initial counts; a version that is not known may be
one that the server refuses, so that the client begins again. Version 0 is Version Negotiation, which only servers send.
Names are not in reach of classic BPF: they are encrypted.
"""

from __future__ import annotations

from typing import Final

from datapath.netfilter.rules import Family
from datapath.protocols.quic_packets import MIN_DATAGRAM, VERSION_1, VERSION_2

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, constant."""

CARRIES_DATA: Final[dict[Family, tuple[Instruction, ...]]] = {
    Family.V4: (
        (0xB1, 0, 0, 0),  # X = length of the IP header
        (0x50, 0, 0, 12),  # A = the TCP header's byte with its length in words, upper half
        (0x54, 0, 0, 0xF0),
        (0x74, 0, 0, 2),  # A = length of the TCP header
        (0x0C, 0, 0, 0),  # A += X
        (0x04, 0, 0, 1),
        (0x07, 0, 0, 0),  # X = the least length with data
        (0x80, 0, 0, 0),  # A = length of the packet
        (0x3D, 0, 1, 0),  # A >= X?
        (0x06, 0, 0, 1),  # matches
        (0x06, 0, 0, 0),
    ),
    Family.V6: (
        (0x30, 0, 0, 6),  # A = what follows the IPv6 header
        (0x15, 0, 7, 6),  # TCP? With an extension header in between: matches, to be on the safe side
        (0x30, 0, 0, 52),  # A = the TCP header's byte with its length
        (0x54, 0, 0, 0xF0),
        (0x74, 0, 0, 2),
        (0x04, 0, 0, 41),  # A = the least length with data
        (0x07, 0, 0, 0),
        (0x80, 0, 0, 0),
        (0x3D, 0, 1, 0),
        (0x06, 0, 0, 1),
        (0x06, 0, 0, 0),
    ),
}

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

QUIC_INITIAL: Final[dict[Family, tuple[Instruction, ...]]] = {
    Family.V4: ((0xB1, 0, 0, 0), *_BODY),  # X = length of the IP header
    Family.V6: (
        (0x30, 0, 0, 6),  # A = what follows the IPv6 header
        (0x15, 1, 0, 17),  # UDP? Not with an extension header in between, which QUIC has no use for
        (0x06, 0, 0, 0),
        (0x01, 0, 0, 40),
        *_BODY,
    ),
}


def bytecode(program: tuple[Instruction, ...]) -> str:
    """A program as ``--bytecode`` takes and prints it."""
    return ",".join([str(len(program)), *(" ".join(map(str, instruction)) for instruction in program)])
