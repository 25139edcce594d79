"""Starts the parts of a sidecar in order, and stops them in reverse order.

Startup: remove the remains of a predecessor, start the admin server, apply the policy (:mod:`datapath.data_plane`).
Shutdown: stop capturing new connections, let running ones finish within the grace period, remove everything that was
installed. The removal happens even if a step fails, and whatever signals arrive. With several workers
(:mod:`sidecar.workers`) they own the listeners and connections; everything else stays in this process.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import trio

from daemon.admin_server import serve_admin
from daemon.log import Logger
from datapath.data_plane import DataPlane
from datapath.sock_diag import holder_of
from sidecar.app.fail_closed import NOT_REFUSED
from sidecar.app.relay_processes import RelayProcesses
from sidecar.app.reloader import Reloader
from sidecar.config.settings import SidecarSettings
from sidecar.observability.admin_api import AdminApi
from sidecar.proxy.server import tune_garbage_collector
from sidecar.supervisor.client import SupervisorClient
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import ClassIds
from traffic_policy.settings import OnFailure
from traffic_policy.units import Duration

_SAMPLE_INTERVAL: Final = 1.0
"""Seconds between two readings of the class counters; rates are means over this interval."""

log = Logger()


class Sidecar:
    """One running sidecar. :func:`sidecar.app.main.serve` makes and runs it."""

    def __init__(
        self,
        settings: SidecarSettings,
        plane: DataPlane,
        reloader: Reloader,
        admin: AdminApi,
        processes: RelayProcesses,
        stay_closed: Callable[[], bool],
        supervisor: SupervisorClient | None = None,
    ) -> None:
        """``settings`` are those of the start; a reload changes them for the data plane only.

        ``stay_closed`` makes the rules refuse connections whose class depends on a name, instead of removing them. It
        returns whether rules stay, and blocks. ``supervisor`` is None if there is none.
        """
        self._serves = False
        self.admin_port: int | None = None
        self._settings = settings
        self._plane = plane
        self._reloader = reloader
        self._admin = admin
        self._processes = processes
        self._close = stay_closed
        self._supervisor = supervisor
        self._was_ready = supervisor is not None and supervisor.again
        self._stop = trio.Event()
        self._life = trio.CancelScope()
        self._patience = trio.CancelScope()

    async def run(
        self,
        signals: AsyncIterator[int],
        on_ready: Callable[[], None],
        on_summary: Callable[[dict[str, object]], None],
    ) -> None:
        """Start everything, serve until SIGTERM or SIGINT, drain, stop everything."""
        async with trio.open_nursery() as nursery:
            # Signals stay blocked to the end: a second SIGTERM must not kill a process that is removing its rules.
            nursery.start_soon(self._follow_signals, signals)
            if self._supervisor is not None:
                nursery.start_soon(self._supervisor.send_heartbeats, self._plane.classifier_turned)
                nursery.start_soon(self._supervisor.listen, self.restore_capture, self._plane.bypassed)
            try:
                try:
                    await self._live(on_ready)
                finally:
                    self._stop.set()  # from here on nothing is reinstalled
            except BaseException:  # also on cancellation: nothing may stay installed unnoticed
                if self._supervisor is not None and self._was_ready:
                    raise  # the supervisor starts a successor, which takes over what is in force
                try:
                    if not await self._stay_closed():
                        await self._end(on_summary)
                except Exception as error:  # noqa: BLE001 (the first error is raised, not one that follows from it)
                    log.error("not all was removed; `podlane sidecar --cleanup` tries again", error=str(error))
                if self._supervisor is not None:
                    self._supervisor.nothing_left()
                raise
            await self._end(on_summary)
            nursery.cancel_scope.cancel()

    async def restore_capture(self) -> None:
        """Reinstall the capture rules, which the supervisor removed because this process had not responded."""
        async with self._plane.changing:
            if self._stop.is_set():
                return  # everything installed is about to be removed
            try:
                await self._plane.restore_capture()
            except PodlaneError as error:
                log.error("new connections do without the proxy; send SIGHUP to try again", error=str(error))

    async def _live(self, on_ready: Callable[[], None]) -> None:
        with self._life:
            async with trio.open_nursery() as nursery:
                async with self._plane.changing:
                    await self._bring_up(nursery)
                nursery.start_soon(self._maintain)
                nursery.start_soon(partial(self._reloader.run, watch=self._settings.watch))
                self._serves = True
                self._say_whether_ready()
                if self._supervisor is not None:
                    nursery.start_soon(self._supervisor.watch_workers, self._processes.ask)
                    # First of all: if this process is killed from here on, its supervisor starts another.
                    self._supervisor.ready()
                self._say_ready(on_ready)
                self._was_ready = True
                tune_garbage_collector()
                await self._stop.wait()
                self._serves = False
                self._say_whether_ready()
                async with self._plane.changing:
                    await self._wind_down()
                nursery.cancel_scope.cancel()

    @property
    def ready(self) -> bool:
        """Whether everything is in force."""
        return self._serves and not self._plane.repairs.lost

    def _say_whether_ready(self) -> None:
        if self._supervisor is not None:
            self._supervisor.in_force(self.ready)

    def _say_ready(self, on_ready: Callable[[], None]) -> None:
        """Report to the parent that everything is in force. Raises PodlaneError if the parent has ended."""
        try:
            on_ready()
        except OSError as error:
            if self._supervisor is not None:
                self._supervisor.not_ready()
            raise PodlaneError(
                f"The sidecar ends, since nobody waits at the other end of --ready-fd any more ({error.strerror}). "
                "Give the descriptor of a pipe that stays open until then, or none."
            ) from None

    async def _follow_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._reloader.ask(signalled=True)
            elif self._stop.is_set():
                self._patience.cancel()
            elif self._serves:
                self._stop.set()
            else:
                self._life.cancel()

    # --- startup and shutdown ------------------------------------------------------------------------------------

    async def _bring_up(self, nursery: trio.Nursery) -> None:
        ids = self._supervisor.ids if self._supervisor is not None else None
        await self._plane.prepare(nursery, None if ids is None else ClassIds.from_document(ids))
        settings = self._settings
        if settings.admin_port:
            handlers = self._admin.handlers(lambda: self.ready)
            serve = partial(serve_admin, settings.admin_address, settings.admin_port, handlers, holder_of)
            if self._supervisor is not None:
                serve = partial(serve, inherited=self._supervisor.admin_listeners, on_open=self._supervisor.hold)
            self.admin_port = await nursery.start(serve)
        await self._reloader.begin()
        status = self._plane.status()
        log.info(
            "ready",
            interface=status.interface,
            total=str(status.policy.total),
            classes=len(status.policy.classes),
            datapath=str(settings.datapath),
            capture=status.captures,
            admin=self.admin_port,
        )

    async def _wind_down(self) -> None:
        grace = self._settings.grace
        log.info("draining", grace=str(grace))
        end = trio.current_time() + grace.seconds
        await self._plane.stop_capture()
        with self._patience:
            cut = await self._plane.drain(Duration.from_seconds(max(0.0, end - trio.current_time())))
            if cut:
                log.warning("connections cut at the end of the grace period", count=cut)

    async def _end(self, on_summary: Callable[[dict[str, object]], None]) -> None:
        with trio.CancelScope(shield=True):
            await self._plane.remove()
        if self._plane.status().snapshots:
            # Last, as the reader may be slow or have ended.
            on_summary(self._admin.classes())

    async def _stay_closed(self) -> bool:
        """After a failed start, if the policy wants it, leave rules that refuse connections whose class depends on a
        name."""
        if self._was_ready or self._settings.on_failure is not OnFailure.CLOSED:
            return False
        with trio.CancelScope(shield=True):
            await self._plane.release_ports()
            try:
                return await trio.to_thread.run_sync(self._close)
            except PodlaneError as error:
                log.warning(NOT_REFUSED, error=str(error))
        return False

    # --- operation -----------------------------------------------------------------------------------------------

    async def _maintain(self) -> None:
        while True:
            await trio.sleep(_SAMPLE_INTERVAL)
            try:
                async with self._plane.changing:
                    await self._processes.maintain()
                    await self._plane.maintain()
            except PodlaneError as error:
                log.warning("counters cannot be read, or rules not be tidied up or put back", error=str(error))
            self._say_whether_ready()
