"""What a client says first: read until it is known what the connection is, kept until the server has got it.

The bytes are read, not peeked at: how much can be peeked depends on the receive buffer (``net.ipv4.tcp_rmem``, a
namespace's own), and a 64 KiB ClientHello in a Pod with a small one would never be seen whole. Most clients have sent
theirs before they are accepted: then the first read decides, and no :class:`Detector` is made.
"""

from __future__ import annotations

from socket import SocketType
from typing import Final

from datapath.protocols.detect import Detection, Detector, Reason
from datapath.protocols.detection_cache import detect_repeated
from sidecar.transport.direction import BUFFER_SIZE, Workshop
from sidecar.transport.loop import END_EVENTS, ENDED, READ_EVENTS, URGENT

FIRST_BYTES_LIMIT: Final = 1 << 17
"""Bytes kept while detecting, at the very most. The detector's own limit is lower; this one does not trust it."""
ALL_FIRST_BYTES: Final = 16 << 20
"""The same of all connections together, whose detector may keep them once more. Hellos that come in two segments have 2
KiB, so 8,000 of them can be awaited at once; who would wait for more goes by port."""


class FirstBytes:
    """The client's bytes before there is a :class:`~sidecar.transport.direction.Direction`, and what is known of its
    end.

    ``readable``, ``fin`` and ``exhaust`` are as there, and handed on to it.
    """

    __slots__ = ("_counted", "_detector", "data", "exhaust", "fin", "readable")

    def __init__(self) -> None:
        self.data: bytes | bytearray = b""
        self.readable = True  # nobody has asked yet
        self.fin = False
        self.exhaust = False
        self._detector: Detector | None = None
        self._counted = 0  # bytes that are awaiting a decision, in the account of all connections

    def note(self, events: int) -> None:
        """Take down what the loop reports of the client."""
        if events & READ_EVENTS:
            self.readable = True
            if events & END_EVENTS:
                self.fin = self.fin or bool(events & ENDED)
                self.exhaust = self.exhaust or bool(events & URGENT)

    def read(self, client: SocketType, shop: Workshop) -> Detection | None:
        """Read what is there, until it decides; None: more must come. Raises OSError when the client has reset it."""
        while self.readable:
            try:
                size = client.recv_into(shop.buffer)
            except BlockingIOError:
                self.readable = False
                return None
            if size == 0:
                # The FIN is relayed later: a socket that has had one goes on reading 0.
                return self.finish(Reason.EOF)
            if size < BUFFER_SIZE and not (self.fin or self.exhaust):
                self.readable = False
            detection = self._add(bytes(shop.view[:size]), shop)
            if detection is not None:
                return detection
        return None

    @property
    def awaits_server(self) -> bool:
        """Whether the client may wait for a word of the server's before it says which host it wants."""
        return self._detector is not None and self._detector.awaits_server

    def finish(self, reason: Reason) -> Detection:
        """No more bytes will come, or be waited for: what is known so far."""
        return (self._detector or Detector()).finish(reason)

    def decided(self, shop: Workshop) -> None:
        """No more bytes are awaited: take them off the account of all connections."""
        shop.first_bytes -= self._counted
        self._counted = 0

    def _add(self, fresh: bytes, shop: Workshop) -> Detection | None:
        """Show the detector what is new, once it is enough for it to get on."""
        detector = self._detector
        if detector is None:
            self.data = fresh
            detection = detect_repeated(fresh)
            if detection is not None:
                return detection
            self._detector = detector = Detector()
            self.data = bytearray(fresh)
            self._count(len(fresh), shop)
            return detector.feed(fresh) or self._unless_all_have_too_many(shop)
        self.data += fresh
        self._count(len(fresh), shop)
        have = len(self.data)
        if have < detector.needed and have < FIRST_BYTES_LIMIT:
            return self._unless_all_have_too_many(shop)
        detection = detector.feed(self.data[detector.seen :])
        if detection is None and have >= FIRST_BYTES_LIMIT:
            return detector.finish(Reason.LIMIT)
        return detection or self._unless_all_have_too_many(shop)

    def _count(self, size: int, shop: Workshop) -> None:
        self._counted += size
        shop.first_bytes += size

    def _unless_all_have_too_many(self, shop: Workshop) -> Detection | None:
        return self.finish(Reason.LIMIT) if shop.first_bytes > ALL_FIRST_BYTES else None
