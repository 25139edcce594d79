"""The sidecar as a whole: shaping, proxy, capture and admin server, brought up in order and taken down in reverse.

Up: classes first, then the listener, then the capture that leads to it, so that no connection ever meets a rule without
a listener or a mark without a class. Down: the capture of new connections goes first, running ones finish within the
grace period, and then everything that was installed is removed, also when any step fails, and whatever signals come.
With several workers (:mod:`sidecar.workers`) listener and connections are theirs, and all else stays here.

A reload (:mod:`sidecar.app.reloading`) goes the way up again (:mod:`sidecar.app.in_force`), from what is there.
Connections that the old policy captured outlive a new one that captures nothing: the listener and the rules they need
stay until the last of them has ended.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final, TypeVar

import trio

from daemon.log import Logger
from datapath.cleanup import forget_aside_marks
from datapath.mesh.types import MeshProxy
from datapath.netfilter.fallback import Command
from datapath.netfilter.install import Installer
from datapath.netfilter.ports import PortReservation, release, reserve
from datapath.netfilter.ruleset import Ruleset
from datapath.quic_classifier import QuicReader, forget_quic_marks
from datapath.shaping import Shaping
from datapath.sock_diag import Listeners
from datapath.stepaside.server import StepAside
from sidecar.app.fail_closed import NOT_REFUSED
from sidecar.app.in_force import MakePool
from sidecar.app.reloading import Reloading
from sidecar.config.file_watch import follow
from sidecar.config.loader import Wanted, sources
from sidecar.config.reload_status import PolicyState
from sidecar.config.settings import SidecarSettings
from sidecar.observability.admin_server import serve_admin
from sidecar.observability.counters import Tallies
from sidecar.observability.metrics import Metrics, ReceivedMetrics
from sidecar.proxy.server import ProxyServer, tune_garbage_collector
from sidecar.supervisor.client import Guard, RestartMetrics, ids_of
from sidecar.workers.pool import WorkerPool
from tc_core.compile.ingress_classifier import Teller
from traffic_policy.errors import PodlaneError
from traffic_policy.settings import Datapath, OnFailure
from traffic_policy.units import Duration

_T = TypeVar("_T")
_SAMPLE_INTERVAL: Final = 1.0
"""Seconds between two readings of the class counters; rates are means over it."""

log = Logger()


class Sidecar(Reloading):
    """One running sidecar. :func:`sidecar.app.main.serve` makes and runs it."""

    def __init__(
        self,
        given: SidecarSettings,
        wanted: Wanted,
        shaping: Shaping,
        installer: Installer,
        make_pool: MakePool | None = None,
        tried: bytes = b"",
        mesh: MeshProxy | None = None,
        guard: Guard | None = None,
    ) -> None:
        """``make_pool``: who relays instead of this process. ``tried``: :func:`contents` of what is wanted.

        ``mesh``: the proxy that connections of this Pod come from. ``guard``: the supervisor, if there is one.
        """
        self.settings = wanted.settings
        self.mesh = mesh
        self.policy = wanted.policy
        self.shaping = shaping
        self.policy_state = PolicyState()
        received = ReceivedMetrics(lambda: self.shaping.received)
        restarts = RestartMetrics(guard)
        self.metrics = Metrics(lambda: self.shaping.snapshots, self._crew, self.policy_state, received, restarts)
        self.ready = False
        self.admin_port: int | None = None
        self._given = given  # before annotations, if there are any, had their say
        self._wanted = wanted
        self._installer = installer
        self._make_pool = make_pool
        self._server: ProxyServer | WorkerPool | StepAside | None = None
        # Rules are there that only connections of an earlier policy may need; also those for what clients opened.
        self._following = False
        self._following_inbound = False
        self._listeners = Listeners()
        self._apart: frozenset[int] = frozenset()
        self._reservation = PortReservation()
        self._in_thread = trio.CapacityLimiter(1)
        self._changing = trio.Lock()  # whoever changes what is in force holds it: from the start to the end
        self._reload_asked = trio.Event()
        self._told_by: Teller | None = None
        self._ruleset: Ruleset | None = None  # what was written last, if that went well
        self._signalled = False  # SIGHUP: read it even if nothing has changed
        self._tried = tried
        self._guard = guard
        self._was_ready = guard is not None and guard.again
        self._armed: tuple[Command, ...] | None = None
        self._quic_tallies = Tallies()  # of a thread of its own
        self._quic = QuicReader(self._make_classifier)
        self._stop = trio.Event()
        self._life = trio.CancelScope()
        self._patience = trio.CancelScope()
        self._began = time.monotonic()

    async def run(
        self,
        signals: AsyncIterator[int],
        on_ready: Callable[[], None],
        on_summary: Callable[[dict[str, object]], None],
    ) -> None:
        """Bring everything up, serve until SIGTERM or SIGINT, drain, take everything down."""
        async with trio.open_nursery() as nursery:
            # Followed to the very end: a second SIGTERM must not kill a process that is removing its rules.
            nursery.start_soon(self._follow_signals, signals)
            if self._guard is not None:
                nursery.start_soon(self._guard.give_signs, self._judge_turned)
                nursery.start_soon(self._guard.listen, self._put_back)
            try:
                try:
                    await self._live(on_ready)
                finally:
                    self._stop.set()  # from here on nothing is put back
            except BaseException:  # cancelled, too: what is installed must not outlive us unseen
                if self._guard is not None and self._was_ready:
                    raise  # to the supervisor, which has another one take over what is in force
                try:
                    if not await self._stay_closed():
                        await self._end(on_summary)
                except Exception as error:  # noqa: BLE001 (what is raised is the first trouble, not what came of it)
                    log.error("not all was removed; `podlane sidecar --cleanup` tries again", error=str(error))
                if self._guard is not None:
                    self._guard.nothing_left()
                raise
            await self._end(on_summary)
            nursery.cancel_scope.cancel()

    async def _live(self, on_ready: Callable[[], None]) -> None:
        with self._life:
            async with trio.open_nursery() as nursery:
                async with self._changing:
                    await self._bring_up(nursery)
                nursery.start_soon(self._keep_house)
                nursery.start_soon(self._reload_when_asked, nursery)
                if self.settings.watch:
                    nursery.start_soon(follow, partial(sources, self._given), lambda: self._reload_asked.set())
                self.ready = True
                if self._guard is not None:
                    nursery.start_soon(self._watch_workers, self._guard)
                    # Before anybody else: should this process be killed from here on, its supervisor starts another.
                    self._guard.ready()
                self._say_ready(on_ready)
                self._was_ready = True
                tune_garbage_collector()
                await self._stop.wait()
                self.ready = False
                async with self._changing:
                    await self._wind_down()
                nursery.cancel_scope.cancel()

    def _say_ready(self, on_ready: Callable[[], None]) -> None:
        """Say that all is in force. Raises PodlaneError when whoever waits for it is gone: then it was for nobody."""
        try:
            on_ready()
        except OSError as error:
            if self._guard is not None:
                self._guard.not_ready()
            raise PodlaneError(
                f"The sidecar ends, since nobody waits at the other end of --ready-fd any more ({error.strerror}). "
                "Give the descriptor of a pipe that stays open until then, or none."
            ) from None

    async def _end(self, on_summary: Callable[[dict[str, object]], None]) -> None:
        with trio.CancelScope(shield=True):
            await self._blocking(self._take_down)
        if self.shaping.snapshots:
            # Last: whoever reads it may be slow, or gone.
            on_summary(self.classes_document())

    async def _stay_closed(self) -> bool:
        """Where there is no start, and the policy wants that, leave its rules there to refuse what names decide."""
        if self._was_ready or self.settings.on_failure is not OnFailure.CLOSED:
            return False
        refused = False
        with trio.CancelScope(shield=True):
            try:
                refused = await self._blocking(self._refuse_all)
            except PodlaneError as error:
                log.warning(NOT_REFUSED, error=str(error))
        return refused

    async def _blocking(self, call: Callable[[], _T]) -> _T:
        """Call in a thread what takes the kernel's time; one at a time, and to its end even when cancelled."""
        return await trio.to_thread.run_sync(call, limiter=self._in_thread)

    async def _follow_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._signalled = True
                self._reload_asked.set()
            elif self._stop.is_set():
                self._patience.cancel()
            elif self.ready:
                self._stop.set()
            else:
                self._life.cancel()

    # --- up and down ---------------------------------------------------------------------------------------------

    async def _bring_up(self, nursery: trio.Nursery) -> None:
        relay = self.settings.datapath is Datapath.RELAY
        if relay:
            await self._blocking(self._clear_the_other_datapath)
        relays = (self.settings.outbound_port, self.settings.inbound_port) if relay else ()
        self._reservation = reserve(p for p in (*relays, self.settings.admin_port) if p)
        if self._reservation.warning:
            log.warning(self._reservation.warning)
        if self.settings.admin_port:
            self.admin_port = await nursery.start(
                serve_admin, self.settings.admin_address, self.settings.admin_port, self._admin_handlers()
            )
        if self._guard is not None and self._guard.ids is not None:
            self.shaping.ids = ids_of(self._guard.ids)
        await self._apply(self.policy, self.shaping.ids_for(self.policy), nursery)
        self.policy_state.begin(self._wanted.digest)
        log.info(
            "ready",
            interface=self.shaping.interface,
            total=str(self.policy.total),
            classes=len(self.policy.classes),
            datapath=str(self.settings.datapath),
            capture=self._server is not None,
            admin=self.admin_port,
        )

    async def _wind_down(self) -> None:
        log.info("draining", grace=str(self.settings.grace))
        end = trio.current_time() + self.settings.grace.seconds
        if self._server is not None or self._quic.running:
            await self._blocking(partial(self._install, self.policy, capture=False))
        await self._quic.stop()
        if self._server is None:
            return
        with self._patience:
            cut = await self._server.drain(Duration.from_seconds(max(0.0, end - trio.current_time())))
            if cut:
                log.warning("connections cut at the end of the grace period", count=cut)

    def _take_down(self) -> None:
        """Remove what was installed; one step's failure does not keep the others from running."""
        with ExitStack() as steps:
            steps.callback(release, self._reservation)
            steps.callback(self.shaping.remove)
            if self.settings.datapath is Datapath.STEP_ASIDE:
                steps.callback(forget_aside_marks)
            elif self._quic.used:
                steps.callback(forget_quic_marks)
            steps.callback(self._installer.remove)
            if self.shaping.snapshots:
                # The interface may be gone, and its counters with it: then the last ones have to do.
                with suppress(PodlaneError):
                    self._sample()
        log.info("removed", interface=self.shaping.interface)

    # --- while it runs -------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(_SAMPLE_INTERVAL)
            try:
                async with self._changing:
                    if isinstance(self._server, WorkerPool):
                        await self._server.look_after()
                    await self._blocking(self._sample)
                    await self._follow_listeners()
                    if self.shaping.unfinished:
                        await self._blocking(self.shaping.finish)
                    await self._settle()
            except PodlaneError as error:
                log.warning("counters cannot be read, or rules not be tidied up", error=str(error))

    def _sample(self) -> None:
        self.shaping.sample(time.monotonic())
