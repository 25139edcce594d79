"""The server's side of an HTTP/2 connection, by h2. Imported lazily, since usual requests do not need it."""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from h2.exceptions import ProtocolError

Fields = list[tuple[bytes, bytes]]


class MalformedStreamError(Exception):
    """The peer violates the protocol; the text has the reason."""


class H2Stream:
    """Receives the preface, then frame by frame."""

    __slots__ = ("_connection",)

    def __init__(self) -> None:
        self._connection = H2Connection(
            H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
        )
        self._connection.initiate_connection()

    def receive(self, frame: bytes) -> Fields | None:
        """The fields of a request, when this frame completes one. Raises :class:`MalformedStreamError`."""
        try:
            events = self._connection.receive_data(frame)
        except ProtocolError as error:
            raise MalformedStreamError(str(error)) from None
        self._connection.clear_outbound_data_buffer()
        for event in events:
            if isinstance(event, RequestReceived):
                return [(bytes(name), bytes(value)) for name, value in event.headers]
        return None
