"""Carries out commands: reads a tenant's log, decides, and appends what was decided, before anything else happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hmac import compare_digest
from threading import Lock
from typing import Final

from control_plane.domain.access import Role, TokenText
from control_plane.domain.commands import Command, subject_of
from control_plane.domain.decisions import decide
from control_plane.domain.events import Event, decode, encode, subject
from control_plane.domain.names import is_name
from control_plane.domain.tenant import Tenant
from control_plane.read_models.read_models import ReadModels
from control_plane.store.errors import StaleError
from control_plane.store.event_store import EventStore
from control_plane.store.records import Cause, NewEvent, StoredEvent
from traffic_policy.errors import PodlaneError

_TRIES: Final = 50
"""Other processes may write to the same tenant. One of those that try at once always succeeds."""


class VersionError(PodlaneError):
    """What is to be changed is not what the caller has seen. ``version`` is the one there is."""

    def __init__(self, version: int) -> None:
        self.version = version
        super().__init__("It was changed meanwhile. Read it, see whether your change still fits, and send it again.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token a request has."""

    tenant: str
    token: str
    role: Role

    @property
    def author(self) -> str:
        """As it is recorded."""
        return f"{self.tenant}/{self.token}"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What comes with a command. See :class:`~control_plane.store.records.Cause`.

    ``version`` is that of the subject which the caller has seen; 0: there must be none; None: any.
    """

    author: str
    address: str = ""
    reason: str = ""
    key: str = ""
    fingerprint: str = ""
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What a command has made happen. ``replayed``: an earlier request with its key did, not this one."""

    events: tuple[Event, ...]
    replayed: bool = False


@dataclass(slots=True)
class _Known:
    """A tenant as far as its log was read; whoever reads or changes it holds the lock."""

    tenant: Tenant
    lock: Lock = field(default_factory=Lock)


class ControlPlane:
    """All tenants. Any thread may use it, and other processes may use the same store. Blocks."""

    def __init__(self, store: EventStore, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.lists = ReadModels(store)
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self.on_append: list[Callable[[str], None]] = []
        """Called with the tenant, in the thread of the command, when something of it is on disk. Must not block."""

    @property
    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    def names(self) -> list[str]:
        """Of all tenants, also of closed ones, sorted."""
        return sorted(self.store.heads())

    @contextmanager
    def reading(self, name: str) -> Iterator[Tenant]:
        """A tenant as its log says it is now; one without any event does not exist. It must not be kept."""
        if not is_name(name):
            # Nothing that a database would have to be asked for, or could not be.
            yield Tenant(name)
            return
        known = self._known.get(name) or _Known(Tenant(name))
        with known.lock:
            self._catch_up(known.tenant)
            if known.tenant.position:
                self._known.setdefault(name, known)
            yield known.tenant

    def decide(self, tenant: str, command: Command, version: int | None = None) -> tuple[Event, ...]:
        """What a command would make happen, if it came now. Raises what :meth:`carry_out` does."""
        with self.reading(tenant) as state:
            _check_version(state, command, version)
            return decide(state, command, self.now)

    def carry_out(self, tenant: str, command: Command, by: Circumstances) -> Done:
        """Carry a command out; what happened is on disk on return.

        Raises :class:`VersionError`, what :func:`~control_plane.domain.decisions.decide` raises, and
        :class:`~control_plane.store.errors.KeyReusedError`.
        """
        cause = Cause(by.author, int(self._clock() * 1000), by.address, by.reason, by.key, by.fingerprint)
        for _ in range(_TRIES):
            known = by.key and is_name(tenant)
            before = self.store.carried_out(tenant, by.key, by.fingerprint) if known else None
            if before is not None:
                return Done(_decoded(before), replayed=True)
            with self.reading(tenant) as state:
                _check_version(state, command, by.version)
                events = decide(state, command, self.now)
                if not events and not by.key:
                    return Done(())
                try:
                    stored = self.store.append(tenant, state.position, [_new(event) for event in events], cause)
                except StaleError:
                    continue
            for told in self.on_append:
                told(tenant)
            return Done(_decoded(stored))
        raise StaleError(f"Others write to {tenant} all the time. Try again.")

    def authenticate(self, text: str) -> Caller | None:
        """The caller with this token; None: it is not valid."""
        token = TokenText.parse(text)
        if token is None:
            return None
        with self.reading(token.tenant) as tenant:
            found = tenant.tokens.get(token.id) if tenant.open else None
            if found is None or not compare_digest(found.digest, token.digest) or not found.valid(self.now):
                return None
            return Caller(tenant.name, found.id, found.role)

    def _catch_up(self, tenant: Tenant) -> None:
        for event in self.store.read_all(tenant.name, tenant.position):
            tenant.apply(decode(event.kind, event.data))


def _check_version(tenant: Tenant, command: Command, version: int | None) -> None:
    there = tenant.version(subject_of(command))
    if version is not None and version != there:
        raise VersionError(there)


def _new(event: Event) -> NewEvent:
    kind, data = encode(event)
    return NewEvent(subject(event), kind, data)


def _decoded(stored: list[StoredEvent]) -> tuple[Event, ...]:
    return tuple(decode(event.kind, event.data) for event in stored)
