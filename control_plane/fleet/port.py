"""The agents' port of one process: all that answers there, put together."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import BinaryIO, Final

from control_plane.certificates.authority import LIFETIME, utc
from control_plane.certificates.root_files import LoadedAuthority
from control_plane.domain.events import Event as DomainEvent
from control_plane.fleet.agent_status import FleetStatus
from control_plane.fleet.credentials import Issuer
from control_plane.fleet.enrolment import EnrolmentDesk
from control_plane.fleet.follower import LogFollower
from control_plane.fleet.handler import AgentsHandler
from control_plane.fleet.questions import Questions
from control_plane.fleet.session import AgentSession
from control_plane.fleet.shared_agents import SharedAgents
from control_plane.fleet.token_review import TokenReviewer
from control_plane.gateway.server import Gateway
from control_plane.gateway.tls import server_context
from control_plane.service import ControlPlane
from daemon.errors import CertificateError
from daemon.log import Logger

_LOOK: Final = 5.0
"""Seconds between two looks for certificates that end."""
_MOVE: Final = 8.0
"""Seconds that agents may take to move to another process before their connections are ended."""
_STEP: Final = 0.05
_DRAIN: Final = 2.0
"""Seconds over which agents are asked to go elsewhere when the process is to end."""

log = Logger()


class AgentsPort:
    """A thread with the connections, one that reads the log, and those in which agents enrol."""

    def __init__(
        self,
        plane: ControlPlane,
        fleet: FleetStatus,
        authority: LoadedAuthority,
        listener: socket.socket,
        names: Sequence[str],
        reviewers: Path,
        clock: Callable[[], float],
    ) -> None:
        """``names``: of the server's certificate. ``reviewers``: see
        :class:`~control_plane.fleet.token_review.TokenReviewer`.
        """
        self._plane = plane
        self._authority = authority
        self._names = names
        self._clock = clock
        issuer = Issuer(authority, clock)
        self._desk = EnrolmentDesk(plane, issuer, TokenReviewer(reviewers))
        self._follower = LogFollower(plane.store, self._happened)
        self._handler = AgentsHandler(fleet, issuer, self._desk, self._post, self._follower.read_on)
        states = plane.store.agent_states
        self._shared = SharedAgents(states, fleet, self._handler, self._post, clock) if states is not None else None
        elsewhere = self._shared.relay.ask if self._shared is not None else None
        fleet.questions = Questions(self._handler, self._post, elsewhere)
        tls, self._renew_at = self._certified()
        self._gateway = Gateway([listener], tls, self._handler)

    def start(self) -> None:
        """Let agents connect, after the log was read. Raises :class:`~control_plane.store.errors.StoreError`."""
        self._follower.load(self._handler.happened)
        if self._shared is not None:
            self._shared.load(self._plane.names())
        self._plane.on_append.append(self._follower.read_on)
        self._follower.start()
        self._post(self._look)
        self._gateway.start()
        if self._shared is not None:
            self._shared.start()

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._gateway.connections

    def close(self) -> None:
        """Have agents go elsewhere, and end all threads.

        Where other processes serve the same agents these move first, without a gap. Whoever is left then, an agent of
        an earlier version or one that reaches nobody else, is told that this connection ends.
        """
        if self._plane.store.shared:
            self._move_away()
        self._gateway.stop(_DRAIN)
        self._gateway.join()
        if self._shared is not None:
            self._shared.close()
        self._follower.close()
        self._desk.close()

    def _move_away(self) -> None:
        gone = Event()
        until = time.monotonic() + _MOVE

        def wait() -> None:
            if not self._handler.sessions() or time.monotonic() >= until:
                gone.set()
            else:
                self._gateway.call_later(_STEP, wait)

        def step(waiting: deque[AgentSession], share: int) -> None:
            for _ in range(min(share, len(waiting))):
                waiting.popleft().move()
            if waiting:
                self._gateway.call_later(_STEP, lambda: step(waiting, share))
            else:
                wait()

        def begin() -> None:
            waiting = deque(self._handler.sessions())
            step(waiting, max(1, round(len(waiting) * _STEP / _DRAIN)))

        self._gateway.accept_nobody()
        if self._gateway.run_soon(begin):
            gone.wait(_MOVE + _DRAIN)

    def _happened(self, tenant: str, position: int, events: Sequence[DomainEvent]) -> None:
        self._post(lambda: self._handler.happened(tenant, position, events))

    def _post(self, callback: Callable[[], None]) -> None:
        self._gateway.run_soon(callback)

    def _look(self) -> None:
        self._gateway.call_later(_LOOK, self._look)
        self._handler.expire()
        now = utc(self._clock())
        try:
            changed = self._authority.refresh(now)
            if changed:
                self._handler.trust(self._authority.current.bundle(now).decode())
            if changed or now >= self._renew_at:
                self._gateway.ssl_context, self._renew_at = self._certified()
        except (CertificateError, OSError) as error:
            log.warning("the CA cannot be read; the certificates there are stay in use", reason=str(error))

    def _certified(self) -> tuple[ssl.SSLContext, datetime]:
        """TLS with a new certificate, and when to renew it."""
        now = utc(self._clock())
        authority = self._authority.current
        issued, key = authority.issue_server(self._names, now)
        # OpenSSL reads files; the key is to be in none that lasts.
        with _in_memory(issued.chain) as chain, _in_memory(key) as private:
            tls = server_context(_path(chain), _path(private), authority.bundle(now).decode())
        return tls, now + LIFETIME / 2


def _in_memory(content: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("pem"), "w+b")
    file.write(content)
    file.flush()
    return file


def _path(file: BinaryIO) -> Path:
    return Path(f"/proc/self/fd/{file.fileno()}")
