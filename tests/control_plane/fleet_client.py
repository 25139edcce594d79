"""An agent that speaks to a real agents' port by gRPC's own library, and a control plane in a process of its own."""

from __future__ import annotations

import queue
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fleet_bench import new_request

from control_plane.certificates.authority import fingerprint
from fleet_api.agent_pb2 import Applied, Credentials, EnrolRequest, FromAgent, Hello, Renew, ToAgent
from fleet_api.desired import DesiredState, applied
from fleet_api.limits import CONNECT, ENROL, SERVER_NAME

_PATIENCE = 20.0


def pinned_root(port: int, digest: str) -> bytes:
    """The root that the port shows, if it is the one that is expected: how an agent without any begins. PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), _PATIENCE) as plain, context.wrap_socket(plain) as secured:
        shown = secured._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    for each in shown:
        certificate = x509.load_der_x509_certificate(ssl.PEM_cert_to_DER_cert(each.public_bytes()))
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        if fingerprint(key) == digest:
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise AssertionError("the port shows another root")


class GrpcAgent:
    """The agent of a node."""

    def __init__(self, port: int, node: str) -> None:
        self.port = port
        self.node = node
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.credentials = Credentials()
        self.state = DesiredState()
        self.token = ""
        self.about: dict[str, Any] = {"version": "0.2.0", "kernel": "6.1"}
        """Of the node, in its Hello."""
        self._to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stream: Any = None

    def join(self, token: str, roots: bytes) -> None:
        """Raises grpc.RpcError."""
        self.token = token
        with self.channel(grpc.ssl_channel_credentials(roots)) as channel:
            request = EnrolRequest(node=self.node, csr=new_request(self.key), join_token=token)
            answer = channel.unary_unary(ENROL)(request.SerializeToString(), timeout=_PATIENCE)
        self.credentials = Credentials.FromString(answer)

    @contextmanager
    def connected(self) -> Iterator[GrpcAgent]:
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        credentials = grpc.ssl_channel_credentials(
            self.credentials.roots.encode(), key, self.credentials.certificate_chain.encode()
        )
        self._to_send = queue.SimpleQueue()
        with self.channel(credentials) as channel:
            self._stream = channel.stream_stream(CONNECT)(iter(self._to_send.get, None))
            self.say(hello=Hello(**self.about, revision=self.state.revision, hash=self.state.hash))
            yield self
            self._to_send.put(None)
            self._stream.cancel()

    def say(self, **message: Any) -> None:
        self._to_send.put(FromAgent(**message).SerializeToString())

    def hang_up(self) -> None:
        """Whoever hears gets an error. Any thread may call it."""
        if self._stream is not None:
            self._stream.cancel()

    def hear(self) -> ToAgent:
        """The next message; what it desires is put into ``state``. Raises grpc.RpcError."""
        message = ToAgent.FromString(next(self._stream))
        if message.WhichOneof("message") == "desired":
            self.state = applied(self.state, message.desired)
        return message

    def confirm(self) -> None:
        self.say(applied=Applied(revision=self.state.revision, hash=self.state.hash, programmed=3))

    def renew(self) -> None:
        self.say(renew=Renew(csr=new_request(self.key)))

    def channel(self, credentials: grpc.ChannelCredentials) -> grpc.Channel:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", SERVER_NAME)]
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options)
