"""From frames to flows: client and server, the client's first bytes, and the bytes in each direction. Pure.

A flow has two halves, one per direction, and each half is found by its key (addresses, ports, protocol) in one
dictionary. A frame of a flow whose verdict is settled costs that look-up and two additions.

**Finding the client.** TCP: the sender of the SYN, or the receiver of the SYN-ACK. A flow without either began before
the capture: both halves are passed to a detector, and the one with a client's protocol (ClientHello, HTTP request) is
the client's. Such a capture may start in the middle of a message, so the detector restarts at later segments, a limited
number of times. UDP: the sender of QUIC Initials that decrypt as a client's. Otherwise, a port below 1024 is the
server's if the other is not, else the first sender is the client.

**Memory.** Only first bytes are held, for as long as they can affect the verdict, in total no more than ``max_held``,
of at most ``max_flows`` flows. Ended flows are evicted first, then those idle longest; if there are too many bytes,
only flows that hold some. A flow is passed on when it is evicted, and at the end, in the order of the capture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.packets import TCP, UDP, Payload, read_ip
from datapath.protocols.quic_initial import QuicInitialReader, detection_of
from datapath.protocols.quic_packets import read_header
from datapath.protocols.streams import FirstBytes
from podlane.classify.flow import CaptureSummary, Flow, Half
from podlane.classify.fragments import Reassembler
from podlane.classify.links import NOT_IP, ip_start, known

MAX_FLOWS: Final = 100_000
"""Maximum number of flows; some 150 MB of memory."""
MAX_HELD: Final = 64 << 20
"""Bytes of connections' beginnings: those of 1,000 connections that make the detector look as far as it ever does."""
_EVICTED_SHARE: Final = 8
"""The fraction of flows evicted at a time, since finding the oldest needs a scan of all."""

_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_NEWS: Final = _FIN | _SYN | _RST
_FLAGS_END: Final = 14
"""Bytes of a TCP header up to its flags (RFC 9293 3.1)."""
_HEADER_UDP: Final = 8


_QUIC_FIXED: Final = 0x40
"""Is 1 in packets of these versions, or the server would have had to allow otherwise before (RFC 9287)."""


def is_quic(datagram: bytes) -> bool:
    """Whether it has a QUIC long header of a version that is read (RFC 9000 17.2, RFC 9369 3), as connections begin.

    Version negotiation, short headers and everything else look like any other bytes.
    """
    header = read_header(datagram, 0)
    return header is not None and header.known and bool(header.first & _QUIC_FIXED)


class FlowTable:
    """Takes frames, and passes each flow to ``give`` exactly once: when it is evicted, or at :meth:`finish`."""

    def __init__(self, give: Callable[[Flow], None], *, max_flows: int = MAX_FLOWS, max_held: int = MAX_HELD) -> None:
        self.seen = CaptureSummary()
        self._give = give
        self._halves: dict[bytes, Half] = {}
        self._fragments = Reassembler()
        self._max_halves = 2 * max_flows
        self._max_held = max_held
        self._held = 0

    def add(self, link_type: int, frame: bytes, wire_bytes: int, when: float) -> None:
        """Take the next frame: its captured bytes, its length on the wire, and the time in seconds."""
        seen = self.seen
        seen.packets += 1
        seen.bytes += wire_bytes
        if not known(link_type):
            seen.unknown_links[link_type] = seen.unknown_links.get(link_type, 0) + 1
            return
        at = ip_start(link_type, frame)
        if at == NOT_IP:
            seen.not_ip += 1
            return
        payload = read_ip(frame, at)
        if payload is None:
            seen.broken += 1
            return
        if payload.end > len(frame):
            seen.cut += 1
        frames = 1
        if payload.fragment is not None:
            whole = self._fragments.add(payload, wire_bytes)
            if whole is None:
                return
            payload, frames, wire_bytes = whole
        protocol, data, start = payload.protocol, payload.data, payload.start
        if protocol == TCP:
            # Up to the flags: without them nothing certain can be said.
            if min(len(data), payload.end) < start + _FLAGS_END:
                seen.broken += frames
                return
            flags = data[start + 13]
        elif protocol == UDP:
            if min(len(data), payload.end) < start + _HEADER_UDP:
                seen.broken += frames
                return
            flags = 0
        else:
            seen.other[protocol] += frames
            return
        key = payload.addresses + data[start : start + 4] + (b"\x06" if protocol == TCP else b"\x11")
        half = self._halves.get(key)
        if half is None or (flags & _SYN and _begins_anew(half, int.from_bytes(data[start + 4 : start + 8], "big"))):
            half = self._begin(key)
        half.packets += frames
        half.bytes += wire_bytes
        flow = half.flow
        flow.last = seen.packets
        if protocol == UDP:
            if flow.looks:
                self._datagram(half, data[start + _HEADER_UDP : payload.end])
        elif half.stream is not None or flags & _NEWS:
            self._tcp(half, flags, payload, when)

    def finish(self) -> None:
        """The capture has ended: pass on the remaining flows, in the order in which they were first seen."""
        self._fragments.finish()
        self.seen.fragments_given_up = self._fragments.given_up
        self.seen.broken += self._fragments.broken
        for half in list(self._halves.values()):
            if half is half.flow.halves[0]:
                self._end(half.flow)
        self._halves.clear()

    # TCP -----------------------------------------------------------------------------------------------------------

    def _tcp(self, half: Half, flags: int, payload: Payload, when: float) -> None:
        data, start = payload.data, payload.start
        sequence = int.from_bytes(data[start + 4 : start + 8], "big")
        text = data[start + (data[start + 12] >> 4) * 4 : payload.end]
        if flags & _SYN:
            self._syn(half, flags, sequence, int.from_bytes(data[start + 8 : start + 12], "big"))
            sequence += 1
        flow = half.flow
        if flow.opened_at is None and half is flow.client and (text or not flags & _SYN):
            flow.opened_at = when
        if text and half.stream is not None:
            self._text(half, half.stream, sequence, text, when)
        if flags & _FIN:
            half.finished = True
            flow.closed = flow.closed or half.other.finished
        if flags & _RST:
            flow.closed = True

    def _syn(self, half: Half, flags: int, sequence: int, acknowledged: int) -> None:
        """A SYN or SYN-ACK: it shows both sides' roles, and where the client's bytes begin."""
        flow = half.flow
        half.isn = sequence
        if flow.client is not None:
            return
        client = half
        if flags & _ACK:
            client = half.other
            client.isn = (acknowledged - 1) % (1 << 32)
        assert client.isn is not None
        flow.client, flow.whole = client, True
        self._drop(client)
        self._drop(client.other)
        client.stream = FirstBytes((client.isn + 1) % (1 << 32))

    def _text(self, half: Half, stream: FirstBytes, sequence: int, text: bytes, when: float) -> None:
        flow = half.flow
        flow.spoke = True
        before = stream.held
        detection = stream.add(sequence, text)
        self._held += stream.held - before
        if detection is not None:
            self._decided(half, detection, when)
            if flow.client is None and flow.detection is None and half.afresh:
                half.afresh -= 1
                half.stream = FirstBytes((sequence + len(text)) % (1 << 32))
        elif self._held > self._max_held:
            self._make_room()

    def _decided(self, half: Half, detection: Detection, when: float) -> None:
        flow = half.flow
        self._drop(half)
        if flow.client is half:
            flow.detection = detection
            if flow.opened_at is not None:
                flow.delay = when - flow.opened_at
        elif detection.reason is Reason.FOUND:
            flow.client, flow.detection = half, detection
            self._drop(half.other)
        elif detection.protocol is not Protocol.OPAQUE:
            flow.hint = detection

    # UDP -----------------------------------------------------------------------------------------------------------

    def _datagram(self, half: Half, datagram: bytes) -> None:
        """Detect QUIC and the client's hello. The client is the side whose Initials can be decrypted."""
        flow = half.flow
        if flow.client is half.other:
            return
        if half.initials is None:
            flow.looks -= 1
            if not is_quic(datagram):
                return
            flow.quic = True
            half.initials = QuicInitialReader()
        before = half.initials.held
        detection = detection_of(half.initials.feed(datagram))
        self._held += half.initials.held - before
        if flow.client is None and half.initials.opened:
            flow.client = half
            self._drop(half.other)
        if detection is not None:
            self._drop(half)
            if flow.client is half:
                flow.detection = detection
                flow.looks = 0
        elif self._held > self._max_held:
            self._make_room()

    # the table -----------------------------------------------------------------------------------------------------

    def _begin(self, key: bytes) -> Half:
        """A new flow, whose first direction is ``key``; the flow of that name until now, if any, is over."""
        old = self._halves.get(key)
        if old is not None:
            self._remove(old.flow)
        elif len(self._halves) >= self._max_halves:
            self._make_room()
        flow = Flow(key, self.seen.packets)
        first, second = flow.halves
        self._halves[_reversed(key)] = second
        self._halves[key] = first  # the same key when a socket is connected to itself
        if key[-1] == TCP:
            first.stream, second.stream = FirstBytes(), FirstBytes()
        return first

    def _make_room(self) -> None:
        """Evict some flows: those that have ended, then those idle longest. The current one stays."""
        flows = [half.flow for half in self._halves.values() if half is half.flow.halves[0]]
        flows = [flow for flow in flows if flow.last != self.seen.packets]
        if self._held > self._max_held:  # those that hold nothing would make no room
            flows = [flow for flow in flows if any(half.held for half in flow.halves)]
        flows.sort(key=lambda flow: (not flow.closed, flow.last))
        share = max(1, len(flows) // _EVICTED_SHARE)
        for index, flow in enumerate(flows):
            if index >= share and self._held <= self._max_held:
                break
            self.seen.evicted += not flow.closed
            self._remove(flow)

    def _remove(self, flow: Flow) -> None:
        self._halves.pop(flow.key)
        self._halves.pop(_reversed(flow.key), None)
        self._end(flow)

    def _end(self, flow: Flow) -> None:
        if flow.protocol == TCP:
            self.seen.in_the_middle += not flow.whole
            if flow.detection is None:
                flow.detection = _rest(flow)
        for half in flow.halves:
            self._drop(half)
        self._give(flow)

    def _drop(self, half: Half) -> None:
        """Stop collecting bytes of this direction."""
        self._held -= half.held
        half.stream = half.initials = None


def _rest(flow: Flow) -> Detection | None:
    """The result for a flow that ended undecided; None if its client sent nothing."""
    for half in flow.halves if flow.client is None else (flow.client,):
        stream = half.stream
        if stream is None:
            continue
        flow.gap = flow.gap or stream.has_gap
        if stream.fed:
            detection = stream.finish()
            if detection.protocol is not Protocol.OPAQUE or flow.client is half:
                return detection
    return flow.hint


def _begins_anew(half: Half, sequence: int) -> bool:
    """Whether a SYN or SYN-ACK with this sequence number starts another connection than the half's current one."""
    if half.isn is not None:
        return half.isn != sequence
    return half.flow.closed or (half.flow.spoke and not half.flow.whole)


def _reversed(key: bytes) -> bytes:
    size = (len(key) - 5) // 2
    return key[size : 2 * size] + key[:size] + key[-3:-1] + key[-5:-3] + key[-1:]
