"""What an agent must know to join, besides a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from control_plane.certificates.authority import utc
from control_plane.certificates.root_files import LoadedAuthority


@dataclass(frozen=True, slots=True)
class Invitation:
    """``place`` is HOST:PORT of the agents' port; without a host if it is that of the REST API."""

    place: str
    authority: LoadedAuthority
    clock: Callable[[], float]

    @property
    def roots(self) -> str:
        """The CAs of agents, PEM: for those who are told no digest."""
        return self.authority.current.bundle(utc(self.clock())).decode()

    def join_token(self, text: str) -> str:
        """A join token as it is given to an agent, which trusts who shows a root with this digest (as kubeadm does with
        ``--discovery-token-ca-cert-hash``)."""
        return f"{text}.{self.authority.current.signer(utc(self.clock())).digest}"
