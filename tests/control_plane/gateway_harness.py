"""A gateway on a loopback address, who answers there, and clients: gRPC's own, and one that speaks HTTP/2 by h2."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
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
def channel(authority: Authority, port: int, agent: tuple[Path, Path] | None) -> Iterator[grpc.Channel]:
    key = chain = None
    if agent is not None:
        chain, key = (path.read_bytes() for path in agent)
    credentials = grpc.ssl_channel_credentials(authority.roots.encode(), key, chain)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def unary(opened: grpc.Channel, method: str = UNARY) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    return opened.unary_unary(method, request_serializer=None, response_deserializer=None)


def stream(opened: grpc.Channel, method: str = STREAM) -> grpc.StreamStreamMultiCallable[bytes, bytes]:
    return opened.stream_stream(method, request_serializer=None, response_deserializer=None)
