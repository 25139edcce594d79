"""A BPF program that maps packet marks to classes, for kernels without the ``fw`` filter.

The program takes the class id out of the mark (bits 24-31, :mod:`traffic_policy.marks`), looks it up in a set of 256
bits that is part of the program, and returns the class's handle, or 0 ("no match": HTB's default class) for every other
id. So a class that is about to go can lose its traffic first. The time taken does not depend on the number of classes.

It is classic BPF, carried in the filter's netlink message, which needs no more than CAP_NET_ADMIN; the kernel
translates it to eBPF. The fingerprint is ours (SHA-256 of the instructions) rather than the kernel's tag, whose
algorithm has changed between releases.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tc_core.errors import KernelError
from tc_core.handles import Handle
from tc_core.model import BpfFilter
from traffic_policy.marks import CLASS_SHIFT

_WORDS: Final = 8
"""256 ids as words of 32 bits: the constants of instructions."""

# Classic BPF (linux/filter.h, linux/bpf_common.h): struct sock_filter { u16 code; u8 jt, jf; u32 k; }
_LD_ABS, _LD_MEM, _ST, _TAX = 0x20, 0x60, 0x02, 0x07
_LD_IMM, _AND, _OR, _RSH, _RSH_X = 0x00, 0x54, 0x44, 0x74, 0x7C
_JA, _JEQ, _RET_A, _RET_K = 0x05, 0x15, 0x16, 0x06
_SKF_AD_MARK: Final = 0xFFFFF000 + 20
"""SKF_AD_OFF + SKF_AD_MARK: the ancillary load of skb->mark."""

_BPF_PROG_LOAD: Final = 5
_BPF_PROG_TYPE_SCHED_CLS: Final = 3
_SYSCALL_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351, "armv7l": 386}
"""Number of bpf(2) by machine (the kernel's syscall tables); the C library has no wrapper for it."""
_LICENSE: Final = b"Apache-2.0\0"
_LOG_SIZE: Final = 256 * 1024
"""Bytes for the verifier's words: too few for all of them would be an error (ENOSPC) where there is none. It says less
than 200 bytes on an instruction."""


def _class_bits(class_ids: Iterable[int]) -> tuple[int, ...]:
    words = [0] * _WORDS
    for class_id in class_ids:
        if not 1 <= class_id <= 0xFF:
            raise ValueError(f"class id {class_id} is outside 1 to 255")
        words[class_id // 32] |= 1 << class_id % 32
    return tuple(words)


@lru_cache(maxsize=16)
def classic_program(class_ids: frozenset[int], base: int) -> tuple[tuple[int, int, int, int], ...]:
    """The program as classic BPF: (code, jt, jf, k) each. ``base`` is OR-ed to the id to make the class handle."""
    table: list[tuple[int, int, int, int]] = []
    words = _class_bits(class_ids)
    for index, word in enumerate(words[:-1]):
        table += [(_JEQ, 0, 2, index), (_LD_IMM, 0, 0, word), (_JA, 0, 0, 3 * (_WORDS - 2 - index) + 1)]
    table.append((_LD_IMM, 0, 0, words[-1]))
    return (
        (_LD_ABS, 0, 0, _SKF_AD_MARK),
        (_RSH, 0, 0, CLASS_SHIFT),
        (_ST, 0, 0, 0),
        (_AND, 0, 0, 31),
        (_TAX, 0, 0, 0),
        (_LD_MEM, 0, 0, 0),
        (_RSH, 0, 0, 5),
        *table,
        (_RSH_X, 0, 0, 0),
        (_AND, 0, 0, 1),
        (_JEQ, 3, 0, 0),
        (_LD_MEM, 0, 0, 0),
        (_OR, 0, 0, base),
        (_RET_A, 0, 0, 0),
        (_RET_K, 0, 0, 0),
    )


def classic_bytes(program: Iterable[tuple[int, int, int, int]]) -> bytes:
    """A classic program as TCA_BPF_OPS has it: an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def classic_text(program: Iterable[tuple[int, int, int, int]]) -> str:
    """A classic program as tc-bpf(8) reads it after ``bytecode``."""
    instructions = [" ".join(map(str, instruction)) for instruction in program]
    return ",".join([str(len(instructions)), *instructions])


NAME_PREFIX: Final = "podlane-"
"""How the names of our programs begin."""


def fingerprint(instructions: bytes) -> str:
    """The name of a program: ``podlane-`` and 12 hexadecimal digits of its SHA-256."""
    return f"{NAME_PREFIX}{hashlib.sha256(instructions).hexdigest()[:12]}"


def mark_filter(parent: Handle, class_ids: Iterable[int]) -> BpfFilter:
    """The filter under ``parent`` that selects class ``parent.major:(0x100 | id)`` for exactly these ids."""
    ids = frozenset(class_ids)
    program = classic_program(ids, parent.major << 16 | 0x100)
    return BpfFilter(parent, fingerprint(classic_bytes(program)), ids, classic_text(program))


def load_program(instructions: bytes, name: bytes) -> int:
    """BPF_PROG_LOAD of an eBPF traffic control classifier (bpf(2)); returns its file descriptor or raises KernelError.

    ``name`` is for bpftool(8), at most 15 bytes.
    """
    number = _SYSCALL_BPF.get(platform.machine())
    if number is None:
        raise KernelError(
            "bpf(BPF_PROG_LOAD)", errno.ENOSYS, f"its system call number on {platform.machine()} is not known"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(_LICENSE)
    log = ctypes.create_string_buffer(_LOG_SIZE)
    # union bpf_attr: prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, name
    attributes = struct.pack(
        "=IIQQIIQII16s",
        _BPF_PROG_TYPE_SCHED_CLS,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        1,
        _LOG_SIZE,
        ctypes.addressof(log),
        0,
        0,
        name,
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    descriptor = libc.syscall(number, _BPF_PROG_LOAD, buffer, ctypes.c_uint(len(attributes)))
    if descriptor < 0:
        code_number = ctypes.get_errno()
        words = log.value.decode(errors="replace").strip()[-400:]
        detail = os.strerror(code_number) + (f" ({words})" if words else "")
        remedy = "It needs CAP_BPF (Linux 5.8 and later)." if code_number == errno.EPERM else ""
        raise KernelError("bpf(BPF_PROG_LOAD)", code_number, detail, remedy)
    os.set_inheritable(descriptor, False)
    return int(descriptor)
