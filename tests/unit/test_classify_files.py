"""Capture files: both formats in their variants, compressed, cut off at any byte, damaged, and no captures at all."""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapNgWriter, RawPcapWriter

from podlane.classify.files import CaptureFile
from podlane.classify.formats import CapturedFrame
from podlane.errors import CaptureError

PACKETS = [b"first packet", b"second", b"the third and last one"]


def pcap(packets: list[bytes] = PACKETS, *, order: str = "<", nano: bool = False, link_type: int = 1) -> bytes:
    """A pcap file as scapy writes it, one packet a second, each 10 bytes longer on the wire than captured."""
    file = io.BytesIO()
    writer = RawPcapWriter(file, linktype=link_type, endianness=order, nano=nano)
    writer._write_header(b"")
    for index, packet in enumerate(packets):
        half = 500_000_000 if nano else 500_000
        writer._write_packet(packet, link_type, sec=index, usec=half, caplen=len(packet), wirelen=len(packet) + 10)
    return file.getvalue()


def block(order: str, kind: int, body: bytes) -> bytes:
    """A pcapng block (draft-ietf-opsawg-pcapng 3.1)."""
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str, interfaces: list[int], packets: list[tuple[int, bytes]], *, kind: int = 6) -> bytes:
    """A section with interfaces of these link types and (interface, bytes) packets."""
    made = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    for link_type in interfaces:
        made += block(order, 1, struct.pack(order + "HHI", link_type, 0, 65535))
    for index, (interface, data) in enumerate(packets):
        if kind == 3:
            made += block(order, 3, struct.pack(order + "I", len(data)) + data)
        else:
            head = struct.pack(order + "IIIII", interface, 0, index * 1_000_000 + 500_000, len(data), len(data) + 10)
            made += block(order, 6, head + data)
    return made


def read(tmp_path: Path, content: bytes) -> tuple[list[CapturedFrame], CaptureFile]:
    path = tmp_path / "capture"
    path.write_bytes(content)
    with closing(CaptureFile(str(path))) as file:
        return list(file), file


EXPECTED = [CapturedFrame(1, p, len(p) + 10, i + 0.5) for i, p in enumerate(PACKETS)]
WHOLE = [
    pytest.param(pcap(), id="pcap"),
    pytest.param(pcap(order=">"), id="pcap, big-endian"),
    pytest.param(pcap(nano=True), id="pcap, nanoseconds"),
    pytest.param(pcap(order=">", nano=True), id="pcap, big-endian, nanoseconds"),
    pytest.param(section("<", [1], [(0, p) for p in PACKETS]), id="pcapng"),
    pytest.param(section(">", [1], [(0, p) for p in PACKETS]), id="pcapng, big-endian"),
]


@pytest.mark.parametrize("content", WHOLE)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_frames_are_read_with_link_type_length_and_time(tmp_path: Path, content: bytes, compressed: bool) -> None:
    frames, file = read(tmp_path, gzip.compress(content) if compressed else content)
    assert [f._replace(when=round(f.when, 6)) for f in frames] == EXPECTED
    assert file.damage is None


def test_a_file_of_scapys_own(tmp_path: Path) -> None:
    path = tmp_path / "scapy.pcapng"
    writer = RawPcapNgWriter(str(path))
    writer.linktype = 1
    writer.write_header(b"")
    for packet in PACKETS:
        writer.write_packet(packet, sec=1, usec=0)
    writer.close()
    with closing(CaptureFile(str(path))) as file:
        assert [f.data for f in file] == PACKETS


def test_interfaces_of_several_link_types_in_several_sections(tmp_path: Path) -> None:
    content = section("<", [1, 101], [(1, b"raw"), (0, b"ethernet")]) + section(">", [113], [(0, b"cooked")])
    frames, file = read(tmp_path, content)
    assert [(f.link_type, f.data) for f in frames] == [(101, b"raw"), (1, b"ethernet"), (113, b"cooked")]
    assert file.damage is None


def test_simple_packet_blocks_have_no_time(tmp_path: Path) -> None:
    frames, _ = read(tmp_path, section("<", [228], [(0, b"abc")], kind=3))
    assert frames == [CapturedFrame(228, b"abc", 3, 0.0)]


def test_blocks_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    content = section("<", [1], [(0, b"a")]) + block("<", 4, bytes(20)) + block("<", 0x0BAD, b"x" * 99)
    frames, file = read(tmp_path, content)
    assert [f.data for f in frames] == [b"a"]
    assert file.damage is None


@pytest.mark.parametrize("content", WHOLE)
def test_cut_off_at_any_byte(tmp_path: Path, content: bytes) -> None:
    """What is whole is read; a cut is told unless it falls between two packets."""
    whole_sizes = {len(content)}
    header = 24 if content[:4] != b"\x0a\x0d\x0d\x0a" else 28
    for size in range(len(content)):
        if size < header:
            with pytest.raises(CaptureError, match=r"header|empty|not a capture"):
                read(tmp_path, content[:size])
            continue
        frames, file = read(tmp_path, content[:size])
        complete = [f for f in frames if f.data in PACKETS]
        assert [f.data for f in complete] == PACKETS[: len(complete)]
        assert len(frames) - len(complete) <= 1
        if file.damage is None:
            whole_sizes.add(size)
        else:
            assert file.damage == "it is cut off in the middle of a packet"
    # The header with no, one and two packets (and pcapng's section header alone) are whole files.
    assert len(whole_sizes) in (4, 5)


def test_cut_off_in_the_compression(tmp_path: Path) -> None:
    packed = gzip.compress(pcap([bytes([i % 251]) * 500 for i in range(2000)]))
    frames, file = read(tmp_path, packed[: len(packed) // 2])
    assert 0 < len(frames) < 2000
    assert file.damage is not None


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        pytest.param(
            pcap() + struct.pack("<IIII", 0, 0, 0xFFFF0000, 60) + bytes(5000),
            "it is damaged near byte 112: a packet claims 4,294,901,760 bytes",
            id="pcap, a length of 4 GB",
        ),
        pytest.param(
            section("<", [1], [(0, b"a")]) + struct.pack("<II", 6, 0xFFFFFFF0) + bytes(5000),
            "it is damaged near byte 92: a record claims 4,294,967,268 bytes",
            id="pcapng, a length of 4 GB",
        ),
        pytest.param(
            section("<", [1], [(0, b"a")]) + struct.pack("<II", 6, 3) + bytes(5000),
            "it is damaged near byte 84",
            id="pcapng, a length of 3",
        ),
        pytest.param(
            section("<", [1], [(0, b"a")]) + struct.pack("<II", 6, 32) + bytes(5000),
            "it is damaged near byte 84",
            id="pcapng, two lengths that differ",
        ),
        pytest.param(
            section("<", [1], [(0, b"a")]) + section("<", [], []).replace(b"\x1c\0\0\0M", b"\x1c\0\x20\0M"),
            "it is damaged near byte 84",
            id="pcapng, a section that is cut short",
        ),
        pytest.param(
            section("<", [1], [(7, b"a")]),
            "parts of it cannot be read (a packet names interface 7 of 1)",
            id="interface",
        ),
    ],
)
def test_damage_ends_reading_and_is_told(tmp_path: Path, content: bytes, damage: str) -> None:
    frames, file = read(tmp_path, content)
    assert file.damage == damage
    assert len(frames) <= 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is empty. Capture something first", id="empty"),
        pytest.param(b"#!/bin/sh\n", "is not a capture: it begins with 23 21 2f 62", id="a script"),
        pytest.param(pcap()[:23], "is cut off in its header", id="pcap header cut"),
        pytest.param(section("<", [1], [])[:20], "is cut off in its header", id="pcapng header cut"),
        pytest.param(b"\x1f\x8b\x08garbage", "cannot be read", id="gzip, damaged"),
        pytest.param(gzip.compress(b""), "is empty", id="gzip of nothing"),
        pytest.param(gzip.compress(b"hello, world"), "is not a capture", id="gzip of something else"),
    ],
)
def test_no_captures_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        read(tmp_path, content)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"nowhere cannot be read: No such file or directory\. Check the path"):
        CaptureFile(str(tmp_path / "nowhere"))
    with pytest.raises(CaptureError, match="Is a directory"):
        CaptureFile(str(tmp_path))


def test_frame_check_sequences_in_the_link_type_field_are_ignored(tmp_path: Path) -> None:
    content = bytearray(pcap())
    content[20:24] = struct.pack("<I", 0x44000001)
    frames, _ = read(tmp_path, bytes(content))
    assert frames[0].link_type == 1


def test_the_position_moves_with_reading(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap())
    with closing(CaptureFile(str(path))) as file:
        assert file.size == path.stat().st_size
        positions = [file.position for _ in file]
    assert positions == [52, 74, 112]


def test_keys_of_tls_in_a_capture_are_no_damage(tmp_path: Path) -> None:
    """A Decryption Secrets Block (draft-ietf-opsawg-pcapng 4.7), as editcap --inject-secrets writes it."""
    secrets = b"CLIENT_RANDOM 00 00\n"
    keys = block("<", 0x0A, struct.pack("<II", 0x544C534B, len(secrets)) + secrets)
    packets = section("<", [1], [(0, PACKETS[0])])
    frames, file = read(tmp_path, section("<", [1], []) + keys + packets + keys)
    assert [frame.data for frame in frames] == PACKETS[:1]
    assert file.damage is None


def options(order: str, *given: tuple[int, bytes]) -> bytes:
    made = (struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in given)
    return b"".join(made) + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_interfaces_say_how_fine_their_clock_is_and_how_much_they_capture(tmp_path: Path, order: str) -> None:
    """if_tsresol (draft-ietf-opsawg-pcapng 4.2): a power of ten, or of two; a simple packet is cut at the snap length."""
    content = section(order, [], [])
    for resolution, most in ((9, 0), (0x80 | 10, 4)):
        content += block(
            order, 1, struct.pack(order + "HHI", 1, 0, most) + options(order, (2, b"eth0"), (9, bytes([resolution])))
        )
    for interface, ticks in ((0, 1_500_000_000), (1, 1536)):
        content += block(order, 6, struct.pack(order + "IIIII", interface, 0, ticks, 4, 9) + b"data" + options(order))
    content += block(order, 2, struct.pack(order + "HHIIII", 1, 0, 0, 1024, 3, 7) + b"old")
    frames, file = read(tmp_path, content)
    assert frames == [
        CapturedFrame(1, b"data", 9, 1.5),
        CapturedFrame(1, b"data", 9, 1.5),
        CapturedFrame(1, b"old", 7, 1.0),
    ]
    assert file.damage is None
    head = section(order, [], []) + block(order, 1, struct.pack(order + "HHI", 1, 0, 4))
    frames, _ = read(tmp_path, head + block(order, 3, struct.pack(order + "I", 9) + b"data"))
    assert frames == [CapturedFrame(1, b"data", 9, 0.0)]


@settings(max_examples=200)
@given(st.sampled_from([each.values[0] for each in WHOLE]), st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_refused_with_a_reason(content: bytes, at: int, change: bytes) -> None:
    damaged = content[:at] + change + content[at + len(change) :]
    with tempfile.TemporaryDirectory() as folder, suppress(CaptureError):
        frames, file = read(Path(folder), damaged)
        assert file.damage or sum(len(frame.data) for frame in frames) <= len(damaged)
