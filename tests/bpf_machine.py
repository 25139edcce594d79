"""A classic BPF machine for tests: the checks that the kernel makes of a program, and its execution on a packet.

After Documentation/networking/filter.rst, and net/core/filter.c for what is not written there: ``bpf_check_classic``
and ``check_load_and_stores`` (a word of scratch memory is read only where it has been written on every way to that
place), ``bpf_internal_load_pointer_neg_helper`` (offsets from the network header). A load behind the end of the packet
ends the program with 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Instruction = tuple[int, int, int, int]

_U32 = 0xFFFFFFFF
_ANCILLARY = {0xFFFFF000: "protocol", 0xFFFFF014: "mark", 0xFFFFF01C: "device_type"}
_NETWORK_HEADER = 0xFFF00000
_ABSOLUTE = {0x20: 4, 0x28: 2, 0x30: 1}
_INDIRECT = {0x40: 4, 0x48: 2, 0x50: 1}
_CONDITIONAL = (0x15, 0x25, 0x35, 0x45, 0x1D, 0x2D, 0x3D, 0x4D)
_RETURNS = (0x06, 0x16)


@dataclass(frozen=True)
class Skb:
    """What a program can see of a packet: from the network header on, behind ``link_header`` bytes of another."""

    network: bytes
    protocol: int
    mark: int = 0
    device_type: int = 1
    link_header: int = 14


def check(program: Sequence[Instruction]) -> None:
    """Fails for a program that the kernel would refuse."""
    assert 0 < len(program) <= 4096
    assert program[-1][0] in _RETURNS
    written = [_U32] * len(program)
    valid = 0
    for at, (code, jt, jf, k) in enumerate(program):
        valid &= written[at]
        if code == 0x02:
            assert k < 16
            valid |= 1 << k
        elif code in (0x60, 0x61):
            assert k < 16
            assert valid & 1 << k, f"instruction {at} reads M[{k}], which is not written on every way there"
        elif code == 0x05:
            assert at + k + 1 < len(program)
            written[at + 1 + k] &= valid
            valid = _U32
        elif code in _CONDITIONAL:
            assert max(jt, jf) <= 255
            assert at + max(jt, jf) + 1 < len(program)
            written[at + 1 + jt] &= valid
            written[at + 1 + jf] &= valid
            valid = _U32


def run(program: Sequence[Instruction], skb: Skb) -> int:
    """What the program returns for a packet."""
    a = x = at = 0
    memory = [0] * 16

    def load(offset: int, size: int) -> int | None:
        assert offset & 0xFFF00000 == _NETWORK_HEADER, f"{offset:#x} is not an offset from the network header"
        start = offset - _NETWORK_HEADER
        return int.from_bytes(skb.network[start : start + size]) if start + size <= len(skb.network) else None

    while True:
        code, jt, jf, k = program[at]
        at += 1
        match code:
            case 0x20 if k in _ANCILLARY:
                a = getattr(skb, _ANCILLARY[k])
            case 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50:
                size = _ABSOLUTE.get(code) or _INDIRECT[code]
                loaded = load(k if code in _ABSOLUTE else (k + x) & _U32, size)
                if loaded is None:
                    return 0
                a = loaded
            case 0xB1:
                loaded = load(k, 1)
                if loaded is None:
                    return 0
                x = 4 * (loaded & 15)
            case 0x00:
                a = k
            case 0x01:
                x = k
            case 0x60:
                a = memory[k]
            case 0x80:
                a = skb.link_header + len(skb.network)
            case 0x02:
                memory[k] = a
            case 0x04:
                a = (a + k) & _U32
            case 0x0C:
                a = (a + x) & _U32
            case 0x14:
                a = (a - k) & _U32
            case 0x54:
                a &= k
            case 0x64:
                a = (a << k) & _U32
            case 0x74:
                a >>= k
            case 0x07:
                x = a
            case 0x87:
                a = x
            case 0x05:
                at += k
            case 0x15:
                at += jt if a == k else jf
            case 0x25:
                at += jt if a > k else jf
            case 0x35:
                at += jt if a >= k else jf
            case 0x45:
                at += jt if a & k else jf
            case 0x3D:
                at += jt if a >= x else jf
            case 0x06:
                return k
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")
