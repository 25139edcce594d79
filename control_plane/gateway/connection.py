"""One connection to the agents' port: TLS on a socket that does not block, HTTP/2, and the calls on it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Final

from control_plane.gateway import grpc_fields
from control_plane.gateway.admission import Admission
from control_plane.gateway.calls import StreamCall, UnaryCall
from control_plane.gateway.grpc_fields import NotGrpcError
from control_plane.gateway.http2 import Http2Connection
from control_plane.gateway.limits import GatewayLimits
from control_plane.gateway.rpc import CallHandler, GrpcStatus, Peer, RpcError
from control_plane.gateway.streams import BodyReceived, Http2Event, Http2Stream, RequestBegun
from control_plane.gateway.turns import Turns
from daemon.log import Logger

_RECORD: Final = 16 << 10
"""Bytes of TLS's largest record. A read gives no more than one."""
_RECORDS_AT_ONCE: Final = 4
"""How many are sent before others have their turn."""

log = Logger(spacing=1.0)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all connections of a gateway share, and whom they tell of their handshake and of their end."""

    turns: Turns
    handler: CallHandler
    streams: frozenset[str]
    limits: GatewayLimits
    admission: Admission
    opened: Callable[[AgentConnection], None]
    closed: Callable[[AgentConnection], None]
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_RECORD)))


class AgentConnection:
    """Owns its socket. Its calls hear of its end."""

    __slots__ = (
        "_address",
        "_around",
        "_begun",
        "_blocked",
        "_calls",
        "_closed",
        "_descriptor",
        "_events",
        "_flushing",
        "_heard",
        "_lingers",
        "_messages",
        "_moved",
        "_open",
        "_paused",
        "_socket",
        "_stuck",
        "_unwritten",
        "http",
        "peer",
        "turns",
    )

    def __init__(self, plain: socket.socket, address: str, context: ssl.SSLContext, around: Surroundings) -> None:
        """Takes ``plain`` over. Raises OSError if it is closed already."""
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._around = around
        self._address = address
        self._descriptor = self._socket.fileno()
        self._open = False
        self._closed = False
        self._lingers = False
        self._paused = False
        self._blocked = False
        self._flushing = False
        self._stuck = False
        self._unwritten = b""
        self._messages = 0
        self._calls: dict[int, StreamCall | UnaryCall] = {}
        self.http = Http2Connection()
        self.turns = around.turns
        self.peer = Peer(address)
        self._begun = self._heard = self._moved = self.turns.now
        self._events = EPOLLIN
        self.turns.watch(self._descriptor, EPOLLIN, self._ready)

    @property
    def unwritten(self) -> int:
        """Bytes that the kernel has not taken."""
        return len(self._unwritten)

    def flush_soon(self) -> None:
        """Send when the turn's other work is done: all at once, then."""
        if not self._flushing:
            self._flushing = True
            self.turns.run_soon(self._flush)

    def leave(self, stream: Http2Stream) -> None:
        """The call of this stream is over."""
        self._calls.pop(stream.number, None)

    def drain(self) -> None:
        """Take no more calls, and end what would not end by itself."""
        if not self._open:
            self.close()
            return
        self.http.go_away()
        for call in tuple(self._calls.values()):
            call.drain()
        self.flush_soon()

    def look_after(self, now: float) -> None:
        """Once a second: what has to be ended, what may go on."""
        limits = self._around.limits
        self._messages = 0
        self.http.forgive()
        if self._lingers:
            late = now > self._moved + limits.linger
        elif not self._open:
            late = now > self._begun + limits.handshake_time
        else:
            late = now > self._heard + limits.silence or (self._stuck and now > self._moved + limits.silence)
            if not self.peer.certificate:
                late |= now > self._begun + limits.unproven_time
        if late:
            self.close()
        elif self._paused:
            self._paused = False
            self._wait()

    def close(self) -> None:
        """Now, whatever is unsent."""
        if self._closed:
            return
        self._closed = True
        self.turns.forget(self._descriptor)
        self._socket.close()
        self._unwritten = b""
        self._end_calls()
        self._around.closed(self)

    def _end_calls(self) -> None:
        for call in tuple(self._calls.values()):
            call.gone()

    def _ready(self, events: int) -> None:
        try:
            if self._lingers:
                self._discard()
            elif not self._open:
                self._shake_hands()
            elif self._paused and events & (EPOLLHUP | EPOLLERR):
                self.close()
            else:
                if events & EPOLLOUT:
                    self._flush()
                if events & ~EPOLLOUT and not self._closed and not self._lingers:
                    self._receive()
        except Exception as error:  # one connection's fault must not end all others
            log.error("a fault in a connection to an agent", peer=self._address, exc_info=error)
            self.close()

    def _shake_hands(self) -> None:
        if not self._around.admission.may_shake(self.turns.begun):
            return  # it is ready in the next turn, too
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._blocked = False
        except ssl.SSLWantWriteError:
            self._blocked = True
        except OSError as error:
            log.info("no handshake with an agent", peer=self._address, error=str(error))
            self.close()
            return
        else:
            self._blocked = False
            self._opened()
        if not self._closed:
            self._wait()

    def _opened(self) -> None:
        if self._socket.selected_alpn_protocol() != "h2":
            log.info("a peer does not speak HTTP/2", peer=self._address)
            self.close()
            return
        certificate = self._socket.getpeercert(binary_form=True) or b""
        self._open = True
        self.peer = Peer(self._address, certificate)
        self._heard = self._moved = self.turns.now
        self._around.opened(self)
        self._receive()
        if not self._closed:
            self.flush_soon()

    def _receive(self) -> None:
        try:
            size = self._socket.recv_into(self._around.buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            size = 0
        if not size:
            self.close()
            return
        self._heard = self.turns.now
        for event in self.http.receive(bytes(self._around.buffer[:size])):
            self._take(event)
        if self.http.failure is not None:
            log.info("an agent breaks the rules of HTTP/2", peer=self._address, error=self.http.failure)
            self._end_calls()
        if self._stuck or self.http.answers or self.http.finished:
            self.flush_soon()
        if self._messages > self._around.limits.messages:
            self._paused = True
            self._wait()

    def _take(self, event: Http2Event) -> None:
        number = event.stream.number
        if isinstance(event, BodyReceived):
            call = self._calls.get(number)
            if call is not None:
                self._messages += call.received(event.data, event.ended)
        elif isinstance(event, RequestBegun):
            self._begin(event)
        else:
            call = self._calls.get(number)
            if call is not None:
                call.gone()

    def _begin(self, event: RequestBegun) -> None:
        stream, around = event.stream, self._around
        try:
            request = grpc_fields.read_request(event.fields)
            if request.method in around.streams:
                if not self.peer.certificate:
                    raise RpcError(GrpcStatus.UNAUTHENTICATED, "This needs the agent's certificate. Enrol first.")
                opened = StreamCall(self, stream)
                self._calls[stream.number] = opened
                opened.open(around.handler, request.method, request.timeout)
            else:
                timeout = around.limits.unary_time
                if request.timeout is not None:
                    timeout = min(timeout, request.timeout)
                self._calls[stream.number] = UnaryCall(self, stream, around.handler, request.method, timeout)
        except NotGrpcError as error:
            self.http.answer(stream, error.block, last=True)
        except RpcError as error:
            self.http.answer(stream, grpc_fields.refusal(error.status, str(error)), last=True)

    def _flush(self) -> None:
        self._flushing = False
        if not self._open or self._closed or self._lingers:
            return
        for _ in range(_RECORDS_AT_ONCE):
            data = self._unwritten or self.http.take(_RECORD)
            if not data:
                break
            try:
                sent = self._socket.write(data)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                sent = 0
            except OSError:
                self.close()
                return
            more = bool(self._unwritten) or len(data) >= _RECORD
            self._unwritten = data[sent:]
            if not sent:
                break
            self._moved = self.turns.now
            if not more:
                break
        else:
            self.flush_soon()
        self._stuck = bool(self._unwritten) or self.http.unsent
        if self._blocked != bool(self._unwritten):
            self._blocked = bool(self._unwritten)
            self._wait()
        if not self._unwritten:
            for call in tuple(self._calls.values()):
                call.flushed()
            if self.http.finished and not self._flushing:
                self._linger()

    def _wait(self) -> None:
        events = (0 if self._paused else EPOLLIN) | (EPOLLOUT if self._blocked else 0)
        if events != self._events:
            self._events = events
            self.turns.change(self._descriptor, events)

    def _linger(self) -> None:
        """Close our side, and wait for the client's: closed with bytes unread, what was sent could be lost."""
        self._lingers = True
        self._end_calls()
        self._moved = self.turns.now
        self._paused = self._blocked = False
        with suppress(OSError):  # the client's answer is not waited for
            self._socket.unwrap()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._wait()

    def _discard(self) -> None:
        try:
            size = self._socket.recv_into(self._around.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self.close()
