"""The server's end of an HTTP/2 connection, without I/O: bytes in, events and bytes out (RFC 9113).

It is made for thousands of connections with one long stream each, and so knows only what a server of gRPC needs: no
push, no priorities, no upgrade. The library h2 does all of that, and takes three times as long.

What a client sends is taken to be hostile. Whatever it is, memory stays within what the constants here say, and the
answer is an event, a reset stream, or GOAWAY.
"""

from __future__ import annotations

from struct import unpack_from
from typing import Final

from control_plane.gateway import frames
from control_plane.gateway.field_blocks import MAX_FIELDS, FieldBlocks, Fields
from control_plane.gateway.fields import MalformedFieldsError, check_trailers, request_fields
from control_plane.gateway.frames import DEFAULT_WINDOW, MAX_FRAME, MAX_WINDOW, ErrorCode, Http2Error, Setting
from control_plane.gateway.streams import BodyReceived, Http2Event, Http2Stream, RequestBegun, RequestReset

MAX_STREAMS: Final = 4
"""Calls at the same time on one connection."""
MAX_CHARGE: Final = 500
"""Frames that carry no data, between two calls of :meth:`Http2Connection.forgive`.

A new stream counts as ten, and as ten more when the client resets it.
"""
MAX_UNSENT_CONTROL: Final = 16 << 10
"""Bytes of answers to such frames that the client has not taken."""
_STREAM_CHARGE: Final = 10
_BYTES_CHARGED: Final = 64
"""Bytes of fields that count as one more: to decode 16 KiB takes milliseconds."""
_REMEMBERED: Final = 16
"""Closed streams that are told from those that never were."""
_SETTINGS: Final = frames.settings_frame(
    {Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS, Setting.MAX_HEADER_LIST_SIZE: MAX_FIELDS}
)
_LOW_WINDOW: Final = DEFAULT_WINDOW // 2
"""Whoever gets data takes it at once, and half a window has room for any frame: a client cannot send too much."""


class _StreamError(Exception):
    def __init__(self, number: int, code: ErrorCode) -> None:
        self.number = number
        self.code = code


class Http2Connection:
    """One connection. After :meth:`receive` or anything that sends, send what :meth:`take` gives."""

    __slots__ = (
        "_began",
        "_blocks",
        "_charge",
        "_closed_streams",
        "_control",
        "_first_window",
        "_held",
        "_last",
        "_leaving",
        "_streams",
        "_window_in",
        "_window_out",
        "failure",
        "going",
    )

    def __init__(self) -> None:
        self.failure: str | None = None
        """Why the client was told GOAWAY. Nothing is received any more."""
        self.going = False
        """No more requests come: one side has said GOAWAY."""
        self._control = bytearray(_SETTINGS)
        self._began = 0
        """0: the preface is awaited, 1: the client's settings, 2: anything."""
        self._held = b""
        self._streams: dict[int, Http2Stream] = {}
        self._closed_streams: dict[int, bool] = {}
        """The last ones, and whether it was us who ended them while the client may still have been sending."""
        self._last = 0
        self._leaving = False
        """The client is yet to be told that we go."""
        self._blocks = FieldBlocks()
        self._window_in = DEFAULT_WINDOW
        self._window_out = DEFAULT_WINDOW
        self._first_window = DEFAULT_WINDOW
        self._charge = 0

    @property
    def finished(self) -> bool:
        """Whether the connection may be closed as soon as all was sent."""
        return self.failure is not None or (self.going and not self._streams)

    @property
    def answers(self) -> bool:
        """Whether there are frames to send that no window holds back."""
        return bool(self._control)

    @property
    def unsent(self) -> bool:
        """Whether a body waits to be sent."""
        return any(stream.unsent for stream in self._streams.values())

    def forgive(self) -> None:
        """Let the client send frames without data again. To be called once a second."""
        self._charge = 0

    # What comes

    def receive(self, data: bytes) -> list[Http2Event]:
        """What is in the bytes that came."""
        events: list[Http2Event] = []
        if self.failure is not None:
            return events
        if self._held:
            data = self._held + data
        at, size = 0, len(data)
        try:
            if self._began == 0:
                at = self._receive_preface(data)
                if not at:
                    return events
            while size - at >= 9:
                high, low, kind, flags, number = frames.FRAME_HEADER.unpack_from(data, at)
                length = high << 8 | low
                if length > MAX_FRAME:
                    raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame is too large")
                start = at + 9
                at = start + length
                if at > size:
                    at = start - 9
                    break
                self._receive_frame(kind, flags, number & MAX_WINDOW, data[start:at], events)
        except Http2Error as error:
            self._fail(error.code, str(error))
        else:
            self._held = data[at:]
        return events

    def _receive_preface(self, data: bytes) -> int:
        size = len(frames.PREFACE)
        if data[:size] != frames.PREFACE[: len(data)]:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        if len(data) < size:
            self._held = data
            return 0
        self._began = 1
        return size

    def _receive_frame(self, kind: int, flags: int, number: int, payload: bytes, events: list[Http2Event]) -> None:
        if self._blocks.number and (kind != frames.CONTINUATION or number != self._blocks.number):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame is between HEADERS and CONTINUATION")
        if self._began == 1:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "SETTINGS must come first")
            self._began = 2
        try:
            if kind == frames.DATA:
                self._receive_data(flags, number, payload, events)
                return
            self._count(1)
            if kind == frames.WINDOW_UPDATE:
                self._receive_window(number, payload)
            elif kind == frames.HEADERS:
                self._receive_headers(flags, number, payload, events)
            elif kind == frames.CONTINUATION:
                self._receive_continuation(flags, payload, events)
            elif kind == frames.PING:
                self._receive_ping(flags, number, payload)
            elif kind == frames.SETTINGS:
                self._receive_settings(flags, number, payload)
            elif kind == frames.RST_STREAM:
                self._receive_reset(number, payload, events)
            elif kind == frames.PRIORITY:
                self._receive_priority(number, payload)
            elif kind == frames.GOAWAY:
                self._receive_goaway(number, payload)
            elif kind == frames.PUSH_PROMISE:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "clients promise nothing")
        except _StreamError as error:
            stream = self._streams.get(error.number)
            if stream is not None:
                self.reset(stream, error.code)
                events.append(RequestReset(stream))
            else:
                self._control += frames.rst_stream(error.number, error.code)
                self._remember(error.number, ours=True)
        if len(self._control) > MAX_UNSENT_CONTROL:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "the client does not take answers")

    def _count(self, charge: int) -> None:
        self._charge += charge
        if self._charge > MAX_CHARGE:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without data")

    def _receive_data(self, flags: int, number: int, payload: bytes, events: list[Http2Event]) -> None:
        size = len(payload)
        stream = self._streams.get(number)
        if stream is None:
            self._check_not_idle(number, "DATA")
        self._window_in -= size
        if self._window_in < _LOW_WINDOW:
            self._control += frames.window_update(0, DEFAULT_WINDOW - self._window_in)
            self._window_in = DEFAULT_WINDOW
        if flags & frames.PADDED:
            payload = _without_padding(payload)
        if stream is None or stream.request_ended:
            self._count(1)
            if not self._closed_streams.get(number):
                raise _StreamError(number, ErrorCode.STREAM_CLOSED)
            return
        ends = flags & frames.END_STREAM
        if not payload and not ends:
            self._count(1)
        if stream.body_left is not None:
            stream.body_left -= len(payload)
            if stream.body_left < 0 or (ends and stream.body_left):
                raise _StreamError(number, ErrorCode.PROTOCOL_ERROR)
        stream.window_in -= size
        if ends:
            stream.request_ended = True
        elif stream.window_in < _LOW_WINDOW:
            self._control += frames.window_update(number, DEFAULT_WINDOW - stream.window_in)
            stream.window_in = DEFAULT_WINDOW
        if payload or ends:
            events.append(BodyReceived(stream, payload, bool(ends)))

    def _check_not_idle(self, number: int, what: str) -> None:
        if number == 0 or number > self._last or not number & 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"{what} for a stream that was not opened")

    def _receive_headers(self, flags: int, number: int, payload: bytes, events: list[Http2Event]) -> None:
        if not number & 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "clients open streams with odd numbers")
        if flags & frames.PADDED:
            payload = _without_padding(payload)
        depends_on_itself = False
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "HEADERS are too short for their priority")
            depends_on_itself = int.from_bytes(payload[:4], "big") & MAX_WINDOW == number
            payload = payload[5:]
        if depends_on_itself:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        self._blocks.begin(number, payload, ends_stream=bool(flags & frames.END_STREAM))
        if flags & frames.END_HEADERS:
            self._receive_fields(events)

    def _receive_continuation(self, flags: int, payload: bytes, events: list[Http2Event]) -> None:
        self._blocks.go_on(payload)
        if flags & frames.END_HEADERS:
            self._receive_fields(events)

    def _receive_fields(self, events: list[Http2Event]) -> None:
        """All fields of a request, or of its trailers. They are decoded in any case: later ones refer to them."""
        number, ends_stream = self._blocks.number, self._blocks.ends_stream
        self._count(_STREAM_CHARGE + self._blocks.size // _BYTES_CHARGED)
        fields = self._blocks.finish()
        stream = self._streams.get(number)
        if stream is not None:
            self._receive_trailers(stream, fields, ends_stream)
            events.append(BodyReceived(stream, b"", ended=True))
        elif number > self._last:
            self._open(number, fields, ends_stream, events)
        elif number not in self._closed_streams:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the number of a new stream is not greater than the last")
        elif not self._closed_streams[number]:
            raise Http2Error(ErrorCode.STREAM_CLOSED, "HEADERS for a stream that has ended")

    def _receive_trailers(self, stream: Http2Stream, fields: Fields, ends_stream: bool) -> None:
        if stream.request_ended:
            raise _StreamError(stream.number, ErrorCode.STREAM_CLOSED)
        try:
            check_trailers(fields)
        except MalformedFieldsError:
            raise _StreamError(stream.number, ErrorCode.PROTOCOL_ERROR) from None
        if not ends_stream or stream.body_left:
            raise _StreamError(stream.number, ErrorCode.PROTOCOL_ERROR)
        stream.request_ended = True

    def _open(self, number: int, fields: Fields, ends_stream: bool, events: list[Http2Event]) -> None:
        self._last = number
        if self.going or len(self._streams) >= MAX_STREAMS:
            raise _StreamError(number, ErrorCode.REFUSED_STREAM)
        try:
            found = request_fields(fields)
        except MalformedFieldsError:
            raise _StreamError(number, ErrorCode.PROTOCOL_ERROR) from None
        stream = Http2Stream(number, self._first_window)
        if b"content-length" in found:
            stream.body_left = int(found[b"content-length"])
        stream.request_ended = ends_stream
        if stream.request_ended and stream.body_left:
            raise _StreamError(number, ErrorCode.PROTOCOL_ERROR)
        self._streams[number] = stream
        events.append(RequestBegun(stream, found))
        if stream.request_ended:
            events.append(BodyReceived(stream, b"", ended=True))

    def _receive_window(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if number == 0:
            if not increment:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            self._window_out += increment
            if self._window_out > MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")
            return
        stream = self._streams.get(number)
        if stream is None:
            self._check_not_idle(number, "WINDOW_UPDATE")
            return
        if not increment:
            raise _StreamError(number, ErrorCode.PROTOCOL_ERROR)
        stream.window_out += increment
        if stream.window_out > MAX_WINDOW:
            raise _StreamError(number, ErrorCode.FLOW_CONTROL_ERROR)

    def _receive_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "PING belongs to no stream")
        if len(payload) != 8:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "PING has eight bytes")
        if not flags & frames.ACK:
            self._control += frames.make_frame(frames.PING, frames.ACK, 0, payload)

    def _receive_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "SETTINGS belong to no stream")
        if flags & frames.ACK:
            if payload:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement has no settings")
            return
        if len(payload) % 6:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a setting has six bytes")
        self._count(len(payload) // 6)
        for at in range(0, len(payload), 6):
            self._change(*unpack_from(">HL", payload, at))
        self._control += frames.make_frame(frames.SETTINGS, frames.ACK, 0)

    def _change(self, setting: int, value: int) -> None:
        """Of the client's settings the first window alone concerns us: we send small frames, and index no fields."""
        if setting == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")
            for stream in self._streams.values():
                stream.window_out += value - self._first_window
                if stream.window_out > MAX_WINDOW:
                    raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")
            self._first_window = value
        elif setting == Setting.ENABLE_PUSH:
            if value > 1:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        elif setting == Setting.MAX_FRAME_SIZE and not MAX_FRAME <= value < 1 << 24:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")

    def _receive_reset(self, number: int, payload: bytes, events: list[Http2Event]) -> None:
        if len(payload) != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        self._check_not_idle(number, "RST_STREAM")
        self._count(_STREAM_CHARGE)
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._remember(number, ours=False)
            events.append(RequestReset(stream))

    def _receive_priority(self, number: int, payload: bytes) -> None:
        """Ignored, but for its form."""
        if number == 0:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "PRIORITY belongs to a stream")
        if len(payload) != 5:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has five bytes")
        if int.from_bytes(payload[:4], "big") & MAX_WINDOW == number:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")

    def _receive_goaway(self, number: int, payload: bytes) -> None:
        if number:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "GOAWAY belongs to no stream")
        if len(payload) < 8:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has eight bytes")
        self.going = True

    def _fail(self, code: ErrorCode, reason: str) -> None:
        self.failure = reason
        self._held = b""
        self._streams.clear()
        if len(self._control) > MAX_UNSENT_CONTROL:
            self._control.clear()
        self._control += frames.goaway(self._last, code, reason)

    def _remember(self, number: int, *, ours: bool) -> None:
        closed = self._closed_streams
        closed[number] = ours
        if len(closed) > _REMEMBERED:
            del closed[next(iter(closed))]

    # What goes

    def answer(self, stream: Http2Stream, block: bytes, *, last: bool = False) -> None:
        """Send the head of the answer, as :func:`~control_plane.gateway.fields.encode_fields` makes it.

        ``last``: it is all there is.
        """
        if self._streams.get(stream.number) is not stream:
            return
        flags = frames.END_HEADERS | (frames.END_STREAM if last else 0)
        self._control += frames.make_frame(frames.HEADERS, flags, stream.number, block)
        if last:
            self._end(stream)

    def send(self, stream: Http2Stream, data: bytes) -> None:
        """Send a part of the body as soon as the client takes it. ``data`` is kept until then."""
        if self._streams.get(stream.number) is stream:
            stream.append(data)

    def end(self, stream: Http2Stream, trailers: bytes) -> None:
        """End the answer when the client has taken its body."""
        stream.trailers = trailers

    def reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        """Give the stream up, and what is queued."""
        if self._streams.pop(stream.number, None) is not None:
            self._control += frames.rst_stream(stream.number, code)
            self._remember(stream.number, ours=True)

    def go_away(self) -> None:
        """Take no more requests. GOAWAY comes when the open ones have ended: h2's client reads nothing after it."""
        self.going = self._leaving = True

    def take(self, size: int) -> bytes:
        """What may be sent now, about ``size`` bytes at most. Empty: nothing, for the time being."""
        pieces: list[bytes | memoryview] = []
        if self._control:
            pieces.append(bytes(self._control))
            size -= len(self._control)
            self._control.clear()
        for stream in tuple(self._streams.values()):
            if stream.unsent:
                taken = stream.take(size, self._window_out, pieces)
                self._window_out -= taken
                size -= taken
            if stream.trailers is not None and not stream.unsent:
                flags = frames.END_HEADERS | frames.END_STREAM
                pieces.append(frames.make_frame(frames.HEADERS, flags, stream.number, stream.trailers))
                self._end(stream)
        if self._leaving and not self._streams:
            self._leaving = False
            self._control += frames.goaway(self._last, ErrorCode.NO_ERROR)
        if self._control:  # that, and RST_STREAM after trailers
            pieces.append(bytes(self._control))
            self._control.clear()
        return b"".join(pieces)

    def _end(self, stream: Http2Stream) -> None:
        del self._streams[stream.number]
        if not stream.request_ended:
            self._control += frames.rst_stream(stream.number, ErrorCode.NO_ERROR)
        self._remember(stream.number, ours=not stream.request_ended)


def _without_padding(payload: bytes) -> bytes:
    """RFC 9113 6.1."""
    if not payload or payload[0] >= len(payload):
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]
