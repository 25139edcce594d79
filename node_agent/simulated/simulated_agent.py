"""One simulated agent on a non-blocking socket."""

from __future__ import annotations

import errno
import random
import select
import socket
import ssl
from typing import Final, Protocol

from daemon.version import installed_version
from fleet_api.agent_pb2 import Applied, Desired, FromAgent, Hello, ToAgent, WorkloadState
from fleet_api.desired import DesiredState
from fleet_api.limits import CONNECT, KEEPALIVE, SERVER_NAME, SILENCE
from node_agent.fleet.errors import CallEndedError
from node_agent.fleet.fleet_settings import Address
from node_agent.fleet.grpc_call import GrpcCall
from node_agent.fleet.identity import AgentCredentials
from node_agent.fleet.transport import USER_AGENT

_CHUNK: Final = 16 << 10
_UNAVAILABLE: Final = 14


class Readers(Protocol):
    """What all agents of a process share."""

    def read(self, there: DesiredState, change: Desired, data: bytes) -> DesiredState:
        """What a message leads to. Raises :class:`~fleet_api.desired.OtherBaseError`."""

    def hash_of(self, state: DesiredState) -> bytes: ...

    def failure_of(self, node: str, state: DesiredState) -> WorkloadState | None:
        """The workload of a node that cannot have it; None: all can."""

    def was_told(self, revision: int) -> None: ...

    def has_applied(self, revision: int) -> None: ...


class SimulatedAgent:
    """Its socket is to be watched for :attr:`events`; :meth:`ready` is called when one has come."""

    __slots__ = (
        "_asked", "_call", "_heard", "_instance", "_out", "_secure", "_shared", "_socket", "_tls", "attempt",
        "credentials", "events", "failure", "fd", "node", "shaking", "state", "talking",
    )  # fmt: skip

    def __init__(self, node: str, credentials: AgentCredentials, shared: Readers) -> None:
        self.node = node
        self.credentials = credentials
        self.state = DesiredState()
        self.talking = False
        """Whether it has said Hello, and was not refused."""
        self.shaking = False
        self.events = 0
        self.fd = -1
        self.attempt = 0
        self.failure = ""
        self._shared = shared
        self._instance = f"{random.getrandbits(64):016x}"
        self._socket: socket.socket | None = None
        self._secure: ssl.SSLSocket | None = None
        self._tls: ssl.SSLContext | None = None
        self._call: GrpcCall | None = None
        self._out = bytearray()
        self._heard = self._asked = 0.0

    def begin(self, address: Address, now: float) -> None:
        """Start to connect. Raises OSError."""
        family, kind, number, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, number)
        made.setblocking(False)
        self._socket, self.fd, self.shaking = made, made.fileno(), True
        self._heard = self._asked = now
        self.events = select.EPOLLOUT
        if (code := made.connect_ex(where)) not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")

    def ready(self, now: float) -> None:
        """Raises OSError, :class:`CallEndedError`, when it is over."""
        if self._secure is None:
            self._secured()
        assert self._secure is not None
        if self._call is None and not self._shaken(now):
            return
        self._receive(now)
        self._flush()

    def say(self, message: bytes) -> None:
        """Send a message, unless earlier ones wait. Raises OSError, :class:`CallEndedError`."""
        if self._call is not None and not self._call.unsent and not self._out:
            self._call.send(message)
            self._flush()

    def look(self, now: float) -> None:
        """Keep the connection alive. Raises :class:`CallEndedError` if it is not."""
        quiet = now - self._heard
        if quiet > SILENCE:
            raise CallEndedError(_UNAVAILABLE, "Nothing was heard for too long.")
        if self._call is not None and quiet > KEEPALIVE and now - self._asked > KEEPALIVE:
            self._asked = now
            self._call.ping()
            self._flush()

    def close(self) -> None:
        """It is over."""
        for each in (self._secure, self._socket):
            if each is not None:
                each.close()
        self._secure = self._socket = self._call = None
        self._out.clear()
        self.fd, self.events, self.talking, self.shaking = -1, 0, False, False

    def _secured(self) -> None:
        assert self._socket is not None
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, errno.errorcode.get(code, "connect"))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # It is kept (25 KiB): to make one takes longer than a handshake, which a real agent does on its own machine.
        self._tls = self._tls or self.credentials.tls()
        self._secure = self._tls.wrap_socket(self._socket, server_hostname=SERVER_NAME, do_handshake_on_connect=False)
        self._socket = None

    def _shaken(self, now: float) -> bool:
        assert self._secure is not None
        try:
            self._secure.do_handshake()
        except ssl.SSLWantReadError:
            self.events = select.EPOLLIN
            return False
        except ssl.SSLWantWriteError:
            self.events = select.EPOLLOUT
            return False
        self.shaking = False
        self._call = GrpcCall(SERVER_NAME, CONNECT, USER_AGENT)
        self._greet(all_of_it=False)
        self.talking, self._heard = True, now
        self.events = select.EPOLLIN
        return True

    def _greet(self, *, all_of_it: bool) -> None:
        assert self._call is not None
        hello = Hello(
            version=installed_version() or "source",
            kernel="simulated",
            instance=self._instance,
            node_labels={"podlane.io/simulated": "true"},
        )
        if self.state.revision and not all_of_it:
            hello.revision, hello.hash = self.state.revision, self._shared.hash_of(self.state)
        self._call.send(FromAgent(hello=hello).SerializeToString())

    def _receive(self, now: float) -> None:
        assert self._secure is not None
        assert self._call is not None
        while True:
            try:
                data = self._secure.recv(_CHUNK)
            except ssl.SSLWantReadError:
                return
            self._heard = now
            for message in self._call.receive(data):
                self._take(message)
            if self._call.going_away:
                self._flush()
                raise CallEndedError(_UNAVAILABLE, self._call.going_away)

    def _take(self, data: bytes) -> None:
        assert self._call is not None
        message = ToAgent.FromString(data)
        if message.WhichOneof("message") != "desired":
            return
        self._shared.was_told(message.desired.revision)
        try:
            self.state = self._shared.read(self.state, message.desired, data)
        except ValueError:
            self._greet(all_of_it=True)
            return
        told = Applied(revision=self.state.revision, hash=self._shared.hash_of(self.state))
        told.programmed = len(self.state.policies)
        if (failure := self._shared.failure_of(self.node, self.state)) is not None:
            told.failed = 1
            told.failures.append(failure)
        self._call.send(FromAgent(applied=told).SerializeToString())
        self._shared.has_applied(self.state.revision)

    def _flush(self) -> None:
        assert self._secure is not None
        assert self._call is not None
        self._out += self._call.to_send()
        while self._out:
            try:
                sent = self._secure.send(self._out[:_CHUNK])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self.events = select.EPOLLIN | select.EPOLLOUT
                return
            del self._out[:sent]
        self.events = select.EPOLLIN
