"""Reassembles the first bytes of one direction of a TCP connection and feeds them to the detector. Pure.

Segments may arrive out of order, repeated, and overlapping; of repeated bytes the first ones count, and
:attr:`FirstBytes.contradicted` says whether others came in their place. Only bytes that could still decide are held: at
most :attr:`Detector.MAX_BYTES` from the start of the stream.
"""

from __future__ import annotations

from typing import Final

from datapath.protocols.detect import Detection, Detector, Reason

_SEQUENCE: Final = 1 << 32
_HALF: Final = 1 << 31
"""Sequence numbers less than this ahead come later, the others came before (RFC 9293 3.4)."""
_MAX_PENDING: Final = 1024
"""About so many pieces are held behind a gap. 64 KiB in segments of 1,460 bytes are 45: more is no accident."""


def distance(base: int, sequence: int) -> int:
    """How far a sequence number is ahead of another; below 0: behind."""
    ahead = (sequence - base) % _SEQUENCE
    return ahead - _SEQUENCE if ahead >= _HALF else ahead


class FirstBytes:
    """One direction. ``base`` is the sequence number of its first byte; None: the first that is seen."""

    __slots__ = ("_detector", "_pending", "base", "contradicted", "fed", "held", "limit", "missed", "seen")

    def __init__(self, base: int | None = None) -> None:
        self.base = base
        """The sequence number of the first byte; None: not seen yet."""
        self._detector: Detector | None = None  # made for the first byte: many connections never have one
        self._pending: list[tuple[int, bytes]] = []  # (offset, bytes) behind a gap, in order, none overlapping
        self.seen = bytearray()
        """The bytes from the stream's start up to the first gap."""
        self.limit = Detector.MAX_BYTES
        """Bytes from the stream's start that are looked at."""
        self.missed = False
        """Bytes came from behind the limit."""
        self.contradicted = False
        """Bytes came again that are not the same, or some from before the first one: of no honest sender."""
        self.fed = 0
        """Bytes from the stream's start that have been taken."""
        self.held = 0
        """Bytes in memory on behalf of this direction."""

    @property
    def has_gap(self) -> bool:
        """Whether bytes are missing before some that came."""
        return bool(self._pending)

    def add(self, sequence: int, data: bytes) -> Detection | None:
        """Take a segment's bytes; the detection when that decided. Not to be called again after one."""
        fresh = self.take(sequence, data)
        if not fresh:
            return None
        if self._detector is None:
            self._detector = Detector()
        return self._detector.feed(fresh)

    def take(self, sequence: int, data: bytes) -> bytes:
        """Take a segment's bytes; those that continue the stream now, without what came before."""
        if self.base is None:
            self.base = sequence
        offset = distance(self.base, sequence)
        if offset < 0:
            # Some keep-alive probes have one byte, which stands where the SYN stood.
            self.contradicted = self.contradicted or (offset < -1 and bool(data))
            data = data[-offset:]
            offset = 0
        if offset >= self.limit or not data:
            self.missed = self.missed or bool(data)
            return b""
        if offset > self.fed:
            self._keep(offset, data)
            return b""
        if offset < self.fed and not self._same(data, self.seen, offset):
            self.contradicted = True
        fresh = data[self.fed - offset :]
        end = self.fed + len(fresh)
        while self._pending and self._pending[0][0] <= end:
            start, piece = self._pending.pop(0)
            self.held -= len(piece)
            if not self._same(piece, fresh, start - self.fed):
                self.contradicted = True
            fresh += piece[end - start :]
            end = self.fed + len(fresh)
        self.fed = end
        self.seen += fresh
        self.held += len(fresh)
        return fresh

    def finish(self, reason: Reason = Reason.EOF) -> Detection:
        """No more bytes will come, or be waited for: what is known so far."""
        return (self._detector or Detector()).finish(reason)

    @staticmethod
    def _same(data: bytes, known: bytes | bytearray, at: int) -> bool:
        """Whether ``data`` has the bytes that are known from ``at`` on, as far as they overlap."""
        part = known[at : at + len(data)]
        return data[: len(part)] == part

    def _keep(self, offset: int, data: bytes) -> None:
        """Store bytes after a gap, without those that are stored already."""
        if len(self._pending) >= _MAX_PENDING:
            return
        end = min(offset + len(data), self.limit)
        fresh: list[tuple[int, bytes]] = []
        at = offset
        for start, piece in self._pending:
            if start >= end:
                break
            if at < start:
                fresh.append((at, data[at - offset : start - offset]))
            shared = max(at, start)
            if not self._same(data[shared - offset :], piece, shared - start):
                self.contradicted = True
            at = max(at, start + len(piece))
        if at < end:
            fresh.append((at, data[at - offset : end - offset]))
        self._pending = sorted(self._pending + fresh)
        self.held += sum(len(piece) for _, piece in fresh)
