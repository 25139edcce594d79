"""A control plane's port for agents, by Google's gRPC: what an agent has to get along with."""

from __future__ import annotations

import hashlib
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleet_api.agent_pb2 import Credentials, EnrolRequest, FromAgent, ToAgent
from fleet_api.limits import SERVER_NAME, SERVICE

Talk = Callable[[Iterator[FromAgent], grpc.ServicerContext], Iterator[ToAgent]]
Enrolled = Callable[[EnrolRequest, grpc.ServicerContext], Credentials]


class FleetCa:
    """Signs what agents ask for, and the server's certificate."""

    def __init__(self) -> None:
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.asked: list[EnrolRequest] = []
        self.renew_in = 3600.0
        self.lifetime = 86400.0

    @property
    def roots(self) -> str:
        return self.ca.cert_pem.bytes().decode()

    @property
    def digest(self) -> str:
        """As join tokens have it."""
        public = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes()).public_key()
        spki = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )  # fmt: skip
        return hashlib.sha256(spki).hexdigest()

    def enrol(self, request: EnrolRequest, _context: grpc.ServicerContext) -> Credentials:
        """Answers Enrol, whoever asks."""
        self.asked.append(request)
        return self.issue(request.csr, request.node)

    def issue(self, csr: bytes, node: str = "n1") -> Credentials:
        """A certificate, and when to ask for the next."""
        root = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        now = datetime.now(UTC)
        uri = x509.UniformResourceIdentifier(f"spiffe://podlane/tenant/default/cluster/c1/node/{node}")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(root.subject)
            .public_key(x509.load_der_x509_csr(csr).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(seconds=self.lifetime))
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return Credentials(
            certificate_chain=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            roots=self.roots,
            renew_at=int(time.time() + self.renew_in),
        )


@dataclass
class FleetServer:
    """What is heard is in ``heard``; what is put into ``says`` is sent to whoever is connected. None ends the call."""

    ca: trustme.CA
    port: int = 0
    heard: queue.Queue[FromAgent] = field(default_factory=queue.Queue)
    says: queue.Queue[ToAgent | None] = field(default_factory=queue.Queue)
    server: Any = None

    def next(self, kind: str, patience: float = 10.0) -> Any:
        """The next message of a kind; others are left out."""
        while True:
            message = self.heard.get(timeout=patience)
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)

    def talk(self, messages: Iterator[FromAgent], context: grpc.ServicerContext) -> Iterator[ToAgent]:
        """One agent's stream."""
        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(self._listen, messages)
            while (said := self.says.get()) is not None:
                yield said
            context.cancel()
            listening.cancel()

    def _listen(self, messages: Iterator[FromAgent]) -> None:
        try:
            for message in messages:
                self.heard.put(message)
        except grpc.RpcError:
            pass
        finally:
            self.says.put(None)


@contextmanager
def fleet_server(
    ca: trustme.CA,
    talk: Talk | None = None,
    enrol: Enrolled | None = None,
    port: int = 0,
    *,
    mutual: bool = True,
    names: Sequence[str] = (SERVER_NAME,),
    also: str = "",
) -> Iterator[FleetServer]:
    """Serve on 127.0.0.1, and show certificates ``also``."""
    made = FleetServer(ca)
    issued = ca.issue_cert(*names)
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems) + ca.cert_pem.bytes() + also.encode()
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    method = grpc.stream_stream_rpc_method_handler(
        talk or made.talk, FromAgent.FromString, ToAgent.SerializeToString
    )  # fmt: skip
    handlers: dict[str, Any] = {"Connect": method}
    if enrol is not None:
        handlers["Enrol"] = grpc.unary_unary_rpc_method_handler(
            enrol, EnrolRequest.FromString, Credentials.SerializeToString
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    credentials = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), chain)], ca.cert_pem.bytes() if mutual else None, mutual
    )
    made.port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    made.server = server
    server.start()
    try:
        yield made
    finally:
        made.says.put(None)
        server.stop(0).wait()
