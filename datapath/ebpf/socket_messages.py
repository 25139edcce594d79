"""TCP sockets with the verdicts that programs keep with them, as sock_diag(7) tells them, and what each has carried.

Pure: bytes in and bytes out. linux/inet_diag.h, linux/sock_diag.h (INET_DIAG_REQ_SK_BPF_STORAGES, since Linux 5.7), and
the structures of ``programs/lane.bpf.c`` and ``programs/carried.h``.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from datapath.protocols.detect import Protocol
from tc_core.netlink.codec import DUMP, REQUEST, attributes, message, nested, u32

SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST: Final = struct.Struct("=BBBBI48s")
"""struct inet_diag_req_v2: family, protocol, extensions, padding, states, socket identity."""
_WANTED_STORAGES, _MAP_FD = 2, 1
"""INET_DIAG_REQ_SK_BPF_STORAGES, SK_DIAG_BPF_STORAGE_REQ_MAP_FD"""
_HEAD: Final = struct.Struct("=BBxx2s2s16s16s32x")
"""struct inet_diag_msg: family, state, ports and addresses of this end and of the other."""
_STORAGES, _STORAGE, _VALUE = 20, 1, 3
"""INET_DIAG_SK_BPF_STORAGES, SK_DIAG_BPF_STORAGE, SK_DIAG_BPF_STORAGE_MAP_VALUE"""
_ESTABLISHED, _CONNECTING, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _LAST_ACK, _CLOSING = 1, 2, 4, 5, 8, 9, 11
"""TCP_* of net/tcp_states.h. Sockets in other states are of no connection, or not any more."""
_ALIVE: Final = sum(
    1 << state
    for state in (_ESTABLISHED, _CONNECTING, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _LAST_ACK, _CLOSING)
)  # fmt: skip
_ANY_STATE: Final = 0xFFFFFFFF
_FLOW: Final = struct.Struct("=4xIBxBxBBBx12xIQ64s40x")
"""struct flow: first byte, state, class id, inbound, kept, length of the name, when it began, cookie, name."""
_DECIDED: Final = 1
_KEPT: Final = (None, Protocol.TLS.value, Protocol.HTTP1.value)
"""What was kept of a connection's first bytes: nothing, or 1 + ``WAS_*``."""
_MOMENT_NS: Final = 1 << 24
_MOMENTS: Final = 1 << 32
_V4_MAPPED: Final = b"\0" * 10 + b"\xff\xff"

_ETHERNET: Final = bytes(14)
_CARRIED: Final = struct.Struct("=16s16s2s2sHHQQ")
"""struct carried: the other end's address and this one's, their ports, version, whether it is known, and bytes."""
MOST_ASKED: Final = 48
"""Questions in one frame."""


class LaneSocket(NamedTuple):
    """A TCP socket that has a verdict.

    Addresses have 4 or 16 bytes, in network byte order like the ports. ``name`` is as it was sent, empty if none was
    kept. ``began``: see :func:`age`. ``cookie`` and ``first_byte`` are the connection's in
    :mod:`datapath.ebpf.beginnings`. ``up`` and ``down``: bytes that it has carried, from its client and to it; None:
    not known.
    """

    ours: bytes
    our_port: bytes
    theirs: bytes
    their_port: bytes
    state: str
    class_id: int
    inbound: bool
    protocol: str | None
    name: bytes
    began: int
    cookie: int
    first_byte: int
    up: int | None = None
    down: int | None = None


def dump(family: socket.AddressFamily, flows: int) -> bytes:
    """The request for all TCP connections of a family, with what the map with the descriptor ``flows`` has of each."""
    asked = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ALIVE, bytes(48))
    wanted = nested(_WANTED_STORAGES, u32(_MAP_FD, flows))
    return message(SOCK_DIAG_BY_FAMILY, asked + wanted, flags=REQUEST | DUMP)


def dump_udp(family: socket.AddressFamily) -> bytes:
    """The request for all UDP sockets of a family."""
    asked = _REQUEST.pack(family, socket.IPPROTO_UDP, 0, 0, _ANY_STATE, bytes(48))
    return message(SOCK_DIAG_BY_FAMILY, asked, flags=REQUEST | DUMP)


def read_own_end(data: bytes) -> tuple[bytes, bytes] | None:
    """Address and port of a socket in an answer; the address is empty where the socket takes any."""
    if len(data) < _HEAD.size:
        return None
    family, _, port, _, ours, _ = _HEAD.unpack_from(data)
    return (_address(family, ours) if any(ours) else b""), port


def read_socket(data: bytes) -> LaneSocket | None:
    """The socket in an answer without its netlink header; None: it has no verdict, or that cannot be read."""
    if len(data) < _HEAD.size:
        return None
    stored = attributes(data, _HEAD.size).get(_STORAGES)
    if stored is None:
        return None
    value = attributes(attributes(stored).get(_STORAGE, b"")).get(_VALUE, b"")
    if len(value) != _FLOW.size:
        return None
    first_byte, decided, class_id, inbound, kept, length, began, cookie, name = _FLOW.unpack(value)
    family, state, our_port, their_port, ours, theirs = _HEAD.unpack_from(data)
    return LaneSocket(
        _address(family, ours),
        our_port,
        _address(family, theirs),
        their_port,
        "connecting" if state == _CONNECTING else "decided" if decided == _DECIDED else "detecting",
        class_id,
        bool(inbound),
        _KEPT[kept] if kept < len(_KEPT) else None,
        name[:length] if kept else b"",
        began,
        cookie,
        first_byte,
    )


def _address(family: int, address: bytes) -> bytes:
    if family == socket.AF_INET:
        return address[:4]
    return address[12:] if address.startswith(_V4_MAPPED) else address


def age(began: int, now: int) -> float | None:
    """Seconds since a connection ``began``, at ``now`` (CLOCK_MONOTONIC in nanoseconds); None: that was not seen."""
    return (now // _MOMENT_NS - began) % _MOMENTS * _MOMENT_NS / 1e9 if began else None


def questions(sockets: Sequence[LaneSocket]) -> bytes:
    """The frame that asks what these sockets, :data:`MOST_ASKED` at most, have carried."""
    return _ETHERNET + b"".join(
        _CARRIED.pack(
            *(_mapped(each.theirs), _mapped(each.ours), each.their_port, each.our_port),
            *(4 if len(each.ours) == 4 else 6, 0, 0, 0),
        )
        for each in sockets
    )


def _mapped(address: bytes) -> bytes:
    return _V4_MAPPED + address if len(address) == 4 else address


def answered(sockets: Sequence[LaneSocket], frame: bytes) -> Iterator[LaneSocket]:
    """The sockets with what the frame that came back says. Of a socket that has gone nothing is known."""
    for each, (*_, known, acknowledged, received) in zip(
        sockets, _CARRIED.iter_unpack(frame[len(_ETHERNET) :]), strict=True
    ):
        if not known:
            yield each
        elif each.inbound:
            yield each._replace(up=received, down=acknowledged)
        else:
            yield each._replace(up=max(0, acknowledged - 1), down=received)  # the SYN is counted with data
