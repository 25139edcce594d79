"""Calls of gRPC on one connection, between streams of HTTP/2 and who answers them."""

from __future__ import annotations

from typing import Final, Protocol

from control_plane.gateway import grpc_fields
from control_plane.gateway.frames import ErrorCode
from control_plane.gateway.http2 import Http2Connection
from control_plane.gateway.rpc import CallHandler, CallListener, GrpcStatus, Peer, RpcError
from control_plane.gateway.streams import Http2Stream
from control_plane.gateway.turns import Turns, TurnTimer
from fleet_api.framing import FramingError, GrpcUnframer, frame
from fleet_api.limits import MAX_FROM_AGENT, MAX_TO_AGENT

MAX_UNARY: Final = 64 << 10
"""Bytes of a message that may come from who has no certificate."""
MAX_UNSENT: Final = 2 * MAX_TO_AGENT
"""Bytes that may wait for an agent. Who sends more has not looked at :attr:`~control_plane.gateway.rpc.Call.unsent`."""


class CallCarrier(Protocol):
    """The connection, as a call sees it."""

    @property
    def turns(self) -> Turns: ...

    @property
    def http(self) -> Http2Connection: ...

    @property
    def peer(self) -> Peer: ...

    @property
    def unwritten(self) -> int:
        """Bytes that the kernel has not taken."""

    def flush_soon(self) -> None: ...

    def leave(self, stream: Http2Stream) -> None:
        """The call of this stream is over."""


class StreamCall:
    """A stream of messages in both directions: the :class:`~control_plane.gateway.rpc.Call` of the contract."""

    def __init__(self, carrier: CallCarrier, stream: Http2Stream) -> None:
        self._carrier = carrier
        self._stream = stream
        self._unframer = GrpcUnframer(MAX_FROM_AGENT)
        self._listener: CallListener | None = None
        self._answered = False
        self._ended = False
        self._undrained = False
        self._timer: TurnTimer | None = None

    def open(self, handler: CallHandler, method: str, timeout: float | None) -> None:
        """Ask who answers for a listener."""
        try:
            listener = handler.opened(method, self)
        except RpcError as error:
            self.end(error.status, str(error))
            return
        self._listener = listener
        if self._ended:
            listener.closed()
            return
        self._answer()
        if timeout is not None:
            self._timer = self._carrier.turns.call_later(timeout, self._late)

    @property
    def peer(self) -> Peer:
        return self._carrier.peer

    @property
    def unsent(self) -> int:
        return self._stream.unsent + self._carrier.unwritten

    def send(self, message: bytes) -> None:
        if self._ended:
            return
        if self._stream.unsent + len(message) > MAX_UNSENT:
            self._carrier.http.reset(self._stream, ErrorCode.ENHANCE_YOUR_CALM)
            self._carrier.flush_soon()
            self.gone()
            return
        self._answer()
        self._undrained = True
        self._carrier.http.send(self._stream, message)
        self._carrier.flush_soon()

    def end(self, status: GrpcStatus = GrpcStatus.OK, message: str = "") -> None:
        if self._ended:
            return
        if self._answered:
            self._carrier.http.end(self._stream, grpc_fields.trailers(status, message))
        else:
            self._carrier.http.answer(self._stream, grpc_fields.refusal(status, message), last=True)
        self._carrier.flush_soon()
        self.gone()

    def received(self, data: bytes, ended: bool) -> int:
        """Bytes of the request, and whether they were the last. How many messages were in them."""
        messages = 0
        try:
            for message in self._unframer.feed(data):
                messages += 1
                if self._listener is not None:
                    self._listener.received(message)
                if self._ended:
                    return messages
            if ended:
                if not self._unframer.between:
                    raise RpcError(GrpcStatus.INVALID_ARGUMENT, "The last message is not whole.")
                self.end()
        except FramingError as error:
            self.end(GrpcStatus(error.status), str(error))
        except RpcError as error:
            self.end(error.status, str(error))
        return messages

    def flushed(self) -> None:
        """The kernel has taken all that the client's windows allow."""
        if self._undrained and not self._stream.unsent and self._listener is not None and not self._ended:
            self._undrained = False
            try:
                self._listener.drained()
            except RpcError as error:
                self.end(error.status, str(error))

    def drain(self) -> None:
        """Make the agent dial another gateway."""
        self.end(GrpcStatus.UNAVAILABLE, "This gateway ends. Dial again: another one answers.")

    def gone(self) -> None:
        """The stream is no more."""
        if not self._ended:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            self._carrier.leave(self._stream)
            # Not at once: whoever ends a call may be going through all of them.
            self._carrier.turns.run_soon(self._tell)

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener.closed()

    def _late(self) -> None:
        self.end(GrpcStatus.DEADLINE_EXCEEDED, "The agent did not want to wait for longer.")

    def _answer(self) -> None:
        if not self._answered:
            self._answered = True
            self._carrier.http.answer(self._stream, grpc_fields.ANSWER)


class UnaryCall:
    """One message, one answer."""

    def __init__(
        self, carrier: CallCarrier, stream: Http2Stream, handler: CallHandler, method: str, timeout: float
    ) -> None:
        self._carrier = carrier
        self._stream = stream
        self._handler = handler
        self._method = method
        self._unframer = GrpcUnframer(MAX_UNARY)
        self._messages: list[bytes] = []
        self._ended = False
        self._timer = carrier.turns.call_later(timeout, self._late)

    def received(self, data: bytes, ended: bool) -> int:
        """Bytes of the request, and whether they were the last. How many messages were in them."""
        before = len(self._messages)
        try:
            for message in self._unframer.feed(data):
                self._messages.append(message)
                if len(self._messages) > 1:
                    raise RpcError(GrpcStatus.INVALID_ARGUMENT, "There is one message in this request.")
            if ended:
                if not self._messages or not self._unframer.between:
                    raise RpcError(GrpcStatus.INVALID_ARGUMENT, "The message is not whole.")
                self._handler.unary(self._method, self._carrier.peer, self._messages[0], self._reply)
        except FramingError as error:
            self._finish(RpcError(GrpcStatus(error.status), str(error)))
        except RpcError as error:
            self._finish(error)
        return len(self._messages) - before

    def flushed(self) -> None:
        """As for streams: of no interest here."""

    def drain(self) -> None:
        """It may end in peace."""

    def gone(self) -> None:
        """The stream is no more."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._carrier.leave(self._stream)

    def _reply(self, answer: bytes | RpcError) -> None:
        self._carrier.turns.run_soon(lambda: self._finish(answer))

    def _late(self) -> None:
        self._finish(RpcError(GrpcStatus.DEADLINE_EXCEEDED, "This took too long. Try again later."))

    def _finish(self, answer: bytes | RpcError) -> None:
        if self._ended:
            return
        http, stream = self._carrier.http, self._stream
        if isinstance(answer, RpcError):
            http.answer(stream, grpc_fields.refusal(answer.status, str(answer)), last=True)
        else:
            http.answer(stream, grpc_fields.ANSWER)
            http.send(stream, frame(answer))
            http.end(stream, grpc_fields.trailers(GrpcStatus.OK))
        self._carrier.flush_soon()
        self.gone()
