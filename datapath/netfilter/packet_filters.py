"""Small programs for iptables' ``bpf`` match.

They are classic BPF (Documentation/networking/filter.rst), which needs no privilege beyond that of changing rules.

:data:`CARRIES_DATA` matches TCP packets with data, for which iptables has no match. ``length`` does not suffice, since
a TCP header has 20 to 60 bytes: the bare acknowledgement that ends every handshake is as long as a packet with some
data and no options. So the program compares the packet's length with that of its headers.

:data:`QUIC_INITIAL` matches UDP packets that may begin a QUIC connection. A client's first packets are recognised by
the fields that all versions of QUIC share (RFC 8999 5.1): a long header with a version, in a datagram of at least 1,200
bytes (RFC 9000 14.1). The packet's type does not count: an Initial may stand behind other packets of the datagram (RFC
9000 12.2), where classic BPF cannot look. Unknown versions match, since the server may refuse the version and the
client start again. Version 0 is Version Negotiation, which only servers send. Names cannot be read here: they are
encrypted.
"""

from __future__ import annotations

from typing import Final

from datapath.netfilter.rules import Family
from datapath.protocols.quic_packets import MIN_DATAGRAM

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
        (0x07, 0, 0, 0),  # X = minimum length with data
        (0x80, 0, 0, 0),  # A = length of the packet
        (0x3D, 0, 1, 0),  # A >= X?
        (0x06, 0, 0, 1),  # matches
        (0x06, 0, 0, 0),
    ),
    Family.V6: (
        (0x30, 0, 0, 6),  # A = next header
        (0x15, 0, 7, 6),  # TCP? With an extension header in between: matches, to be on the safe side
        (0x30, 0, 0, 52),  # A = the TCP header's byte with its length
        (0x54, 0, 0, 0xF0),
        (0x74, 0, 0, 2),
        (0x04, 0, 0, 41),  # A = minimum length with data
        (0x07, 0, 0, 0),
        (0x80, 0, 0, 0),
        (0x3D, 0, 1, 0),
        (0x06, 0, 0, 1),
        (0x06, 0, 0, 0),
    ),
}

_LENGTH_AT: Final = 4
_PAYLOAD_AT: Final = 8
"""Offset of the payload in a UDP datagram, whose length field includes the header (RFC 768)."""
_LONG: Final = 0xC0
"""Header Form and Fixed Bit: 1 in every long header of QUIC (RFC 9000 17.2), which excludes other protocols."""

# Offsets are from X, where the UDP header begins.
_BODY: Final[tuple[Instruction, ...]] = (
    (0x48, 0, 0, _LENGTH_AT),
    (0x35, 0, 6, _PAYLOAD_AT + MIN_DATAGRAM),  # large enough?
    (0x50, 0, 0, _PAYLOAD_AT),
    (0x54, 0, 0, _LONG),
    (0x15, 0, 3, _LONG),
    (0x40, 0, 0, _PAYLOAD_AT + 1),  # A = version
    (0x15, 1, 0, 0),
    (0x06, 0, 0, 1),
    (0x06, 0, 0, 0),
)

QUIC_INITIAL: Final[dict[Family, tuple[Instruction, ...]]] = {
    Family.V4: ((0xB1, 0, 0, 0), *_BODY),  # X = length of the IP header
    Family.V6: (
        (0x30, 0, 0, 6),  # A = next header
        (0x15, 1, 0, 17),  # UDP? No match behind extension headers, which QUIC does not use
        (0x06, 0, 0, 0),
        (0x01, 0, 0, 40),
        *_BODY,
    ),
}


def bytecode(program: tuple[Instruction, ...]) -> str:
    """A program as ``--bytecode`` takes and prints it."""
    return ",".join([str(len(program)), *(" ".join(map(str, instruction)) for instruction in program)])
