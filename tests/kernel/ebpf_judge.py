"""Asks the programs of ``datapath: ebpf`` for the class of a first packet, without sending one (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from datapath.ebpf import libbpf, program
from datapath.ebpf.policy_maps import HashKeys, compile_table
from datapath.mesh.types import MeshProxy
from datapath.protocols.detect import Detection, Detector
from datapath.routing.flow import NO_CONTENT, Address, Content, Destination
from datapath.routing.table import RoutingTable
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Bound, TrafficPolicy, TransportProtocol

FIRST_PACKETS = sorted(p for p in (Path(__file__).parent / "first_packets").iterdir() if p.suffix != ".md")
MOST_TRIED = 3400
"""Bytes of data: a test run takes about a page."""
KEYS = HashKeys(1_234_567_891, 987_654_321)
_CONTENT_DECIDES = 0x100
_UNREAD = 0x10000
_SKB_BYTES, _MARK, _PRIORITY = 192, 8, 32
_PROTOCOLS = {TransportProtocol.TCP: 6, TransportProtocol.UDP: 17}


def require_programs() -> None:
    """Skip the test where programs cannot be loaded; a CI run fails by that."""
    if os.geteuid():
        pytest.skip("needs root: run the tests by `make test`, or as root")
    if not program.OBJECT.exists():
        pytest.skip("no programs were compiled: install clang and libbpf-dev, and make build")
    try:
        libbpf.library()
    except libbpf.LibbpfMissingError as error:
        pytest.skip(str(error))


class Judged(NamedTuple):
    """What the programs say: the class ids by the packet and by its data (0: the packet decides).

    ``unread``: user space is asked.
    """

    by_packet: int
    content_decides: bool
    by_data: int
    unread: bool


class Judge:
    """The programs, loaded with the maps of a table."""

    def __init__(self, table: RoutingTable, ids: ClassIds, loaded: libbpf.BpfObject) -> None:
        self.table, self.ids = table, ids
        self._program = loaded.program(program.JUDGE)

    def judge(self, frame: bytes, bound: Bound = Bound.OUTBOUND) -> Judged:
        context = bytearray(_SKB_BYTES)
        context[_MARK] = bound is Bound.INBOUND
        after = libbpf.run_on_frame(self._program, frame, bytes(context)).context
        (priority,), (mark,) = struct.unpack_from("=I", after, _PRIORITY), struct.unpack_from("=I", after, _MARK)
        return Judged(priority & 0xFF, bool(priority & _CONTENT_DECIDES), mark & 0xFF, bool(mark & _UNREAD))

    def cost(self, frame: bytes) -> int:
        """Nanoseconds that judging a packet takes, by many times."""
        return libbpf.run_on_frame(self._program, frame, bytes(_SKB_BYTES), 100_000).nanoseconds

    def expected(self, destination: Destination, content: Content, source: Address) -> int:
        return self.ids[self.table.route(destination, content, source=source).class_name]

    def agree(self, destination: Destination, source: Address, data: bytes) -> Judged:
        """Judge a packet and compare with the table. Returns what was judged."""
        found = self.judge(frame(destination, source, data), destination.bound)
        said = f"{destination} from {source}: {data!r}"
        assert found.by_packet == self.expected(destination, NO_CONTENT, source), said
        assert found.content_decides == self.table.undecided(destination, source=source), said
        if not found.unread and destination.protocol is TransportProtocol.TCP:
            detection = Detector().feed(data)
            assert detection is not None, f"decided, where the detector needs more: {said}"
            by_data = found.by_data or found.by_packet
            assert by_data == self.expected(destination, content_of(detection), source), said
        return found


@contextmanager
def judge_for(policy: TrafficPolicy, mesh: MeshProxy | None = None) -> Iterator[Judge]:
    """A judge for a policy, beside a mesh's proxy."""
    table = RoutingTable.from_policy(policy, mesh=mesh)
    ids = ClassIds.assign(c.name for c in policy.classes)
    with program.load(compile_table(table, ids, KEYS), names=(program.JUDGE,)) as loaded:
        yield Judge(table, ids, loaded)


def content_of(detection: Detection) -> Content:
    """What the routing table sees of a detection."""
    return Content(detection.sni, detection.host, detection.alpn)


def frame(destination: Destination, source: Address, data: bytes) -> bytes:
    """An Ethernet frame with the first data of a connection, or with a datagram."""
    if destination.protocol is TransportProtocol.TCP:
        transport = struct.pack("!HHIIBBHHH", 40_000, destination.port, 1, 1, 5 << 4, 0x18, 65535, 0, 0) + data
    else:
        transport = struct.pack("!HHHH", 40_000, destination.port, 8 + len(data), 0) + data
    number = _PROTOCOLS.get(destination.protocol, 1 if destination.address.version == 4 else 58)
    ends = source.packed + destination.address.packed
    if destination.address.version == 4:
        size = 20 + len(transport)
        head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, number, 0) + ends
        return bytes(12) + b"\x08\0" + head + transport
    return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(transport), number, 64) + ends + transport


_INTERESTING = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b".", b"..", b"/", b"Host: a.example.com\r\n", b"host:www.example.org\n", b"HTTP/1.1",
    b"HTTP/1.0", b"HTTP/2.0", b"CONNECT ", b"PROXY ", b"PRI * ", b"\x16\x03\x01", b"\0\0", b"\0\x10", b"\xfe\x0d", b"xn--", b"h2", b"*", b"@",
    b"http://", b"A" * 64, b"\x02h2", b"a.b.example.org", b"API.EXAMPLE.COM", b":80", b":8080 ", b"[::1]", b"\x7f", b"\xc3\xa4",
)  # fmt: skip


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A seed with a few changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] = rng.randrange(256)
            case 1 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                data[at:at] = rng.choice(_INTERESTING)
            case 3:
                part = rng.choice(_INTERESTING)
                data[at : at + len(part)] = part
            case 4:
                del data[at : at + rng.randrange(1, 9)]
            case 5:
                other = rng.choice(seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            case _ if data:
                data[at % len(data)] = max(0, min(255, data[at % len(data)] + rng.choice((-1, 1))))
    return bytes(data[:MOST_TRIED])
