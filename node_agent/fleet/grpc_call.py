"""One gRPC call on an HTTP/2 connection of its own, the client's side. No I/O, so that a thousand simulated agents
share it with the real one.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from fleet_api.framing import FramingError, GrpcUnframer, frame
from fleet_api.limits import MAX_TO_AGENT
from node_agent.fleet.errors import CallEndedError

_WINDOW: Final = 1 << 20
"""Bytes that the other side may send before we have said that we took them."""
_LONGEST_REASON: Final = 1000
_BY_HTTP_STATUS: Final = {"400": 13, "401": 16, "403": 7, "404": 12, "429": 14, "502": 14, "503": 14, "504": 14}
"""https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md"""
_UNAVAILABLE: Final = 14
_UNKNOWN: Final = 2

Headers = list[tuple[str, str]]


class GrpcCall:
    """Give it what arrives by :meth:`receive`, and send what :meth:`to_send` gives after each other call."""

    def __init__(self, authority: str, method: str, user_agent: str) -> None:
        """``method`` as :data:`fleet_api.limits.CONNECT`."""
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        ours: dict[SettingCodes, int] = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW}
        self._h2.local_settings = Settings(client=True, initial_values=ours)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW)
        self._stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(
            self._stream,
            [
                (":method", "POST"),
                (":scheme", "https"),
                (":path", method),
                (":authority", authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", user_agent),
            ],
        )
        self._unframer = GrpcUnframer(MAX_TO_AGENT)
        self._unsent = bytearray()
        self._finishing = False
        self._going_away = ""

    @property
    def unsent(self) -> int:
        """Bytes of messages for which the other side's windows have no room yet."""
        return len(self._unsent)

    @property
    def going_away(self) -> str:
        """Why the other side has asked for another connection; empty: it has not. This one goes on until it ends."""
        return self._going_away

    def send(self, message: bytes, *, last: bool = False) -> None:
        """Send a message, as far as there is room."""
        self._unsent += frame(message)
        self._finishing = self._finishing or last
        self._push()

    def ping(self) -> None:
        """Ask for a sign of life (RFC 9113 section 6.7)."""
        self._h2.ping(b"podlane?")

    def close(self) -> None:
        """Say goodbye."""
        self._h2.close_connection()

    def to_send(self) -> bytes:
        """What is to go out now."""
        data: bytes = self._h2.data_to_send()
        return data

    def receive(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete with these bytes; none: the connection was closed.

        Raises :class:`CallEndedError` at the call's end, however it came.
        """
        if not data:
            raise CallEndedError(_UNAVAILABLE, self._going_away or "The control plane has closed the connection.")
        try:
            events = self._h2.receive_data(data)
            for event in events:
                yield from self._take(event)
            self._push()
        except ProtocolError as error:
            raise CallEndedError(_UNKNOWN, f"It does not speak HTTP/2 as it should: {error}.") from None
        except FramingError as error:
            raise CallEndedError(error.status, str(error)) from None

    def _take(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, DataReceived):
            if event.flow_controlled_length:
                self._h2.acknowledge_received_data(event.flow_controlled_length, self._stream)
            yield from self._unframer.feed(event.data or b"")
        elif isinstance(event, ResponseReceived):
            _check_head(dict(_texts(event.headers)))
        elif isinstance(event, TrailersReceived):
            raise _ended(dict(_texts(event.headers)))
        elif isinstance(event, StreamEnded):
            raise CallEndedError(_UNKNOWN, "The call ended without a status.")
        elif isinstance(event, StreamReset):
            raise CallEndedError(_UNAVAILABLE, f"The call was cut ({_name(event.error_code)}).")
        elif isinstance(event, ConnectionTerminated):
            said = (event.additional_data or b"").decode("utf-8", "replace")
            self._going_away = f"The control plane is closing the connection ({said or _name(event.error_code)})."
            if event.error_code != ErrorCodes.NO_ERROR or not self._is_kept(event.last_stream_id):
                raise CallEndedError(_UNAVAILABLE, self._going_away)

    def _is_kept(self, last_stream: int | None) -> bool:
        return last_stream is None or last_stream >= self._stream

    def _push(self) -> None:
        while self._unsent:
            room = min(self._h2.local_flow_control_window(self._stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            part = bytes(self._unsent[:room])
            del self._unsent[: len(part)]
            self._h2.send_data(self._stream, part, end_stream=self._finishing and not self._unsent)


def _texts(headers: object) -> Headers:
    found: Headers = []
    for name, value in headers or ():  # type: ignore[attr-defined]
        found.append((_text(name), _text(value)))
    return found


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _check_head(headers: dict[str, str]) -> None:
    """Raises :class:`CallEndedError` for what is no answer of gRPC, and for trailers alone."""
    status = headers.get(":status", "")
    if "grpc-status" in headers:
        raise _ended(headers)
    if status != "200":
        raise CallEndedError(_BY_HTTP_STATUS.get(status, _UNKNOWN), f"It answers with the HTTP status {status}.")
    if not headers.get("content-type", "").startswith("application/grpc"):
        raise CallEndedError(_UNKNOWN, "It answers, but not by gRPC. Is this the agents' port of a control plane?")


def _ended(headers: dict[str, str]) -> CallEndedError:
    status = headers.get("grpc-status", "")
    message = unquote(headers.get("grpc-message", ""), errors="replace")[:_LONGEST_REASON]
    return CallEndedError(int(status) if status.isascii() and status.isdecimal() else _UNKNOWN, message)


def _name(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else f"error {code}"
