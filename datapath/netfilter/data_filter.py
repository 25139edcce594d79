"""Which TCP packets carry data: a small program for iptables' ``bpf`` match.

There is no match for it. ``length`` cannot tell, since a TCP header has 20 to 60 bytes: the bare acknowledgement that
ends every handshake is as long as a packet with some data and no options. So a program compares the packet's length
with that of its headers. It is classic BPF (Documentation/networking/filter.rst), which takes no privilege beyond that
of changing rules.
"""

from __future__ import annotations

from typing import Final

from datapath.netfilter.rules import Family

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, constant."""

PROGRAMS: Final[dict[Family, tuple[Instruction, ...]]] = {
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


def bytecode(program: tuple[Instruction, ...]) -> str:
    """A program as ``--bytecode`` takes and prints it."""
    return ",".join([str(len(program)), *(" ".join(map(str, instruction)) for instruction in program)])
