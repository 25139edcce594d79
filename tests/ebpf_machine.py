"""An eBPF machine for tests, with as much of it as our programs use: runs one on a packet, and checks what the verifier would.

After RFC 9669 and linux/bpf.h. Registers hold numbers, or pointers as (what, offset). Helper functions are those that look
packets and sockets up. Reading what was not written fails, and so does a socket that is not let go.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

_SIZES = {0x61: 4, 0x69: 2, 0x71: 1}
_U64 = (1 << 64) - 1
_FRAME = 512

Value = int | tuple[str, int]


@dataclass
class Packet:
    """A packet from the network header on, its Ethernet type, and what the program may write."""

    network: bytes
    protocol: int
    priority: int = 0


@dataclass
class Machine:
    """Runs a program. ``socket_mark`` says the mark of the socket for a tuple as the kernel gets it; None: no socket."""

    program: bytes
    socket_mark: Callable[[bytes], int | None]
    looked_up: list[bytes] = field(default_factory=list)

    def run(self, packet: Packet) -> int:
        """The verdict, as a signed number."""
        instructions = list(struct.iter_unpack("=BBhi", self.program))
        registers: dict[int, Value] = {1: ("context", 0), 10: ("frame", _FRAME)}
        frame: dict[int, int] = {}
        held: int | None = None
        at = 0
        while True:
            code, operands, offset, immediate = instructions[at]
            dst, src = operands & 15, operands >> 4
            at += 1
            if code == 0x95:
                assert held is None, "a socket is not let go"
                verdict = _number(registers[0])
                return verdict - (1 << 64) if verdict >> 63 else verdict
            if code == 0x05:
                at += offset
            elif code in (0x15, 0x55, 0x45):
                value = registers[dst]
                left = 1 if isinstance(value, tuple) else value
                right = immediate & _U64
                if {0x15: left == right, 0x55: left != right, 0x45: bool(left & right)}[code]:
                    at += offset
            elif code == 0x85:
                arguments = [registers.get(i) for i in range(1, 6)]
                if immediate == 68:
                    result: Value = _load_bytes(packet, frame, arguments)
                elif immediate == 84:
                    mark = self._look_up(frame, arguments)
                    held = mark
                    result = 0 if mark is None else ("socket", 0)
                else:
                    assert immediate == 86
                    assert registers[1] == ("socket", 0)
                    assert held is not None
                    held, result = None, 0
                registers = {r: v for r, v in registers.items() if not 1 <= r <= 5} | {0: result}
            elif code in _SIZES:
                what, base = _pointer(registers[src])
                registers[dst] = _read(packet, frame, held, what, base + offset, _SIZES[code])
            elif code == 0x63:
                what, base = _pointer(registers[dst])
                data = (_number(registers[src]) & 0xFFFFFFFF).to_bytes(4, "little")
                if what == "context":
                    assert base + offset == 32, "only the priority may be written"
                    packet.priority = int.from_bytes(data, "little")
                else:
                    frame.update(enumerate(data, base + offset))
            else:
                registers[dst] = _compute(code, registers.get(dst), registers[src] if code == 0xBF else immediate)

    def _look_up(self, frame: dict[int, int], arguments: list[Value | None]) -> int | None:
        context, pointer, size, namespace, flags = arguments
        assert (context, namespace, flags) == (("context", 0), _U64, 0)
        _, at = _pointer(pointer)
        wanted = bytes(frame[at + i] for i in range(_number(size)))
        self.looked_up.append(wanted)
        return self.socket_mark(wanted)


def _number(value: Value | None) -> int:
    assert isinstance(value, int)
    return value


def _pointer(value: Value | None) -> tuple[str, int]:
    assert isinstance(value, tuple)
    return value


def _compute(code: int, old: Value | None, operand: Value) -> Value:
    if code in (0xBF, 0xB7):
        return operand & _U64 if isinstance(operand, int) else operand
    number = _number(operand)
    if isinstance(old, tuple):
        assert code == 0x07, "a pointer can only be added to"
        return old[0], old[1] + number
    left = _number(old)
    results = {
        0x07: left + number,
        0x57: left & number,
        0x67: left << number,
        0x77: left >> number,
        0x47: left | number,
    }
    return results[code] & _U64


def _read(packet: Packet, frame: dict[int, int], held: int | None, what: str, at: int, size: int) -> int:
    if what == "context":
        assert (at, size) == (16, 4)
        return int.from_bytes(struct.pack("!H", packet.protocol), "little")
    if what == "socket":
        assert held is not None, "read after it was let go"
        assert (at, size) == (16, 4)
        return held
    return int.from_bytes(bytes(frame[at + i] for i in range(size)), "little")


def _load_bytes(packet: Packet, frame: dict[int, int], arguments: list[Value | None]) -> int:
    context, offset, to, size, start = arguments
    assert (context, start) == (("context", 0), 1)
    _, at = _pointer(to)
    assert 0 <= at <= at + _number(size) <= _FRAME
    data = packet.network[_number(offset) : _number(offset) + _number(size)]
    if len(data) < _number(size):
        return _U64 - 13  # -EFAULT
    frame.update(enumerate(data, at))
    return 0
