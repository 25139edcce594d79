"""Certificates for agents, as messages."""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.certificates.authority import RENEWAL, utc
from control_plane.certificates.identity import AgentIdentity
from control_plane.certificates.root_files import LoadedAuthority
from fleet_api.agent_pb2 import Credentials


class Issuer:
    """Any thread may use it."""

    def __init__(self, authority: LoadedAuthority, clock: Callable[[], float]) -> None:
        self.authority = authority
        self.clock = clock

    @staticmethod
    def new_serial() -> int:
        """That nobody has."""
        return x509.random_serial_number()

    def overlapping_roots(self) -> Credentials | None:
        """All roots, while one is being replaced by another."""
        now = utc(self.clock())
        roots = self.authority.current.trusted(now)
        return Credentials(roots=b"".join(root.pem for root in roots).decode()) if len(roots) > 1 else None

    def issue(
        self, identity: AgentIdentity, key: ec.EllipticCurvePublicKey, serial: int = 0
    ) -> tuple[Credentials, float]:
        """A certificate for this key with all roots to trust, and when it expires (Unix seconds)."""
        now = utc(self.clock())
        authority = self.authority.current
        issued = authority.issue_agent(identity, key, now, serial)
        credentials = Credentials(
            certificate_chain=issued.chain.decode(),
            roots=authority.bundle(now).decode(),
            renew_at=int((now + RENEWAL).timestamp()),
        )
        return credentials, issued.expires.timestamp()
