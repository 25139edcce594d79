"""A fleet without a network: calls that a test drives, in place of the agents' port, and all behind them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from waiting import until

from control_plane.bootstrap import first_token, new_token
from control_plane.certificates.authority import utc
from control_plane.certificates.root_files import LoadedAuthority, RootFolder
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.commands import AddCluster, Command, DraftPolicy, IssueJoinToken, PublishPolicy
from control_plane.fleet.agent_status import AgentState, FleetStatus
from control_plane.fleet.credentials import Issuer
from control_plane.fleet.enrolment import EnrolmentDesk
from control_plane.fleet.follower import LogFollower
from control_plane.fleet.handler import AgentsHandler
from control_plane.fleet.questions import Questions
from control_plane.fleet.token_review import TokenReviewer
from control_plane.gateway.rpc import CallListener, GrpcStatus, Peer, RpcError
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store
from control_plane.tracing import ChangeTraces, NoTraces
from fleet_api.agent_pb2 import Applied, Credentials, EnrolRequest, FromAgent, Hello, Renew, ToAgent
from fleet_api.desired import DesiredState, applied
from fleet_api.framing import GrpcUnframer
from fleet_api.limits import CONNECT, ENROL, MAX_TO_AGENT

POLICY = {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": [{"port": [443]}]}]}


def new_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    names = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://podlane/tenant/default/cluster/x/node/y")]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass
class DrivenCall:
    """A call whose other end is the test. ``slow``: nothing that is sent is taken."""

    peer: Peer
    unsent: int = 0
    slow: bool = False
    sent: list[bytes] = field(default_factory=list)
    ended: tuple[GrpcStatus, str] | None = None
    listener: CallListener | None = None

    def send(self, message: bytes) -> None:
        assert self.ended is None, "a call that is over is not sent anything"
        self.sent.append(message)
        self.unsent += len(message) if self.slow else 0

    def end(self, status: GrpcStatus = GrpcStatus.OK, message: str = "") -> None:
        assert self.ended is None
        self.ended = status, message
        if self.listener is not None:
            self.listener.closed()


class Agent:
    """As the node's agent behaves; what is desired of it is taken as the protocol says."""

    def __init__(self, bench: Bench, credentials: Credentials, address: str = "10.0.0.1") -> None:
        self.bench = bench
        self.credentials = credentials
        certificate = x509.load_pem_x509_certificate(credentials.certificate_chain.encode())
        self.call = DrivenCall(Peer(address, certificate.public_bytes(serialization.Encoding.DER)))
        self.state = DesiredState()
        self.labels: dict[str, str] = {}
        self.taken = 0
        self.messages: list[ToAgent] = []

    def connect(self) -> Agent:
        try:
            self.call.listener = self.bench.handler.opened(CONNECT, self.call)
        except RpcError as error:
            self.call.ended = error.status, str(error)
        return self

    def say(self, **message: Any) -> None:
        self.say_bytes(FromAgent(**message).SerializeToString())

    def say_bytes(self, message: bytes) -> None:
        assert self.call.listener is not None
        try:
            self.call.listener.received(message)
        except RpcError as error:
            self.call.end(error.status, str(error))

    def hello(self, state: DesiredState | None = None) -> Agent:
        self.state = state or self.state
        self.connect()
        if self.call.listener is not None:
            self.say(hello=self.greeting())
        return self

    def greeting(self) -> Hello:
        return Hello(
            version="0.2.0",
            kernel="6.1",
            revision=self.state.revision,
            hash=self.state.hash,
            instance="a",
            node_labels=self.labels,
        )

    def take(self) -> list[ToAgent]:
        """What was sent since the last time, put into ``state``."""
        new = []
        for data in self.call.sent[self.taken :]:
            [message] = GrpcUnframer(MAX_TO_AGENT).feed(data)
            new.append(ToAgent.FromString(message))
        self.taken = len(self.call.sent)
        for message in new:
            if message.WhichOneof("message") == "desired":
                self.state = applied(self.state, message.desired)
        self.messages += new
        return new

    def confirm(self, **other: Any) -> None:
        self.say(
            applied=Applied(**{"revision": self.state.revision, "hash": self.state.hash, "programmed": 1, **other})
        )

    def renew(self, key: ec.EllipticCurvePrivateKey) -> None:
        self.say(renew=Renew(csr=new_request(key)))


class Bench:
    """A control plane with clusters ``east`` of the tenants ``default`` and ``other``."""

    def __init__(self, folder: Path, url: str) -> None:
        self.clock = [1_800_000_000.0]
        self.store = open_store(url)
        self.plane = ControlPlane(self.store, lambda: self.clock[0])
        first_token(self.plane)
        self.roots = RootFolder(folder / "ca", "podlane")
        self.issuer = Issuer(LoadedAuthority(self.roots, utc(self.clock[0])), lambda: self.clock[0])
        self.fleet = FleetStatus()
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.reviewers = folder / "reviewers"
        self.desk = EnrolmentDesk(self.plane, self.issuer, TokenReviewer(self.reviewers))
        self.follower = LogFollower(self.store, lambda *what: self._posted.put(lambda: self.handler.happened(*what)))
        self.handler = AgentsHandler(self.fleet, self.issuer, self.desk, self._posted.put, self.follower.read_on)
        self.fleet.questions = self.questions = Questions(self.handler, self._posted.put)
        self.plane.on_append.append(self.follower.read_on)
        with self.plane.reading("default") as tenant:
            known = "east" in tenant.clusters
        if not known:
            self.do(AddCluster("east"))

    def do(self, command: Command, tenant: str = "default") -> None:
        self.plane.carry_out(tenant, command, Circumstances("test"))

    def pump(self) -> None:
        while not self._posted.empty():
            self._posted.get()()

    def until(self, what: str, condition: Callable[[], object]) -> None:
        def met() -> object:
            self.pump()
            return condition()

        until(what, met)

    def publish(self, name: str = "web", document: object = POLICY, tenant: str = "default") -> None:
        self.do(DraftPolicy(name, CheckedPolicy.from_document(document)), tenant)
        self.do(PublishPolicy(name), tenant)

    def read(self) -> None:
        """Have what happened so far reach the gateway."""
        names = self.plane.names()
        done = []
        for name in names:
            self.until(f"the log of {name}", lambda name=name: self.revision(name) == self.handler_revision(name))
            done.append(name)

    def revision(self, tenant: str = "default") -> int:
        with self.plane.reading(tenant) as state:
            return state.revision

    def handler_revision(self, tenant: str = "default") -> int:
        return self.fleet.agents(tenant).revision

    def join_token(self, tenant: str = "default", node: str = "", expires_in: int = 3600, cluster: str = "east") -> str:
        text = new_token(tenant)
        self.do(IssueJoinToken(cluster, text.id, text.digest, int(self.clock[0]) + expires_in, node), tenant)
        return str(text)

    def enrol(
        self, token: str, node: str = "n1", key: ec.EllipticCurvePrivateKey | None = None, **more: Any
    ) -> Credentials:
        """Raises RpcError."""
        request = EnrolRequest(
            join_token=token, node=node, csr=new_request(key or ec.generate_private_key(ec.SECP256R1()))
        )
        request.MergeFrom(EnrolRequest(**more))
        return self.desk.credentials(request.SerializeToString(), "10.0.0.1")

    def agent(self, node: str = "n1", tenant: str = "default") -> Agent:
        """One that has joined."""
        return Agent(self, self.enrol(self.join_token(tenant), node))

    def state(self, node: str = "n1", tenant: str = "default") -> AgentState:
        agents = self.fleet.agents(tenant)
        return agents.state(agents.agents.get(("east", node)))

    def unary(self, request: bytes, method: str = ENROL) -> bytes | RpcError:
        answers: list[bytes | RpcError] = []
        self.handler.unary(method, Peer("10.0.0.1"), request, answers.append)
        self.until("an answer", lambda: answers)
        return answers[0]


@contextmanager
def running_bench(folder: Path, url: str, traces: ChangeTraces | None = None) -> Iterator[Bench]:
    bench = Bench(folder, url)
    bench.plane.traces = bench.fleet.traces = traces or NoTraces()
    bench.follower.load(bench.handler.happened)
    bench.follower.start()
    bench.pump()
    try:
        yield bench
    finally:
        bench.follower.close()
        bench.desk.close()
        bench.store.close()
