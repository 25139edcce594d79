"""Reads the first bytes of a client until the protocol is known, and keeps them for the server.

The bytes are read, not peeked: MSG_PEEK is limited by the receive buffer (``net.ipv4.tcp_rmem``, per namespace), so a
64 KiB ClientHello in a Pod with a small buffer would never be seen whole. Most clients have sent their first bytes
before they are accepted: then the first read decides, and no :class:`Detector` is made.
"""

from __future__ import annotations

from socket import SocketType
from typing import Final, Protocol

from datapath.protocols.detect import Detection, Detector, Reason, detect_repeated
from datapath.protocols.sniff import awaits_answer
from datapath.sockets import acknowledge
from sidecar.transport.loop import END_EVENTS, ENDED, FAILURE, READ_EVENTS, URGENT
from sidecar.transport.loop_context import BUFFER_SIZE, LoopContext
from sidecar.transport.timers import Timers

FIRST_BYTES_LIMIT: Final = 1 << 17
"""Maximum of bytes kept during detection. The detector's own limit is lower; this module does not rely on it."""
ALL_FIRST_BYTES: Final = 16 << 20
"""The same for all connections together, whose detectors may keep a second copy. Hellos in two segments have 2 KiB, so
8,000 of them can be pending at once; beyond that, connections are classified by port."""


_GREETED_S: Final = 0.02
"""Seconds to wait for a client that has sent the HTTP/2 preface without a request: it may wait for the server."""


class SnifferOwner(Protocol):
    """The connection that receives the result of detection."""

    def detected(self, detection: Detection) -> None:
        """The bytes suffice, or no more are awaited."""

    def client_reset(self) -> None:
        """The client has reset the connection."""

    def crashed(self, error: Exception) -> None:
        """A handler raised: clean up. Must not raise."""


class PendingDetections:
    """The pending detections of a loop: their deadlines, and the number of bytes they hold."""

    def __init__(self, loop_context: LoopContext, timers: Timers, timeout: float) -> None:
        """``timeout``: seconds that a client may take."""
        self.loop_context = loop_context
        self.size = 0
        self._silent = timers.queue(timeout, Sniffer.timed_out)
        self._greeted = timers.queue(min(_GREETED_S, timeout), Sniffer.timed_out)

    def add(self, size: int) -> None:
        """Add this number of bytes, which may be negative."""
        self.size += size

    def begin(self, first: Sniffer) -> None:
        """Start the timeout of a detection."""
        self._silent.add(first)

    def greeted(self, first: Sniffer) -> None:
        """The client may be waiting for the server: start the shorter timeout."""
        self._greeted.add(first)

    def end(self, first: Sniffer) -> None:
        """Stop the timeout of a detection."""
        self._silent.discard(first)
        self._greeted.discard(first)


class Sniffer:
    """The client's bytes before there is a :class:`~sidecar.transport.direction.Direction`, and the state of its end.

    Until then it is the loop's handler of the client's descriptor. ``readable``, ``fin`` and ``exhaust`` have the
    meaning they have there, and are handed over.
    """

    __slots__ = ("_all", "_client", "_counted", "_detector", "_owner", "_waits", "data", "exhaust", "fin", "readable")

    def __init__(self, pending_detections: PendingDetections, owner: SnifferOwner, client: SocketType) -> None:
        self._all = pending_detections
        self._owner = owner
        self._client = client
        self.data: bytes | bytearray = b""
        self.readable = True  # not tried yet
        self.fin = False
        self.exhaust = False
        self._detector: Detector | None = None
        self._counted = 0  # bytes counted as pending among all connections
        self._waits = False  # for more bytes

    def begin(self) -> None:
        """Read the available bytes, and wait for more unless they decide."""
        try:
            detection = self._read()
        except OSError:
            self._owner.client_reset()
            return
        # After the read, so that the bytes read raise no event; the kernel reports any that arrived since.
        self._all.loop_context.loop.watch(self._client.fileno(), self)
        if detection is not None:
            self._decide(detection)
        else:
            self._waits = True
            self._all.begin(self)
            self._wait_for_more()

    def on_events(self, events: int) -> None:
        """Record the events of the client's socket, and read."""
        if events & READ_EVENTS:
            self.readable = True
            if events & END_EVENTS:
                self.fin = self.fin or bool(events & ENDED)
                self.exhaust = self.exhaust or bool(events & URGENT)
        if not self._waits:
            if events & FAILURE:
                self._owner.client_reset()
        elif events & READ_EVENTS:
            try:
                detection = self._read()
            except OSError:
                self._owner.client_reset()
                return
            if detection is not None:
                self._decide(detection)
            else:
                self._wait_for_more()

    def on_turn(self) -> None:
        """Not used: detection is bounded and handles all available bytes at once."""

    def crashed(self, error: Exception) -> None:
        """Pass a fault to the connection."""
        self._owner.crashed(error)

    def timed_out(self) -> None:
        """The client sent too little in time: a server-first protocol, or a slow client."""
        self._decide(self.finish(Reason.TIMEOUT))

    def stop(self) -> None:
        """No more bytes are awaited: stop counting those held as pending."""
        if self._waits:
            self._waits = False
            self._all.end(self)
        self._all.add(-self._counted)
        self._counted = 0

    def _decide(self, detection: Detection) -> None:
        self.stop()
        if not awaits_answer(self.data):
            acknowledge(self._client)
        self._owner.detected(detection)

    def _wait_for_more(self) -> None:
        """Wait for the client's next bytes, for a shorter time if the client may be waiting for the server."""
        if self.data:
            acknowledge(self._client)
        if self._detector is not None and self._detector.awaits_server:
            self._all.greeted(self)

    def _read(self) -> Detection | None:
        """Read the available bytes until they decide; None: more are needed. Raises OSError if the client has reset."""
        loop_context = self._all.loop_context
        while self.readable:
            try:
                size = self._client.recv_into(loop_context.buffer)
            except BlockingIOError:
                self.readable = False
                return None
            if size == 0:
                # The FIN is relayed later: the socket keeps reading 0 after it.
                return self.finish(Reason.EOF)
            if size < BUFFER_SIZE and not (self.fin or self.exhaust):
                self.readable = False
            detection = self._add(bytes(loop_context.view[:size]))
            if detection is not None:
                return detection
        return None

    def finish(self, reason: Reason) -> Detection:
        """No more bytes will come, or be awaited: return what is known so far."""
        return (self._detector or Detector()).finish(reason)

    def _add(self, fresh: bytes) -> Detection | None:
        """Pass new bytes to the detector, once there are enough for it to make progress."""
        detector = self._detector
        if detector is None:
            self.data = fresh
            detection = detect_repeated(fresh)
            if detection is not None:
                return detection
            self._detector = detector = Detector()
            self.data = bytearray(fresh)
            self._count(len(fresh))
            return detector.feed(fresh) or self._unless_all_have_too_many()
        self.data += fresh
        self._count(len(fresh))
        have = len(self.data)
        if have < detector.needed and have < FIRST_BYTES_LIMIT:
            return self._unless_all_have_too_many()
        detection = detector.feed(self.data[detector.seen :])
        if detection is None and have >= FIRST_BYTES_LIMIT:
            return detector.finish(Reason.LIMIT)
        return detection or self._unless_all_have_too_many()

    def _count(self, size: int) -> None:
        self._counted += size
        self._all.add(size)

    def _unless_all_have_too_many(self) -> Detection | None:
        return self.finish(Reason.LIMIT) if self._all.size > ALL_FIRST_BYTES else None
