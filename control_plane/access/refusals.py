"""Notes which requests were refused, without letting those who send many of them cost much.

Equal ones within a second are one, with their count. They are written once a second, by one thread: of a process that
is killed, the last second is lost.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Lock, Thread
from typing import Final

from control_plane.domain.access import PLATFORM
from control_plane.domain.errors import UnknownEventError
from control_plane.service import ControlPlane
from control_plane.store.errors import StoreError
from control_plane.store.refusals import RefusedRequest
from daemon.log import Logger

_PERIOD: Final = 1.0
_MOST: Final = {True: 500, False: 100}
"""Different ones in a period: of known authors, and of others. Of those beyond only the number is kept."""
_SPACING: Final = 60.0

log = Logger(_SPACING)


class RefusalRecorder:
    """Any thread may use it."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._lock = Lock()
        self._flushing = Lock()
        self._noted: dict[RefusedRequest, int] = {}
        """When each was first refused, by what makes requests equal."""
        self._counts: Counter[RefusedRequest] = Counter()
        self._kinds: Counter[bool] = Counter()

    def note(self, refused: RefusedRequest) -> None:
        """Note a request. Its ``tenant`` is the one that it was about. Does not block."""
        alike = replace(refused, at=0)
        with self._lock:
            if alike not in self._noted and self._kinds[refused.known] >= _MOST[refused.known]:
                alike = RefusedRequest(
                    PLATFORM, 0, "", refused.known, "", "others", refused.status, "too-many",
                    "More different requests were refused at once than are noted.",
                )  # fmt: skip
            if alike not in self._noted:
                self._noted[alike] = refused.at
                self._kinds[refused.known] += 1
            self._counts[alike] += 1

    def flush(self) -> None:
        """Write what was noted. Raises :class:`~control_plane.store.errors.StoreError`; then all is still noted."""
        with self._flushing:
            with self._lock:
                taken = list(self._noted.items())
                counts = {each: self._counts[each] for each, _ in taken}
            by_tenant = defaultdict(list)
            for each, at in taken:
                by_tenant[self._owner(each)].append((each, at))
            for tenant, found in by_tenant.items():
                self._plane.store.refusals.add(tenant, [replace(e, at=at, count=counts[e]) for e, at in found])
                with self._lock:
                    for each, _ in found:
                        self._forget(each, counts[each])

    def _forget(self, written: RefusedRequest, count: int) -> None:
        self._counts[written] -= count
        if self._counts[written]:
            # More came meanwhile: they are the next second's.
            self._noted[written] = self._plane.now_ms
        else:
            del self._counts[written], self._noted[written]
            self._kinds[written.known] -= 1

    def _owner(self, refused: RefusedRequest) -> str:
        """Whose log it belongs in: that of the tenant that it was about, else of the author's, else the platform's."""
        for name in (refused.tenant, refused.author.partition("/")[0]):
            try:
                with self._plane.reading(name) as tenant:
                    if tenant.open:
                        return name
            except UnknownEventError:
                continue
        return PLATFORM

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have a thread write once a second, and all that is left at the end."""
        ended = Event()

        def write() -> None:
            while not ended.wait(_PERIOD):
                self._try_to_flush()

        thread = Thread(target=write, name="refusals")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._try_to_flush()

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except StoreError as error:
            log.warning("refused requests are not written yet", error=str(error))
