"""The stream of one agent: it says Hello, is told what is desired, and tells what became of it.

    opened ---- known? ----> waiting for Hello ---- Hello ----> told
        |                                          |
        +-- not yet: its log is read on first -----+

An agent that takes longer than the next change is told the newest only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from control_plane.certificates.authority import CertificateRequestError, requested_key
from control_plane.certificates.identity import AgentIdentity
from control_plane.fleet.agent_status import AgentStatus, TenantAgents
from control_plane.fleet.allowance import Allowance
from control_plane.fleet.delivery import Delivery
from control_plane.fleet.hearing import take_applied, take_health, take_hello, take_report, wrong
from control_plane.fleet.questions import Reply
from control_plane.gateway.rpc import Call, GrpcStatus, RpcError
from fleet_api.agent_pb2 import (
    Applied,
    Credentials,
    FromAgent,
    Hello,
    LaneSum,
    Move,
    NamesSeen,
    Question,
    ToAgent,
    Watch,
)
from fleet_api.framing import frame

_MESSAGES: Final = (10.0, 100.0)
"""Per second, and at once: a report each second, and an answer to each revision."""
_EVERYTHING: Final = (0.1, 5.0)
"""How often everything is sent: it may be 4 MiB."""
_NAMES: Final = (0.25, 4.0)
"""How often it is heard about names."""
_MOST_ASKED: Final = 4
"""Questions that it has not answered."""
_RENEWALS: Final = (1 / 60, 3.0)
REVOKED: Final = (
    "This agent does not belong to the cluster: it was revoked, or never joined. What is in force on the node stays. "
    "To join again, issue a join token (podlane join-token) and give it to the agent."
)
EXPIRED: Final = "The agent's certificate has expired. Have it join again, by a join token or its ServiceAccount."
REPLACED: Final = "Another connection has taken the place of this one. If it was not this agent's, revoke it."


class SessionTenant(Protocol):
    """What a session asks of its tenant, and tells it."""

    delivery: Delivery
    status: TenantAgents

    @property
    def now(self) -> float:
        """Unix seconds."""

    def admits(self, identity: AgentIdentity) -> bool:
        """Whether the agent belongs to its cluster, as far as the log was read."""

    def wait(self, session: AgentSession) -> None:
        """Call :meth:`AgentSession.caught_up` once the log was read to its end."""

    def came(self, session: AgentSession) -> None:
        """It is the node's connection from now on."""

    def left(self, session: AgentSession) -> None:
        """Its call is over."""

    def changed(self, session: AgentSession) -> None:
        """Its status is not as it was."""

    def answered(self, session: AgentSession, revision: int) -> None:
        """It has said what became of a revision."""

    def reported(self, session: AgentSession, lanes: Sequence[LaneSum]) -> None:
        """It has said what went through lanes in the last second."""

    @property
    def names_every(self) -> int:
        """Seconds between two messages about names."""

    def saw(self, session: AgentSession, names: NamesSeen) -> None:
        """It has said which names its connections had. Raises :class:`RpcError`."""

    def overlapping_roots(self) -> Credentials | None:
        """All roots, while one is being replaced by another."""

    def issue(self, identity: AgentIdentity, key: ec.EllipticCurvePublicKey) -> tuple[Credentials, float]:
        """The next certificate, and when it expires (Unix seconds)."""


class AgentSession:
    """A :class:`~control_plane.gateway.rpc.CallListener`. All in the gateway's thread."""

    def __init__(self, tenant: SessionTenant, identity: AgentIdentity, call: Call, expires: float) -> None:
        """``expires``: when the certificate does, in Unix seconds."""
        self.identity = identity
        self.status = AgentStatus()
        self.expires = expires
        self.over = False
        self._tenant = tenant
        self._call = call
        self._hello: Hello | None = None
        """Kept until the log has been read on."""
        self._told: tuple[int, bytes] | None = None
        """Revision and hash that it has after what was sent; None: nothing may be sent yet."""
        self._messages, self._everything = Allowance(*_MESSAGES), Allowance(*_EVERYTHING)
        self._renewals, self._names = Allowance(*_RENEWALS), Allowance(*_NAMES)
        self._asked: dict[int, Reply] = {}
        self._questions = count(1)
        self._watches = (False, 0)
        """Whether it was told to tell of its workloads, and after how many seconds each of names."""
        self.moving = False
        """Whether the agent was asked to dial another process."""

    def received(self, message: bytes) -> None:
        """Raises :class:`RpcError`."""
        if self.over:
            return
        now = self._tenant.now
        if not self._messages.take(now):
            raise RpcError(GrpcStatus.RESOURCE_EXHAUSTED, "The agent sends too much. Update it, or report it to us.")
        try:
            said = FromAgent.FromString(message)
        except DecodeError:
            raise wrong("This is no message of an agent.") from None
        self.status.heard = now
        kind = said.WhichOneof("message")
        if kind == "hello":
            self._greeted(said.hello)
        elif kind is None:
            return  # of a newer version
        elif self._told is None:
            if self._hello is None:
                raise wrong("An agent says Hello first.")
            # Until it is admitted, nothing that it says counts.
        elif kind == "applied":
            self._applied(said.applied)
        elif kind == "report":
            take_report(self.status, said.report, now)
            self._tenant.reported(self, said.report.lanes)
            self._watch(now)
        elif kind == "health":
            before = self.status.troubles, self.status.workloads
            take_health(self.status, said.health)
            if before != (self.status.troubles, self.status.workloads):
                self._tenant.changed(self)
        elif kind == "renew":
            self._renew(said.renew.csr)
        elif kind == "names":
            if self._names.take(now):  # more often nobody has asked for
                self._tenant.saw(self, said.names)
        elif kind == "answer" and (reply := self._asked.pop(said.answer.id, None)) is not None:
            reply(said.answer)
        # An answer to what nobody has asked is of no use.

    def drained(self) -> None:
        """It has taken all: tell it what has changed meanwhile."""
        self.push()

    def closed(self) -> None:
        self.over = True
        asked, self._asked = self._asked, {}
        for reply in asked.values():
            reply(None)
        self.status.details = None
        self._tenant.left(self)

    def push(self) -> None:
        """Tell what is desired, if the agent has not been told and takes what is sent."""
        if self.over or self._told is None:
            return
        delivery = self._tenant.delivery
        target = delivery.target(self.identity.agent, self.status.labels)
        if self.status.desired != target.told:
            self.status.desired = target.told
            self._tenant.changed(self)
        if target.had(self._told) or self._call.unsent:
            return
        self._call.send(delivery.message(target, self._told))
        self._told = target.told

    def ask(self, question: Question, reply: Reply) -> bool:
        """False: it has too many to answer, or was not let in yet. What nobody waits for any more makes room."""
        if self.over or self._told is None or self._call.unsent:
            return False
        if len(self._asked) >= _MOST_ASKED:
            self._asked.pop(next(iter(self._asked)))(None)
        question.id = next(self._questions)
        self._asked[question.id] = reply
        self._call.send(frame(ToAgent(question=question).SerializeToString()))
        return True

    def move(self) -> None:
        """Have the agent dial another process, and end this call when that stands."""
        if not self.over and self._told is not None:
            self.moving = True
            self._call.send(frame(ToAgent(move=Move()).SerializeToString()))

    def trust(self, roots: Credentials) -> None:
        """Tell which roots to trust from now on."""
        if not self.over and self._told is not None:
            self._call.send(frame(ToAgent(credentials=roots).SerializeToString()))

    def caught_up(self) -> None:
        """The log was read to its end."""
        if self._hello is not None and not self.over:
            hello, self._hello = self._hello, None
            try:
                self._begin(hello)
            except RpcError as error:
                self.end(error.status, str(error))

    def end(self, status: GrpcStatus, message: str) -> None:
        """End the call."""
        if not self.over:
            self.over = True
            self.status.ended = message
            self._call.end(status, message)

    def _greeted(self, hello: Hello) -> None:
        take_hello(self.status, hello)
        if not self._tenant.admits(self.identity) or hello.revision > self._tenant.delivery.revision:
            # Another process may have enrolled it, or told it more than we know so far.
            self._hello = hello
            self._tenant.wait(self)
            return
        self._begin(hello)

    def _begin(self, hello: Hello) -> None:
        if not self._tenant.admits(self.identity):
            self.end(GrpcStatus.PERMISSION_DENIED, REVOKED)
            return
        first = self._told is None
        if first:
            self._tenant.came(self)
        elif not self._everything.take(self._tenant.now):
            raise RpcError(
                GrpcStatus.RESOURCE_EXHAUSTED, "The agent asks for everything too often. Look into its log for why."
            )
        else:
            self._tenant.changed(self)
        # One that is ahead of us even now, after a restored backup, is sent everything.
        self._told = (hello.revision, hello.hash)
        self.push()
        if first and (roots := self._tenant.overlapping_roots()) is not None:
            self.trust(roots)  # it may have been away when the next one was made

    def _applied(self, applied: Applied) -> None:
        told = self._told[0] if self._told else self.status.revision
        take_applied(self.status, applied, told)
        self._tenant.changed(self)
        self._tenant.answered(self, applied.revision)
        revision, hash = self.status.desired
        other = applied.revision == revision and applied.hash != hash and applied.revision
        if other and not applied.refusal and self._told is not None and self._everything.take(self._tenant.now):
            self._told = (0, b"")
            self.push()

    def _watch(self, now: float) -> None:
        """Have it tell of its workloads while somebody looks at them, and of names as often as is wanted now."""
        key, watched = (self.identity.cluster, self.identity.node), self._tenant.status.watched
        others = watched.get(key, 0.0) > now
        if not others:
            watched.pop(key, None)
            self.status.details = None
        wanted = others, self._tenant.names_every
        if wanted != self._watches and not self._call.unsent:
            self._watches = wanted
            watch = Watch(others=others, names_every=wanted[1])
            self._call.send(frame(ToAgent(watch=watch).SerializeToString()))

    def _renew(self, csr: bytes) -> None:
        if not self._renewals.take(self._tenant.now):
            raise RpcError(GrpcStatus.RESOURCE_EXHAUSTED, "The agent renews its certificate too often.")
        try:
            credentials, self.expires = self._tenant.issue(self.identity, requested_key(csr))
        except CertificateRequestError as error:
            raise RpcError(GrpcStatus.INVALID_ARGUMENT, str(error)) from None
        self.status.expires = self.expires
        self._tenant.changed(self)
        self._call.send(frame(ToAgent(credentials=credentials).SerializeToString()))
