"""Carries out commands: reads a tenant's log, decides, and appends what was decided, before anything else happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from threading import Lock
from typing import Final

from control_plane.budgets.ledger import BudgetLedger
from control_plane.domain.access import PLATFORM, Operation, Role, TokenText, highest, may
from control_plane.domain.commands import Command, subject_of
from control_plane.domain.decisions import decide
from control_plane.domain.errors import NotAllowedError, RefusedError
from control_plane.domain.events import Event, decode, encode, subject
from control_plane.domain.names import is_name
from control_plane.domain.tenant import Tenant
from control_plane.read_models.read_models import ReadModels
from control_plane.store.errors import StaleError
from control_plane.store.event_store import EventStore
from control_plane.store.records import Cause, NewEvent, StoredEvent
from control_plane.tracing import ChangeTraces, NoTraces
from daemon.prometheus_text import MetricFamily, ObservedHistogram, histogram
from traffic_policy.errors import PodlaneError

_TRIES: Final = 50
"""Other processes may write to the same tenant. One of those that try at once always succeeds."""
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class VersionError(PodlaneError):
    """What is to be changed is not what the caller has seen. ``version`` is the one there is."""

    def __init__(self, version: int) -> None:
        self.version = version
        super().__init__("It was changed meanwhile. Read it, see whether your change still fits, and send it again.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. ``author`` is as it is recorded, ``role_in`` says the role in a tenant, if there is one.

    ``tenant`` and ``token`` are those of an API token, empty for a user of the identity provider.
    """

    author: str
    role_in: Callable[[str], Role | None]
    tenant: str = ""
    token: str = ""
    viewing: bool = False
    """They look at what another role sees, and change nothing meanwhile."""

    def may(self, operation: Operation, tenant: str) -> bool:
        """Whether this caller may do it in ``tenant``."""
        homes = {tenant, PLATFORM}
        return any(may(role, home, operation, tenant) for home in homes if (role := self.role_in(home)))

    def viewing_as(self, tenant: str, role: Role) -> Caller:
        """The same who has this role in ``tenant`` and none elsewhere: for administrators of it, who may do all that
        the role may. Raises :class:`NotAllowedError`."""
        if role is Role.ADMINISTRATOR or not self.may(Operation.ADMINISTER, tenant):
            raise NotAllowedError(
                f"{self.author} may not look at {tenant[:70]} as {role}.",
                "Administrators of a tenant may, as each role below theirs.",
            )
        return replace(self, role_in=lambda home: role if home == tenant else None, tenant=tenant, viewing=True)


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


class CommandDurations:
    """How long commands took, in seconds, by what became of them. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._outcomes = {outcome: ObservedHistogram(_SECONDS) for outcome in ("done", "refused", "failed")}

    def observe(self, outcome: str, seconds: float) -> None:
        """``outcome``: done, refused or failed."""
        with self._lock:
            self._outcomes[outcome].observe(seconds)

    def family(self) -> MetricFamily:
        """As it is told to Prometheus."""
        family = histogram("podlane_control_plane_command_seconds", "Commands, until they are on disk.", "outcome")
        with self._lock:
            for outcome, observed in self._outcomes.items():
                observed.add_to(family, outcome)
        return family


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
        self.budgets = BudgetLedger(store.volumes)
        self._clock = clock
        self.traces: ChangeTraces = NoTraces()
        self._known: dict[str, _Known] = {}
        self.durations = CommandDurations()
        self.on_append: list[Callable[[str], None]] = []
        """Called with the tenant, in the thread of the command, when something of it is on disk. Must not block."""

    @property
    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    @property
    def now_ms(self) -> int:
        """Milliseconds of Unix time, as records have them."""
        return int(self._clock() * 1000)

    def names(self) -> list[str]:
        """Of all tenants, also of closed ones, sorted."""
        return sorted(self.store.heads())

    @contextmanager
    def reading(self, name: str) -> Iterator[Tenant]:
        """A tenant as its log says it is now; one without any event does not exist. It must not be kept."""
        with self._held(name) as tenant:
            if is_name(name):
                self._catch_up(tenant)
            yield tenant

    @contextmanager
    def _held(self, name: str) -> Iterator[Tenant]:
        """A tenant as far as its log is known. What is no name is one without events: no database is asked for it."""
        known = self._known.get(name) or _Known(Tenant(name))
        with known.lock:
            yield known.tenant
            if known.tenant.position:
                self._known.setdefault(name, known)

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
        began, outcome = time.monotonic(), "failed"
        try:
            with self.traces.command(tenant, type(command).__name__):
                done = self._carry_out(tenant, command, by)
            outcome = "done"
        except (RefusedError, VersionError):
            outcome = "refused"
            raise
        finally:
            self.durations.observe(outcome, time.monotonic() - began)
        return done

    def _carry_out(self, tenant: str, command: Command, by: Circumstances) -> Done:
        cause = Cause(by.author, self.now_ms, by.address, by.reason, by.key, by.fingerprint)
        for caught_up in [False, *[True] * _TRIES]:
            # First by what we know: if that is not all, nothing is appended. Nobody is refused by what may be old.
            with self.reading(tenant) if caught_up else self._held(tenant) as state:
                try:
                    _check_version(state, command, by.version)
                    events = decide(state, command, self.now)
                except (RefusedError, VersionError):
                    if not caught_up:
                        continue
                    if (before := self._carried_out(tenant, by)) is not None:
                        return before
                    raise
                if not events:
                    if not caught_up:
                        continue
                    if (before := self._carried_out(tenant, by)) is not None:
                        return before
                    if not by.key:
                        return Done(())
                try:
                    with self.traces.append(tenant):
                        stored = self.store.append(tenant, state.position, [_new(event) for event in events], cause)
                except StaleError:
                    continue
                happened = _decoded(stored)
                if len(stored) != len(events) or (stored and stored[0].position != state.position + 1):
                    return Done(happened, replayed=True)
                for event in happened:
                    state.apply(event)
            if stored:
                self.traces.appended(tenant, stored[0].position, stored[-1].position)
            self.appended(tenant)
            return Done(happened)
        raise StaleError(f"Others write to {tenant} all the time. Try again.")

    def appended(self, tenant: str) -> None:
        """Tell those who follow that something of a tenant is on disk."""
        for told in self.on_append:
            told(tenant)

    def _carried_out(self, tenant: str, by: Circumstances) -> Done | None:
        """What an earlier request with this key has made happen."""
        stored = self.store.carried_out(tenant, by.key, by.fingerprint) if by.key and is_name(tenant) else None
        return None if stored is None else Done(_decoded(stored), replayed=True)

    def authenticate(self, text: str) -> Caller | None:
        """The caller with this token; None: it is not valid."""
        token = TokenText.parse(text)
        if token is None:
            return None
        with self.reading(token.tenant) as tenant:
            found = tenant.tokens.get(token.id) if tenant.open else None
            if found is None or not compare_digest(found.digest, token.digest) or not found.valid(self.now):
                return None
            roles = {tenant.name: found.role}
            return Caller(f"{tenant.name}/{found.id}", roles.get, tenant.name, found.id)

    def role_of(self, groups: Collection[str], tenant: str) -> Role | None:
        """The highest role that was granted to one of these groups of the identity provider."""
        with self.reading(tenant) as state:
            return highest(state.grants[group] for group in groups if group in state.grants) if state.open else None

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
