"""The harness for capture files, and for the frames in them."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from contextlib import closing
from typing import IO

from datapath.protocols.detect import MAX_BYTES
from datapath.protocols.packets import read_ip
from podlane.classify.files import CaptureFile
from podlane.classify.flow import Flow
from podlane.classify.flows import FlowTable
from podlane.classify.formats import CapturedFrame
from podlane.classify.links import NOT_IP, ip_start, known
from podlane.classify.verdicts import FlowClassifier
from podlane.errors import CaptureError
from tests.fuzz.refusals import says_why
from traffic_policy.policy_file import parse_policy

_JUDGE = FlowClassifier(
    parse_policy(
        "total: 1Gbit\n"
        "classes:\n"
        "  - {name: sni, rate: 10Mbit, match: {sni: '*.example.com'}}\n"
        "  - {name: host, rate: 10Mbit, match: {host: a.example}}\n"
        "  - {name: port, rate: 10Mbit, match: {port: '1-100'}}\n"
    )
)
_LINKS = (1, 101, 113, 0, 276, 12, 108, 9)
_MAX_FLOWS = 8


def pcap(data: bytes, *, full: bool = True) -> None:
    """The first byte says what the others are: a file, or frames with two bytes before each for its length."""
    if not data:
        return
    kind, rest = data[0], data[1:]
    if kind & 1:
        _flows(_frames(_LINKS[kind >> 1 & 7], rest), full)
        return
    frames = _frames_of_file(_InMemory, rest)
    if full:
        assert _frames_of_file(_as_file, rest) == frames, "a file on a disk is read in another way"
    _flows(frames, full)


class _InMemory(CaptureFile):
    """A file that need not be opened, which takes longer than to read a small one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        super().__init__("capture")

    def _open(self, path: str) -> IO[bytes]:  # noqa: ARG002 (there is none)
        return io.BytesIO(self._data)


def _as_file(data: bytes) -> CaptureFile:
    descriptor = os.memfd_create("capture")
    try:
        os.write(descriptor, data)
        return CaptureFile(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _frames_of_file(opened: Callable[[bytes], CaptureFile], data: bytes) -> list[CapturedFrame]:
    """What the reader makes of a file. It may say that it is none, or how it is damaged."""
    try:
        with closing(opened(data)) as file:
            frames = list(file)
            assert file.position <= len(data), "more was read than there is"
            assert file.damage is None or file.damage.strip()
    except CaptureError as error:
        says_why(error)
        return []
    return frames


def _frames(link: int, data: bytes) -> list[CapturedFrame]:
    found, at = [], 0
    while at + 2 <= len(data):
        (size,) = struct.unpack_from(">H", data, at)
        frame = data[at + 2 : at + 2 + size]
        found.append(CapturedFrame(link, frame, size, len(found) * 0.25))
        at += 2 + size
    return found


def _is_fragment(frame: CapturedFrame) -> bool:
    at = ip_start(frame.link_type, frame.data) if known(frame.link_type) else NOT_IP
    payload = None if at == NOT_IP else read_ip(frame.data, at)
    return payload is not None and payload.fragment is not None


def _flows(frames: list[CapturedFrame], full: bool) -> None:
    """Every packet is counted once: in a flow, or as something that is none. What is held in memory has a bound."""
    given: list[Flow] = []
    table = FlowTable(given.append, max_flows=_MAX_FLOWS, max_held=2 * MAX_BYTES)
    for frame in frames:
        table.add(*frame)
    table.finish()
    seen = table.seen
    packets = sum(half.packets for flow in given for half in flow.halves)
    others = seen.not_ip + seen.broken + seen.other.total() + seen.fragments_given_up + sum(seen.unknown_links.values())
    assert seen.packets == len(frames)
    assert packets <= seen.packets, "packets were counted twice"
    # A datagram that came in several frames and is no flow's counts once.
    assert packets + others == seen.packets or any(map(_is_fragment, frames)), (packets, others, seen)
    assert sum(half.bytes for flow in given for half in flow.halves) <= seen.bytes
    assert len({id(flow) for flow in given}) == len(given), "a flow was given twice"
    for flow in given if full else given[:1]:
        verdict = _JUDGE.verdict(flow)
        assert verdict.why
        assert verdict.class_name in ("sni", "host", "port", "default")
        if full:
            json.dumps(verdict.document())
