"""What answers at the agents' port: enrolment without a certificate, and streams with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryptography import x509

from control_plane.certificates.identity import IdentityError, agent_of
from control_plane.domain.events import Event
from control_plane.fleet.agent_status import AgentStatus, FleetStatus
from control_plane.fleet.credentials import Issuer
from control_plane.fleet.enrolment import EnrolmentDesk
from control_plane.fleet.figures import LaneRow
from control_plane.fleet.questions import Reply
from control_plane.fleet.session import EXPIRED, AgentSession
from control_plane.fleet.tenant_sessions import Post, ReadOn, TenantSessions
from control_plane.gateway.rpc import Call, CallListener, GrpcStatus, Peer, RpcError
from fleet_api.agent_pb2 import Credentials, Question
from fleet_api.limits import CONNECT, ENROL, SERVICE

_UNKNOWN_METHOD = "There is no method {}. Update the control plane, or use an agent that is not newer."

HEALTH: Final = "/grpc.health.v1.Health/Check"
"""https://github.com/grpc/grpc/blob/master/doc/health-checking.md"""
_ASKED: Final = (b"", b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode())
"""HealthCheckRequest with no service, or ours."""
_SERVING: Final = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}."""


class AgentsHandler:
    """A :class:`~control_plane.gateway.rpc.CallHandler`. All in the gateway's thread."""

    def __init__(
        self,
        fleet: FleetStatus,
        issuer: Issuer,
        desk: EnrolmentDesk,
        post: Post,
        read_on: ReadOn,
    ) -> None:
        self._fleet = fleet
        self._issuer = issuer
        self._desk = desk
        self._post = post
        self._read_on = read_on
        self._tenants: dict[str, TenantSessions] = {}

    def unary(self, method: str, peer: Peer, request: bytes, reply: Callable[[bytes | RpcError], None]) -> None:
        """Enrol; the answer comes from another thread. Load balancers may ask for our health."""
        if method == HEALTH:
            reply(_health(request))
            return
        if method != ENROL:
            reply(RpcError(GrpcStatus.UNIMPLEMENTED, _UNKNOWN_METHOD.format(method[:100])))
            return
        self._desk.enrol(request, peer.address, reply)

    def opened(self, method: str, call: Call) -> CallListener:
        """Raises :class:`RpcError`."""
        if method != CONNECT:
            raise RpcError(GrpcStatus.UNIMPLEMENTED, _UNKNOWN_METHOD.format(method[:100]))
        if not call.peer.certificate:
            raise RpcError(
                GrpcStatus.UNAUTHENTICATED, "The agent has shown no certificate. Have it join, by a join token."
            )
        try:
            certificate = x509.load_der_x509_certificate(call.peer.certificate)
            identity = agent_of(certificate, self._issuer.authority.current.trust_domain)
        except (IdentityError, ValueError) as error:
            raise RpcError(
                GrpcStatus.PERMISSION_DENIED, f"The certificate is none of an agent's. {error} Have it join again."
            ) from None
        expires = certificate.not_valid_after_utc.timestamp()
        if expires <= self._issuer.clock():
            raise RpcError(GrpcStatus.UNAUTHENTICATED, EXPIRED)
        session = AgentSession(self._tenant(identity.tenant), identity, call, expires)
        session.status.address = call.peer.address
        return session

    def happened(self, tenant: str, position: int, events: Sequence[Event]) -> None:
        """Events of a tenant, the first at this position."""
        self._tenant(tenant).happened(position, events)

    def elsewhere(self, tenant: str, cluster: str, node: str, status: AgentStatus) -> None:
        """Another process says this of an agent."""
        self._tenant(tenant).elsewhere(cluster, node, status)

    def summed_elsewhere(self, tenant: str, second: int, sums: Mapping[str, Sequence[LaneRow]]) -> None:
        """Another process has heard this in a second (Unix time)."""
        self._tenant(tenant).summed_elsewhere(second, sums)

    def process_gone(self, process: str, since: float) -> None:
        """Another process has ended, or cannot be heard, since then (Unix seconds)."""
        for tenant in self._tenants.values():
            tenant.process_gone(process, since)

    def sessions(self) -> list[AgentSession]:
        """Of all tenants, in any order."""
        return [session for tenant in self._tenants.values() for session in tenant.sessions]

    def ask(self, tenant: str, cluster: str, node: str, question: Question, reply: Reply) -> bool:
        """See :class:`~control_plane.fleet.questions.AsksAgents`."""
        return self._tenant(tenant).ask(cluster, node, question, reply)

    def expire(self) -> None:
        """To be called now and then: ends the calls whose certificates have expired."""
        for tenant in self._tenants.values():
            tenant.expire()

    def trust(self, roots: str) -> None:
        """Tell all agents which roots to trust from now on (PEM)."""
        credentials = Credentials(roots=roots)
        for tenant in self._tenants.values():
            tenant.trust(credentials)

    def _tenant(self, name: str) -> TenantSessions:
        """Names are from the log, or from certificates that we have signed."""
        found = self._tenants.get(name)
        if found is None:
            found = TenantSessions(name, self._fleet, self._issuer, self._post, self._read_on)
            self._tenants[name] = found
        return found


def _health(request: bytes) -> bytes | RpcError:
    if request in _ASKED:
        return _SERVING
    return RpcError(GrpcStatus.NOT_FOUND, f"Ask about {SERVICE}, or about no service.")
