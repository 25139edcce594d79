"""A control plane's port for agents, by Google's gRPC: what an agent has to get along with."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import trustme

from fleet_api.agent_pb2 import Credentials, EnrolRequest, FromAgent, ToAgent
from fleet_api.limits import SERVICE

Talk = Callable[[Iterator[FromAgent], grpc.ServicerContext], Iterator[ToAgent]]
Enrolled = Callable[[EnrolRequest, grpc.ServicerContext], Credentials]


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
    ca: trustme.CA, talk: Talk | None = None, enrol: Enrolled | None = None, port: int = 0, *, mutual: bool = True
) -> Iterator[FleetServer]:
    """Serve on 127.0.0.1."""
    made = FleetServer(ca)
    issued = ca.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems) + ca.cert_pem.bytes()
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
