"""Reloads the policy while the sidecar runs, and records the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from daemon.file_watch import follow
from daemon.log import Logger
from datapath.data_plane import DataPlane
from datapath.data_plane_settings import DataPlaneSettings
from sidecar.config.loader import Wanted, attempt, sources
from sidecar.config.reload_status import ReloadResult, ReloadStatus
from sidecar.config.settings import SidecarSettings
from sidecar.proxy.memory_trim import trim_memory
from traffic_policy.errors import PodlaneError

_NOT_USED: Final = "the new policy is not used; the old one stays in force"

log = Logger()


class Reloader:
    """Reads the wanted policy again on request, and has the data plane apply it."""

    def __init__(
        self,
        given: SidecarSettings,
        wanted: Wanted,
        plane: DataPlane,
        state: ReloadStatus,
        plane_settings: Callable[[SidecarSettings], DataPlaneSettings],
        tried: bytes = b"",
    ) -> None:
        """``given`` are the settings before annotations are applied; ``wanted`` is the policy read at the start.

        ``tried`` are the :func:`~sidecar.config.loader.contents` that ``wanted`` was read from. ``plane_settings``
        derives the data plane's settings. ``state`` records the result of each reload.
        """
        self.wanted = wanted
        """The policy in force."""
        self.state = state
        self._given = given
        self._plane = plane
        self._plane_settings = plane_settings
        self._tried = tried
        self._asked = trio.Event()
        self._signalled = False  # reload even if nothing has changed

    async def begin(self) -> None:
        """Apply the policy read at the start. The caller holds the data plane's lock, whose errors are passed on."""
        await self._apply(self.wanted)
        self.state.begin(self.wanted.digest)

    def ask(self, *, signalled: bool = False) -> None:
        """Request a reload; ``signalled``: also if nothing has changed, and verify what is installed."""
        self._signalled = self._signalled or signalled
        self._asked.set()

    async def run(self, *, watch: bool) -> None:
        """Reload on request until cancelled; ``watch``: also when a file changes."""
        async with trio.open_nursery() as nursery:
            if watch:
                nursery.start_soon(follow, partial(sources, self._given), self.ask)
            while True:
                await self._asked.wait()
                self._asked = trio.Event()
                await self.reload()
                # An error that a thread raised and frames of trio refer to each other, and its traceback keeps the new
                # policy. The garbage collector would not look there for long at the thresholds that suit connections,
                # nor in its youngest generation alone, which these objects have outlived.
                trim_memory()

    async def reload(self) -> None:
        """Read the policy again. If it cannot be read or applied, the old one stays in force."""
        signalled, self._signalled = self._signalled, False
        read = partial(attempt, self._given, self.wanted, None if signalled else self._tried)
        # In a thread, abandoned on cancellation: a policy may be huge, and a file a FIFO.
        found = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        if found is None:
            return
        if found.wanted is None:
            self._tried = found.contents
            self._refuse(found.problem, ReloadResult.REFUSED)
            return
        wanted = found.wanted
        async with self._plane.changing:
            self._tried = found.contents
            if signalled:
                self._plane.look_again()
            try:
                changes = await self._apply(wanted)
            except PodlaneError as error:
                self._refuse(str(error), ReloadResult.FAILED)
            else:
                self.wanted = wanted
                self.state.applied(wanted.digest)
                log_warnings(wanted)
                log.info("policy in force", changes=changes, hash=wanted.digest)

    async def _apply(self, wanted: Wanted) -> int:
        return await self._plane.apply(wanted.policy, self._plane_settings(wanted.settings))

    def _refuse(self, problem: str, result: ReloadResult) -> None:
        self.state.refused(problem, result)
        log.error(_NOT_USED, error=problem)


def log_warnings(wanted: Wanted) -> None:
    """Log annotations that cannot be honoured."""
    for warning in wanted.warnings:
        log.warning(warning)
