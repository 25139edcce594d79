"""Classic BPF with labels instead of distances (linux/filter.h; "A Look at Classic BPF" in networking/filter.rst).

Conditional jumps reach 255 instructions, unconditional ones any distance, and all go forwards. So a program is put
together from its end: whatever a jump can name has its place already, and a target too far away is reached by way of an
unconditional jump that is set in right behind. One pass, and no jump has to be looked at twice.
"""

from __future__ import annotations

from typing import Final

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jt, jf, k."""

# linux/bpf_common.h. A is the accumulator, X the index register, M[] the 16 words of scratch memory.
LD_WORD, LD_HALF, LD_BYTE = 0x20, 0x28, 0x30
LD_WORD_AT_X, LD_HALF_AT_X = 0x40, 0x48
LD_IMMEDIATE, LD_MEMORY, LD_LENGTH = 0x00, 0x60, 0x80
LDX_IMMEDIATE, LDX_HEADER_LENGTH = 0x01, 0xB1
"""The latter, made for IPv4: X = 4 * (packet[k] & 15)."""
STORE = 0x02
ADD, ADD_X, SUBTRACT, AND, SHIFT_LEFT, SHIFT_RIGHT = 0x04, 0x0C, 0x14, 0x54, 0x64, 0x74
JUMP, IF_EQUAL, IF_GREATER, IF_AT_LEAST, IF_ANY_BIT, IF_AT_LEAST_X = 0x05, 0x15, 0x25, 0x35, 0x45, 0x3D
A_TO_X, X_TO_A = 0x07, 0x87
RETURN: Final = 0x06

# Offsets that stand for something else (linux/filter.h).
NETWORK_HEADER: Final = 0xFFF00000
"""SKF_NET_OFF: counts from the network header, wherever the link's own header ends and its VLAN tags are kept."""
_ANCILLARY: Final = 0xFFFFF000
AD_PROTOCOL, AD_MARK, AD_DEVICE_TYPE = _ANCILLARY + 0, _ANCILLARY + 20, _ANCILLARY + 28
"""skb->protocol in host order, skb->mark, and the ARPHRD_* type of the device (linux/if_arp.h)."""

_FARTHEST: Final = 0xFF
"""Instructions that a conditional jump can leap over: jt and jf are 8 bits."""


class Label:
    """A place in a program. It is itself and nothing else; :meth:`Assembler.place` says where it is."""

    __slots__ = ()


_Jump = tuple[int, int, Label | None, Label | None]


class Assembler:
    """Collects a program from beginning to end; :meth:`assemble` turns it into instructions."""

    def __init__(self) -> None:
        self._items: list[tuple[int, int] | _Jump | Label] = []

    def op(self, code: int, k: int = 0) -> None:
        """An instruction that does not jump."""
        self._items.append((code, k))

    def jump(self, code: int, k: int, yes: Label | None = None, no: Label | None = None) -> None:
        """A conditional jump. A missing label stands for the next instruction."""
        self._items.append((code, k, yes, no))

    def goto(self, label: Label) -> None:
        """An unconditional jump; nothing at all if the label comes next."""
        self._items.append((JUMP, 0, label, None))

    def place(self, label: Label) -> None:
        """Here is what the label stands for."""
        self._items.append(label)

    def assemble(self) -> tuple[Instruction, ...]:
        """The program. Raises KeyError for a jump backwards, or to a label that was never placed."""
        backwards: list[Instruction] = []
        places: dict[Label, int] = {}  # how many instructions there are from the label to the end

        def distance(label: Label | None, default: int) -> int:
            return len(backwards) - (default if label is None else places[label])

        for item in reversed(self._items):
            if isinstance(item, Label):
                places[item] = len(backwards)
            elif len(item) == 2:
                backwards.append((item[0], 0, 0, item[1]))
            else:
                code, k, yes, no = item
                following = len(backwards)
                if code == JUMP:
                    if steps := distance(yes, following):
                        backwards.append((JUMP, 0, 0, steps))
                    continue
                hops: list[int | None] = [None, None]
                for i, label in enumerate((yes, no)):
                    # One more is allowed for: the detour of the other side may still come between.
                    if distance(label, following) + 1 > _FARTHEST:
                        backwards.append((JUMP, 0, 0, distance(label, following)))
                        hops[i] = len(backwards)
                jt, jf = (
                    distance(label, following) if hop is None else len(backwards) - hop
                    for label, hop in zip((yes, no), hops, strict=True)
                )
                backwards.append((code, jt, jf, k))
        return tuple(reversed(backwards))
