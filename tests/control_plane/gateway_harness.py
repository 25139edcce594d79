"""A gateway on a loopback address, who answers there, and clients: gRPC's own, and one that speaks HTTP/2 by h2."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import trustme

from control_plane.gateway.limits import GatewayLimits
from control_plane.gateway.rpc import Call, GrpcStatus, Peer, RpcError
from control_plane.gateway.server import Gateway
from control_plane.gateway.tls import server_context
from fleet_api.framing import frame

STREAM = "/test.Echo/Stream"
UNARY = "/test.Echo/Unary"


@dataclass
class Authority:
    """Certificates for one gateway and its agents."""

    folder: Path
    root: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.roots = self.root.cert_pem.bytes().decode()
        self.server = self._files("server", self.root.issue_cert("127.0.0.1", "localhost"))
        self.agent = self._files("agent", self.root.issue_cert("agent-1"))

    def _files(self, name: str, leaf: trustme.LeafCert) -> tuple[Path, Path]:
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(key)
        return chain, key

    def another_agent(self, name: str) -> tuple[Path, Path]:
        return self._files(name, self.root.issue_cert(name))

    def server_context(self) -> ssl.SSLContext:
        return server_context(*self.server, self.roots)

    def client_context(self, agent: tuple[Path, Path] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.roots)
        context.set_alpn_protocols(["h2"])
        if agent is not None:
            context.load_cert_chain(*agent)
        return context


class Echo:
    """Answers each message with itself; some messages and methods ask for something else."""

    def __init__(self) -> None:
        self.calls: queue.Queue[EchoListener] = queue.Queue()
        self.peers: list[Peer] = []
        self.replies: queue.Queue[Callable[[bytes | RpcError], None]] = queue.Queue()

    def unary(self, method: str, peer: Peer, request: bytes, reply: Callable[[bytes | RpcError], None]) -> None:
        self.peers.append(peer)
        if method == "/test.Echo/Later":
            self.replies.put(reply)
        elif method == "/test.Echo/Thread":
            threading.Thread(target=reply, args=(request,)).start()
        elif method == UNARY:
            reply(request)
        elif method == "/test.Echo/Fault":
            raise ValueError("a fault")
        else:
            raise RpcError(GrpcStatus.UNIMPLEMENTED, f"There is no {method}. 100 % sure: ü")

    def opened(self, method: str, call: Call) -> EchoListener:
        assert method == STREAM
        listener = EchoListener(call)
        self.calls.put(listener)
        return listener


class EchoListener:
    def __init__(self, call: Call) -> None:
        self.call = call
        self.messages: list[bytes] = []
        self.drains = 0
        self.ends = 0

    def received(self, message: bytes) -> None:
        self.messages.append(message)
        if message == b"refuse":
            raise RpcError(GrpcStatus.PERMISSION_DENIED, "Not this one.\nReally: 5 % ü")
        if message == b"end":
            self.call.end()
            assert not self.ends  # not within it: who ends calls may be going through all of them
        elif message != b"silence":
            self.call.send(frame(message))

    def drained(self) -> None:
        self.drains += 1

    def closed(self) -> None:
        self.ends += 1


@contextmanager
def running(authority: Authority, handler: Any, limits: GatewayLimits | None = None) -> Iterator[tuple[Gateway, int]]:
    """A gateway, and its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    streams = frozenset({STREAM})
    gateway = Gateway([listener], authority.server_context(), handler, streams=streams, limits=limits)
    port = listener.getsockname()[1]
    gateway.start()
    try:
        yield gateway, port
    finally:
        gateway.stop()
        gateway.join(20)


@contextmanager
def channel(
    authority: Authority, port: int, agent: tuple[Path, Path] | None, options: Sequence[tuple[str, int]] = ()
) -> Iterator[grpc.Channel]:
    key = chain = None
    if agent is not None:
        chain, key = (path.read_bytes() for path in agent)
    credentials = grpc.ssl_channel_credentials(authority.roots.encode(), key, chain)
    with grpc.secure_channel(
        f"127.0.0.1:{port}", credentials, [("grpc.use_local_subchannel_pool", 1), *options]
    ) as opened:
        yield opened


def unary(opened: grpc.Channel, method: str = UNARY) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    return opened.unary_unary(method, request_serializer=None, response_deserializer=None)


def stream(opened: grpc.Channel, method: str = STREAM) -> grpc.StreamStreamMultiCallable[bytes, bytes]:
    return opened.stream_stream(method, request_serializer=None, response_deserializer=None)


def fields(method: str = STREAM, **changed: str) -> list[tuple[str, str]]:
    """Of a request."""
    usual = {":method": "POST", ":scheme": "https", ":path": method, ":authority": "x"}
    usual |= {"content-type": "application/grpc", "te": "trailers"} | changed
    return [(name.replace("_", "-"), value) for name, value in usual.items() if value]


class RawAgent:
    """An agent that may misbehave: h2 on a TLS socket that blocks, ten seconds at most."""

    def __init__(
        self, authority: Authority, port: int, agent: tuple[Path, Path] | None, *, receive_buffer: int | None = None
    ) -> None:
        plain = socket.socket()
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(10)
        plain.connect(("127.0.0.1", port))
        self.socket = authority.client_context(agent).wrap_socket(plain, server_hostname="127.0.0.1")
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.later: list[h2.events.Event] = []
        """What has come with the event that was asked for."""
        self.flush()

    def __enter__(self) -> RawAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def open(self, headers: list[tuple[str, str]] | None = None, *messages: bytes) -> int:
        """A call, and its stream."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, headers or fields())
        for message in messages:
            self.h2.send_data(number, frame(message))
        self.flush()
        return number

    def send(self, number: int, message: bytes) -> None:
        self.h2.send_data(number, frame(message))
        self.flush()

    def read(self) -> list[h2.events.Event]:
        """What comes next. Empty: the gateway has closed."""
        events: list[h2.events.Event] = []
        while not events:
            data = self.socket.recv(1 << 14)
            if not data:
                return []
            events = self.h2.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return events

    def read_until(self, *kinds: type[h2.events.Event]) -> h2.events.Event:
        """The first of these events. Others before it are forgotten."""
        while True:
            events = self.later or self.read()
            assert events, f"closed before {kinds}"
            while events:
                event = events.pop(0)
                if isinstance(event, kinds):
                    self.later = events
                    return event

    def read_to_the_end(self) -> list[h2.events.Event]:
        """Until the gateway closes; a reset counts as closing."""
        found, self.later = self.later, []
        try:
            while events := self.read():
                found += events
        except (ConnectionError, ssl.SSLError):
            pass
        return found

    def is_answered(self) -> bool:
        """Whether a new call's message comes back."""
        number = self.open(None, b"ping")
        event = self.read_until(h2.events.DataReceived)
        assert isinstance(event, h2.events.DataReceived)
        return (event.stream_id, event.data) == (number, frame(b"ping"))
