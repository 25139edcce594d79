"""Whatever happens, and in whatever order: connected agents end up with what is desired, and no message harms."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_pem_x509_certificate
from fleet_bench import DrivenCall, new_request
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control_plane.certificates.authority import utc
from control_plane.certificates.identity import AgentIdentity
from control_plane.certificates.root_files import LoadedAuthority, RootFolder
from control_plane.domain import commands as c
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.decisions import decide
from control_plane.domain.errors import RefusedError
from control_plane.domain.tenant import Tenant, fold
from control_plane.fleet.agent_status import AgentState, FleetStatus
from control_plane.fleet.credentials import Issuer
from control_plane.fleet.delivery import desired_of
from control_plane.fleet.session import AgentSession
from control_plane.fleet.tenant_sessions import TenantSessions
from control_plane.gateway.rpc import Peer, RpcError
from fleet_api.agent_pb2 import Applied, FromAgent, Health, Hello, LaneSum, Renew, Report, ToAgent, WorkloadState
from fleet_api.desired import DesiredState, FleetPolicy, OtherBaseError, applied
from fleet_api.framing import GrpcUnframer
from fleet_api.limits import MAX_TO_AGENT

NODES = ["n1", "n2", "n3"]
ROOTS = LoadedAuthority(RootFolder(Path(tempfile.mkdtemp(prefix="podlane-ca-")), "podlane"), utc(1_800_000_000))
KEY = ec.generate_private_key(ec.SECP256R1())


class Node:
    """An agent with its disk, and the stream that it has at present."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = DesiredState()
        self.call: DrivenCall | None = None
        self.taken = 0
        self.enrolment = ""

    def take(self) -> None:
        """All that was sent. After what does not fit it asks for everything, as the protocol says."""
        while self.call is not None and self.taken < len(self.call.sent):
            [data] = GrpcUnframer(MAX_TO_AGENT).feed(self.call.sent[self.taken])
            self.taken += 1
            message = ToAgent.FromString(data)
            if message.WhichOneof("message") != "desired":
                continue
            try:
                self.state = applied(self.state, message.desired)
            except OtherBaseError:
                self.state = DesiredState()
                self.say(hello=Hello())
            else:
                self.say(applied=Applied(revision=self.state.revision, hash=self.state.hash))

    def say(self, **message: object) -> None:
        if self.call is None or self.call.ended or self.call.listener is None:
            return
        try:
            self.call.listener.received(FromAgent(**message).SerializeToString())  # type: ignore[arg-type]
        except RpcError as error:
            self.call.end(error.status, str(error))


class AnyOrder(RuleBasedStateMachine):
    """One tenant, three nodes, and time that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 1_800_000_000.0
        self.tenant = Tenant("shop")
        self.told = 0
        self.posted: list[Callable[[], None]] = []
        self.unread: list[tuple[int, c.Command]] = []
        self.log: list[object] = []
        self.fleet = FleetStatus()
        issuer = Issuer(ROOTS, lambda: self.clock)
        self.sessions = TenantSessions("shop", self.fleet, issuer, self.posted.append, self.read_on)
        self.nodes = {name: Node(name) for name in NODES}
        self.do(c.CreateTenant(), c.AddCluster("east"))
        for name in NODES:
            self.join(name)
            self.connect(name, "kept", old=False)
        self.run_posted()

    def do(self, *commands: c.Command) -> None:
        for command in commands:
            try:
                events = decide(self.tenant, command, 0)
            except RefusedError:
                continue
            for event in events:
                self.tenant.apply(event)
                self.log.append(event)

    def read_on(self, _: str, then: Callable[[], None]) -> None:
        self.posted += [self.follow, then]

    @rule()
    def follow(self) -> None:
        """What happened reaches the gateway; some of it twice."""
        after = max(0, self.told - 2)
        self.sessions.happened(after + 1, self.log[after:])  # type: ignore[arg-type]
        self.told = len(self.log)

    @rule(name=st.sampled_from(["a", "b"]), followed=st.booleans())
    def publish(self, name: str, followed: bool) -> None:
        content = CheckedPolicy.from_document({"total": f"{len(self.log) + 1}Mbit", "classes": []})
        self.do(c.DraftPolicy(name, content), c.PublishPolicy(name))
        if followed:
            self.follow()

    @rule(name=st.sampled_from(["a", "b"]), followed=st.booleans())
    def remove(self, name: str, followed: bool) -> None:
        self.do(c.RemovePolicy(name))
        if followed:
            self.follow()

    @rule(name=st.sampled_from(NODES))
    def join(self, name: str) -> None:
        if name not in self.tenant.clusters["east"].agents:
            number = str(len(self.log))
            self.do(c.IssueJoinToken("east", number, "d", 1), c.EnrolAgent("east", name, number, "d", number))

    @rule(name=st.sampled_from(NODES), followed=st.booleans())
    def revoke(self, name: str, followed: bool) -> None:
        self.do(c.RevokeAgent("east", name))
        if followed:
            self.follow()

    @rule(
        name=st.sampled_from(NODES),
        disk=st.sampled_from(["kept", "kept", "lost", "damaged"]),
        old=st.sampled_from([False, False, False, True]),
    )
    def connect(self, name: str, disk: str, old: bool) -> None:
        """With the newest certificate, or one that was revoked since; with the stream before still there."""
        node = self.nodes[name]
        agent = self.tenant.clusters["east"].agents.get(name)
        node.enrolment = agent.serial if agent is not None and not old else "0"
        if disk == "lost":
            node.state = DesiredState()
        elif disk == "damaged" and node.state.revision:
            node.state = DesiredState(node.state.revision, {"x": FleetPolicy("x", 1, "{}")})
        node.call, node.taken = DrivenCall(Peer("10.0.0.1")), 0
        identity = AgentIdentity("shop", "east", name, node.enrolment)
        node.call.listener = AgentSession(self.sessions, identity, node.call, self.clock + 1e9)
        node.say(hello=Hello(revision=node.state.revision, hash=node.state.hash))

    @rule(name=st.sampled_from(NODES))
    def vanish(self, name: str) -> None:
        node = self.nodes[name]
        if node.call is not None and node.call.ended is None and node.call.listener is not None:
            node.call.listener.closed()
        node.call = None

    @rule(name=st.sampled_from(NODES))
    def fall_behind(self, name: str) -> None:
        """What is sent is not taken for a while."""
        if (call := self.nodes[name].call) is not None:
            call.slow = True
            self.publish("a", followed=True)

    @rule(name=st.sampled_from(NODES))
    def take(self, name: str) -> None:
        self.nodes[name].take()

    @rule()
    def run_posted(self) -> None:
        while self.posted:
            self.posted.pop(0)()

    @rule(seconds=st.floats(1, 100))
    def wait(self, seconds: float) -> None:
        self.clock += seconds

    @invariant()
    def nobody_is_counted_twice_or_without_having_joined(self) -> None:
        clusters = fold("shop", self.log[: self.told]).clusters  # type: ignore[arg-type]
        joined = {("east", node) for node in clusters["east"].agents} if clusters else set()
        connected = {key for key, status in self.fleet.agents("shop").agents.items() if status.connected}
        assert connected <= joined

    def teardown(self) -> None:
        """In the end all take what they are sent."""
        self.follow()
        for _ in range(5):
            self.run_posted()
            for node in self.nodes.values():
                call = node.call
                if call is not None and call.ended is None:
                    call.slow, call.unsent = False, 0
                    assert call.listener is not None
                    call.listener.drained()
                    node.take()
            self.clock += 60
        desired = desired_of(self.tenant)
        agents = self.fleet.agents("shop")
        for node in self.nodes.values():
            if node.call is not None and node.call.ended is None:
                assert (node.state.revision, node.state.hash) == (desired.revision, desired.hash)
                assert agents.state(agents.agents["east", node.name]) is AgentState.IN_SYNC
                assert self.tenant.clusters["east"].agents[node.name].serial == node.enrolment


AnyOrder.TestCase.settings = settings(max_examples=120, stateful_step_count=30)
TestAnyOrder = AnyOrder.TestCase

texts = st.text(max_size=500)
numbers = st.integers(0, 2**64 - 1)
small = st.integers(0, 2**32 - 1)
lanes = st.builds(
    LaneSum,
    policy=st.sampled_from(["", "a", "x"]) | texts,
    lane=texts,
    direction=st.sampled_from(["egress", "up"]),
    bytes=numbers,
    ceil=numbers,
)
failures = st.builds(WorkloadState, workload=texts, state=texts, reason=texts, policy=texts)
messages = st.one_of(
    st.builds(
        Hello,
        version=texts,
        kernel=texts,
        revision=numbers,
        hash=st.binary(max_size=40),
        node_labels=st.dictionaries(texts, texts, max_size=3),
    ),
    st.builds(
        Applied,
        revision=st.integers(0, 20) | numbers,
        hash=st.binary(max_size=40),
        failed=small,
        failures=st.lists(failures, max_size=3),
    ),
    st.builds(Report, lanes=st.lists(lanes, max_size=3)),
    st.builds(Health, cpu_ms=numbers, troubles=st.lists(texts, max_size=12)),
    st.builds(Renew, csr=st.just(new_request(KEY)) | st.binary(max_size=100)),
)


def wrapped(message: object) -> bytes:
    return FromAgent(**{type(message).__name__.lower(): message}).SerializeToString()  # type: ignore[arg-type]


@settings(max_examples=300)
@given(st.lists(st.one_of(messages.map(wrapped), st.binary(max_size=200)), max_size=12))
def test_any_message_is_taken_or_refused(said: list[bytes]) -> None:
    machine = AnyOrder()
    machine.publish("a", followed=True)
    call = machine.nodes["n1"].call
    assert call is not None
    session = call.listener
    assert isinstance(session, AgentSession)
    for message in said:
        try:
            session.received(message)
        except RpcError:
            break
    status = session.status
    assert len(status.failures) <= 100
    assert all(len(each.reason) <= 300 for each in status.failures)
    for each in call.sent:
        [data] = GrpcUnframer(MAX_TO_AGENT).feed(each)
        credentials = ToAgent.FromString(data).credentials
        if credentials.certificate_chain:
            certificate = load_pem_x509_certificate(credentials.certificate_chain.encode())
            assert certificate.public_key() == KEY.public_key()
            assert b"/node/n1" in certificate.public_bytes(serialization.Encoding.DER)
