"""Reads the log for those who follow it: at once what this process has written, and soon what others have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Condition, Thread
from time import monotonic
from typing import Final

from control_plane.domain.errors import UnknownEventError
from control_plane.domain.events import Event, decode
from control_plane.store.errors import StoreError
from control_plane.store.event_store import EventStore
from daemon.log import Logger

_OTHERS: Final = 0.2
"""Seconds between two looks at what other processes have written."""

log = Logger(spacing=10.0)
Happened = Callable[[str, int, Sequence[Event]], None]
"""Tenant, position of the first event, events in order."""


class LogFollower:
    """Tells each event of each tenant once and in order. A thread of its own."""

    def __init__(self, store: EventStore, happened: Happened) -> None:
        """``happened`` is called in the follower's thread."""
        self._store = store
        self._happened = happened
        self._positions: dict[str, int] = {}
        self._news = Condition()
        self._tenants: dict[str, list[Callable[[], None]]] = {}
        """What to read, and whom to tell afterwards."""
        self._ending = False
        self._thread = Thread(target=self._run, name="log follower", daemon=True)

    def load(self, happened: Happened) -> None:
        """Before the start: tell everything that there is, in the caller's thread. Raises :class:`StoreError`,
        :class:`UnknownEventError`."""
        for tenant in self._store.heads():
            self._read(tenant, happened)

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def read_on(self, tenant: str, then: Callable[[], None] | None = None) -> None:
        """Read a tenant's log now, and call ``then`` when what there is by now has been told.

        Any thread may call it; it does not block.
        """
        with self._news:
            self._tenants.setdefault(tenant, []).extend([then] if then else [])
            self._news.notify()

    def close(self) -> None:
        """End the thread."""
        with self._news:
            self._ending = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        looked = 0.0
        while True:
            with self._news:
                if not self._tenants and not self._ending:
                    self._news.wait(_OTHERS)
                if self._ending:
                    return
                tenants, self._tenants = self._tenants, {}
            try:
                if monotonic() - looked >= _OTHERS:
                    for tenant in self._behind():
                        tenants.setdefault(tenant, [])
                    looked = monotonic()
                while tenants:
                    tenant = next(iter(tenants))
                    self._read(tenant, self._happened)
                    for then in tenants.pop(tenant):
                        then()
            except (StoreError, UnknownEventError) as error:
                log.warning("what was written cannot be followed; it is tried again", reason=str(error))
                with self._news:
                    self._news.wait_for(lambda: self._ending, _OTHERS)
                    for tenant, then_all in tenants.items():
                        self._tenants.setdefault(tenant, []).extend(then_all)

    def _behind(self) -> list[str]:
        heads = self._store.heads()
        return [tenant for tenant, head in heads.items() if head.position > self._positions.get(tenant, 0)]

    def _read(self, tenant: str, happened: Happened) -> None:
        after = self._positions.get(tenant, 0)
        while page := self._store.read(tenant, after):
            happened(tenant, after + 1, [decode(event.kind, event.data) for event in page])
            after = self._positions[tenant] = page[-1].position
