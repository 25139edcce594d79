"""How an agent joins: it shows a join token, or a token of its ServiceAccount, and gets a certificate."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from control_plane.certificates.authority import CertificateRequestError, fingerprint, requested_key
from control_plane.certificates.identity import AgentIdentity
from control_plane.domain.access import TokenText
from control_plane.domain.commands import EnrolAgent, EnrolReviewedAgent
from control_plane.domain.errors import InvalidError, RefusedError
from control_plane.domain.events import AgentEnrolled
from control_plane.domain.names import is_name
from control_plane.domain.tenant import ClusterTrust, MemberCluster, Tenant
from control_plane.fleet.credentials import Issuer
from control_plane.fleet.token_review import ReviewError, TokenReviewer
from control_plane.gateway.rpc import GrpcStatus, RpcError
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.errors import KeyReusedError, StaleError, StoreError
from daemon.log import Logger
from fleet_api.agent_pb2 import Credentials, EnrolRequest

_WORKERS: Final = 4
_MOST_WAITING: Final = 512
"""Requests of all that wait for a worker."""
_MOST_REVIEWS: Final = 2
"""Of one tenant at once: its API server may be slow, and others wait for the same workers."""
_AGAIN: Final = 3600
"""Seconds during which the same request is answered again, with the same join token and key: the answer was lost."""
_SPENT: Final = (
    "The join token is not valid: it was used, revoked, has expired, or never was. "
    "Issue another; each is for one agent."
)

log = Logger(spacing=1.0)
Reply = Callable[[bytes | RpcError], None]


class EnrolmentDesk:
    """Enrols agents in threads of its own, since it waits for disks and API servers."""

    def __init__(self, plane: ControlPlane, issuer: Issuer, reviewer: TokenReviewer) -> None:
        self._plane = plane
        self._issuer = issuer
        self._reviewer = reviewer
        self._workers = ThreadPoolExecutor(_WORKERS, "enrolment")
        self._waiting = 0
        self._reviews: Counter[str] = Counter()
        self._lock = Lock()

    def enrol(self, request: bytes, address: str, reply: Reply) -> None:
        """Answer soon, from another thread."""
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                reply(RpcError(GrpcStatus.UNAVAILABLE, "Too many agents join at once. Try again in a while."))
                return
            self._waiting += 1
        self._workers.submit(self._answer, request, address, reply)

    def close(self) -> None:
        """Finish what has begun."""
        self._workers.shutdown(cancel_futures=True)

    def _answer(self, request: bytes, address: str, reply: Reply) -> None:
        try:
            reply(self.credentials(request, address).SerializeToString())
        except RpcError as error:
            log.info("an agent was not let in", address=address, reason=str(error))
            reply(error)
        except (StoreError, StaleError) as error:
            log.warning("an agent could not join", address=address, reason=str(error))
            reply(RpcError(GrpcStatus.UNAVAILABLE, "The control plane's database fails. Try again in a while."))
        except Exception:  # nobody looks at this thread's result, and the agent would wait for its answer
            log.exception("an agent could not join", address=address)
            reply(RpcError(GrpcStatus.INTERNAL, "The control plane failed. Look into its log."))
        finally:
            with self._lock:
                self._waiting -= 1

    def credentials(self, request: bytes, address: str) -> Credentials:
        """The answer to an EnrolRequest. Blocks. Raises :class:`RpcError`, :class:`StoreError`."""
        try:
            asked = EnrolRequest.FromString(request)
            key = requested_key(asked.csr)
        except DecodeError:
            raise RpcError(GrpcStatus.INVALID_ARGUMENT, "This is no request to join. Update the agent.") from None
        except CertificateRequestError as error:
            raise RpcError(GrpcStatus.INVALID_ARGUMENT, str(error)) from None
        try:
            if asked.WhichOneof("proof") == "join_token":
                return self._by_join_token(asked, key, address)
            if asked.WhichOneof("proof") == "service_account_token":
                return self._by_service_account(asked, key, address)
        except InvalidError as error:
            raise RpcError(GrpcStatus.INVALID_ARGUMENT, str(error)) from None
        except RefusedError as error:
            raise RpcError(GrpcStatus.PERMISSION_DENIED, str(error)) from None
        raise RpcError(
            GrpcStatus.UNAUTHENTICATED,
            "The agent has shown no token. Give it one by --join-token, or by a ServiceAccount.",
        )

    def _by_join_token(self, asked: EnrolRequest, key: ec.EllipticCurvePublicKey, address: str) -> Credentials:
        # What follows a dot is the digest of our root, which is for the agent.
        token = TokenText.parse(asked.join_token.partition(".")[0])
        if token is None:
            raise RpcError(
                GrpcStatus.PERMISSION_DENIED,
                "This is no join token. Give the agent what `podlane join-token` has printed.",
            )
        with self._plane.reading(token.tenant) as tenant:
            cluster = asked.cluster or _cluster_with(tenant, token.id)
            if asked.cluster not in ("", cluster) or cluster not in tenant.clusters:
                raise RpcError(GrpcStatus.PERMISSION_DENIED, _SPENT)
        serial = self._issuer.new_serial()
        by = Circumstances(
            f"{token.tenant}/join-token/{token.id}",
            address,
            "an agent joins",
            # Who sends the same again, because the answer was lost, is answered again; nobody else is.
            key=f"join:{token.id}",
            fingerprint=hashlib.sha256(
                f"{cluster}\n{asked.node}\n{fingerprint(key)}\n{token.digest}".encode()
            ).hexdigest(),
        )
        command = EnrolAgent(cluster, asked.node, token.id, token.digest, f"{serial:x}")
        try:
            done = self._plane.carry_out(token.tenant, command, by)
        except KeyReusedError:
            raise RpcError(GrpcStatus.PERMISSION_DENIED, _SPENT) from None
        [event] = done.events
        assert isinstance(event, AgentEnrolled)
        identity = AgentIdentity(token.tenant, cluster, event.node, event.serial)
        if done.replayed:
            with self._plane.reading(token.tenant) as tenant:
                known = tenant.clusters.get(cluster, MemberCluster(cluster)).agents.get(event.node)
                lost = known is not None and known.serial == event.serial and self._plane.now < event.at + _AGAIN
            if not lost:
                raise RpcError(GrpcStatus.PERMISSION_DENIED, _SPENT)
            serial = self._issuer.new_serial()
        log.info("an agent has joined", tenant=identity.tenant, cluster=cluster, node=identity.node, address=address)
        return self._issuer.issue(identity, key, serial)[0]

    def _by_service_account(self, asked: EnrolRequest, key: ec.EllipticCurvePublicKey, address: str) -> Credentials:
        name, slash, cluster = asked.cluster.rpartition("/")
        tenant = name if slash else "default"
        trust = self._trust(tenant, cluster)
        if trust is None:
            raise RpcError(
                GrpcStatus.PERMISSION_DENIED,
                f"Agents do not join {cluster[:70]} of {tenant[:70]} by a ServiceAccount. Have its administrator say "
                "which, by `podlane clusters trust`, or use a join token.",
            )
        with self._lock:
            if self._reviews[tenant] >= _MOST_REVIEWS:
                raise RpcError(
                    GrpcStatus.UNAVAILABLE, "Too many agents of the tenant join at once. Try again in a while."
                )
            self._reviews[tenant] += 1
        try:
            node = self._reviewer.node_of(asked.service_account_token, tenant, cluster, trust)
        except ReviewError as error:
            raise RpcError(
                GrpcStatus.UNAVAILABLE if error.passing else GrpcStatus.PERMISSION_DENIED, str(error)
            ) from None
        finally:
            with self._lock:
                self._reviews[tenant] -= 1
        if asked.node not in ("", node):
            raise RpcError(
                GrpcStatus.PERMISSION_DENIED,
                f"The ServiceAccount's token is of a Pod on {node}, not on {asked.node[:260]!r}. Leave the name out.",
            )
        serial = self._issuer.new_serial()
        command = EnrolReviewedAgent(cluster, node, trust.url, trust.service_account, f"{serial:x}")
        by = Circumstances(f"{tenant}/serviceaccount/{trust.service_account}", address, "an agent joins")
        self._plane.carry_out(tenant, command, by)
        log.info("an agent has joined", tenant=tenant, cluster=cluster, node=node, address=address)
        return self._issuer.issue(AgentIdentity(tenant, cluster, node, f"{serial:x}"), key, serial)[0]

    def _trust(self, name: str, cluster: str) -> ClusterTrust | None:
        if not is_name(name):
            return None
        with self._plane.reading(name) as tenant:
            found = tenant.clusters.get(cluster) if tenant.open else None
            return found.trust if found else None


def _cluster_with(tenant: Tenant, join_token: str) -> str:
    """The cluster of a join token; empty: none has it."""
    for name, cluster in tenant.clusters.items():
        if join_token in cluster.join_tokens or join_token in cluster.spent:
            return name
    return ""
