"""eBPF with labels instead of distances (linux/bpf.h; RFC 9669). Jumps go forwards and reach 32,767 instructions."""

from __future__ import annotations

import struct

R0, R1, R2, R3, R4, R5, R6, R7, R8, R10 = 0, 1, 2, 3, 4, 5, 6, 7, 8, 10
"""R0 has results, R1 to R5 arguments of helper functions, which lose them; R6 to R9 stay; R10 is the frame's end."""

# Instruction codes: RFC 9669 4 (arithmetic and jumps), 5 (load and store). K takes the immediate, X a register.
LOAD_WORD, LOAD_HALF, LOAD_BYTE, STORE_WORD = 0x61, 0x69, 0x71, 0x63
MOVE_X, MOVE_K, ADD_K, AND_K = 0xBF, 0xB7, 0x07, 0x57
SHIFT_LEFT_K, SHIFT_RIGHT_K, OR_K = 0x67, 0x77, 0x47
IF_EQUAL, IF_NOT_EQUAL, IF_ANY_BIT = 0x15, 0x55, 0x45
_JUMP, _CALL, _EXIT = 0x05, 0x85, 0x95


class EbpfAssembler:
    """Collects a program from beginning to end; :meth:`assemble` turns it into bytes. Labels are names."""

    def __init__(self) -> None:
        self._items: list[tuple[int, int, int, int | str, int]] = []
        self._places: dict[str, int] = {}

    def op(self, code: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> None:
        """An instruction that does not jump."""
        self._items.append((code, dst, src, offset, imm))

    def jump(self, code: int, dst: int, imm: int, label: str) -> None:
        """On to the label if register and immediate compare so, else to the next instruction."""
        self._items.append((code, dst, 0, label, imm))

    def goto(self, label: str) -> None:
        """On to the label."""
        self._items.append((_JUMP, 0, 0, label, 0))

    def call(self, helper: int) -> None:
        """Call a helper function of the kernel (bpf-helpers(7)) by its number in linux/bpf.h."""
        self._items.append((_CALL, 0, 0, 0, helper))

    def exit(self) -> None:
        """The end; R0 is the verdict."""
        self._items.append((_EXIT, 0, 0, 0, 0))

    def place(self, label: str) -> None:
        """Here is what the label stands for."""
        self._places[label] = len(self._items)

    def assemble(self) -> bytes:
        """The program: u8 code; u8 dst:4, src:4; s16 offset; s32 immediate for each instruction.

        Raises KeyError for a jump to a label that was never placed.
        """
        return b"".join(
            struct.pack(
                "=BBhi",
                code,
                src << 4 | dst,
                self._places[offset] - at - 1 if isinstance(offset, str) else offset,
                imm - (1 << 32) if imm >= 1 << 31 else imm,
            )
            for at, (code, dst, src, offset, imm) in enumerate(self._items)
        )
