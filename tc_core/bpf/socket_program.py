"""From a packet that arrives to the class of the socket that waits for it: eBPF at the ingress hook.

A name is in the first bytes of a connection, so that no later packet tells it. But the socket does: the proxy marks the
one that speaks with the network (:mod:`traffic_policy.marks`) when it has chosen the class. The program looks the
socket of a TCP packet up (bpf-helpers(7), ``bpf_sk_lookup_tcp``), reads its mark, and writes the handle of the class
into the packet's priority, which HTB on the ifb obeys before it asks any filter (htb_classify() in
net/sched/sch_htb.c). A packet without such a socket is left to those filters: nothing but TCP is ever relayed.

It always says "this one" (-1), for which cls_bpf runs the action of the filter: the redirection to the ifb. It has no
maps, and needs Linux 4.20, CAP_BPF (5.8 and later; CAP_SYS_ADMIN before) and CAP_NET_ADMIN.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tc_core.bpf import ebpf_assembler as asm
from tc_core.bpf.ebpf_assembler import R0, R1, R2, R3, R4, R5, R6, R7, R8, R10, EbpfAssembler
from tc_core.bpf.mark_classifier import fingerprint, load_program
from tc_core.compile.mark_tree import leaf_handle
from tc_core.model import INGRESS_HOOK, RedirectFilter
from traffic_policy.marks import CLASS_SHIFT, DEFAULT_CLASS_ID, OWN

# Offsets in struct __sk_buff and struct bpf_sock (linux/bpf.h).
_SKB_PROTOCOL, _SKB_PRIORITY, _SOCK_MARK = 16, 32, 16
# Helper functions (linux/bpf.h, ___BPF_FUNC_MAPPER).
_SKB_LOAD_BYTES_RELATIVE, _SK_LOOKUP_TCP, _SK_RELEASE = 68, 84, 86
_FROM_NETWORK_HEADER: Final = 1
"""BPF_HDR_START_NET"""
_THIS_NAMESPACE: Final = -1
"""BPF_F_CURRENT_NETNS"""
_ETH_P_IP, _ETH_P_IPV6, _TCP = 0x0800, 0x86DD, 6
_FRAGMENT: Final = 0x3FFF
"""More fragments, or an offset: only a part of a packet, which may have no ports (RFC 791 3.1)."""

# Where things are kept, from the end of the frame: the IPv4 header, and the addresses and ports that are looked up.
_HEADER, _TUPLE = -64, -40
_TUPLE_V4, _TUPLE_V6 = 12, 36
"""Bytes of struct bpf_sock_tuple."""


def socket_redirect(device: str, class_ids: frozenset[int]) -> RedirectFilter:
    """The filter that sends what arrives to ``device``, and finds the class of these ids by the socket on the way."""
    return RedirectFilter(INGRESS_HOOK, device, program=fingerprint(socket_program(class_ids)), class_ids=class_ids)


def load_for_sockets(class_ids: frozenset[int]) -> int:
    """Load the program; returns a file descriptor that the caller closes. Raises like :func:`load_program`."""
    return load_program(socket_program(class_ids), b"podlane_socket")


@lru_cache(maxsize=16)
def socket_program(class_ids: frozenset[int]) -> bytes:
    """The program for these class ids; a marked socket of any other class is the default class's."""
    base = int(leaf_handle(0))
    code = EbpfAssembler()
    code.op(asm.MOVE_X, R6, R1)
    code.op(asm.LOAD_WORD, R7, R6, _SKB_PROTOCOL)
    code.jump(asm.IF_EQUAL, R7, socket.htons(_ETH_P_IPV6), "ipv6")
    code.jump(asm.IF_NOT_EQUAL, R7, socket.htons(_ETH_P_IP), "done")
    _ipv4(code)
    code.goto("look up")
    code.place("ipv6")
    _ipv6(code)
    code.place("look up")
    _mark_of_socket(code)
    _choose(code, class_ids, base)
    code.place("done")
    code.op(asm.MOVE_K, R0, imm=-1)
    code.exit()
    return code.assemble()


def _load(code: EbpfAssembler, to: int, size: int, *, at: int = 0, after: int | None = None) -> None:
    """Copy ``size`` bytes of the packet to the frame, from ``at`` or from where register ``after`` says."""
    code.op(asm.MOVE_X, R1, R6)
    if after is None:
        code.op(asm.MOVE_K, R2, imm=at)
    else:
        code.op(asm.MOVE_X, R2, after)
    code.op(asm.MOVE_X, R3, R10)
    code.op(asm.ADD_K, R3, imm=to)
    code.op(asm.MOVE_K, R4, imm=size)
    code.op(asm.MOVE_K, R5, imm=_FROM_NETWORK_HEADER)
    code.call(_SKB_LOAD_BYTES_RELATIVE)
    code.jump(asm.IF_NOT_EQUAL, R0, 0, "done")


def _ipv4(code: EbpfAssembler) -> None:
    """Addresses and ports of an IPv4 packet; R3 is their size in bytes."""
    _load(code, _HEADER, 20)
    code.op(asm.LOAD_BYTE, R1, R10, _HEADER + 9)
    code.jump(asm.IF_NOT_EQUAL, R1, _TCP, "done")
    code.op(asm.LOAD_HALF, R1, R10, _HEADER + 6)
    code.jump(asm.IF_ANY_BIT, R1, socket.htons(_FRAGMENT), "done")
    for offset in (0, 4):
        code.op(asm.LOAD_WORD, R1, R10, _HEADER + 12 + offset)
        code.op(asm.STORE_WORD, R10, R1, _TUPLE + offset)
    code.op(asm.LOAD_BYTE, R8, R10, _HEADER)
    code.op(asm.AND_K, R8, imm=15)
    code.op(asm.SHIFT_LEFT_K, R8, imm=2)
    _load(code, _TUPLE + 8, 4, after=R8)
    code.op(asm.MOVE_K, R3, imm=_TUPLE_V4)


def _ipv6(code: EbpfAssembler) -> None:
    """The same of an IPv6 packet without extension headers, which TCP hardly ever has."""
    _load(code, _HEADER, 4, at=4)
    code.op(asm.LOAD_BYTE, R1, R10, _HEADER + 2)
    code.jump(asm.IF_NOT_EQUAL, R1, _TCP, "done")
    # The source address, the destination address and both ports follow each other, as they do in the tuple.
    _load(code, _TUPLE, _TUPLE_V6, at=8)
    code.op(asm.MOVE_K, R3, imm=_TUPLE_V6)


def _mark_of_socket(code: EbpfAssembler) -> None:
    """R7: the mark of the socket, which is let go again."""
    code.op(asm.MOVE_X, R1, R6)
    code.op(asm.MOVE_X, R2, R10)
    code.op(asm.ADD_K, R2, imm=_TUPLE)
    code.op(asm.MOVE_K, R4, imm=_THIS_NAMESPACE)
    code.op(asm.MOVE_K, R5, imm=0)
    code.call(_SK_LOOKUP_TCP)
    code.jump(asm.IF_EQUAL, R0, 0, "done")
    code.op(asm.LOAD_WORD, R7, R0, _SOCK_MARK)
    code.op(asm.MOVE_X, R1, R0)
    code.call(_SK_RELEASE)


def _choose(code: EbpfAssembler, class_ids: Iterable[int], base: int) -> None:
    """The packet's priority by the mark in R7, if it is one of the proxy's with a class in it."""
    code.jump(asm.IF_ANY_BIT, R7, OWN.mask, "ours")
    code.goto("done")
    code.place("ours")
    code.op(asm.SHIFT_RIGHT_K, R7, imm=CLASS_SHIFT)
    code.jump(asm.IF_EQUAL, R7, 0, "done")
    for class_id in sorted(class_ids):
        code.jump(asm.IF_EQUAL, R7, class_id, "known")
    code.op(asm.MOVE_K, R7, imm=DEFAULT_CLASS_ID)
    code.place("known")
    code.op(asm.OR_K, R7, imm=base)
    code.op(asm.STORE_WORD, R6, R7, _SKB_PRIORITY)
