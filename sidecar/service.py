"""The sidecar as a whole: shaping, proxy, capture and admin server, brought up in order and taken down in reverse.

Up: classes first, then the listener, then the capture that leads to it, so that no connection ever meets a rule without
a listener or a mark without a class. Down: the capture of new connections goes first, running ones finish within the
grace period, and then everything that was installed is removed, also when any step fails, and whatever signals come.
With several workers (:mod:`sidecar.workers`) listener and connections are theirs, and all else stays here.

A reload goes the way up again, from what is there. It fails as a whole: then the old policy is put in force once more
with the class ids it had. Connections that the old policy captured outlive a new one that captures nothing: the
listener and the rules they need stay until the last of them has ended.
"""

from __future__ import annotations

import gc
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from sidecar.access_log import AccessLogSettings
from sidecar.admin import open_admin
from sidecar.config import AccessLogMode, SidecarSettings
from sidecar.datapath import Datapath
from sidecar.errors import ConfigError, ConntrackError, SidecarError
from sidecar.guard import Guard, RestartMetrics, ids_of
from sidecar.left_alone import left_alone
from sidecar.listening import Listeners
from sidecar.mesh.kinds import MeshProxy
from sidecar.mesh.scope import beyond_mesh
from sidecar.metrics import Metrics, ReceivedMetrics
from sidecar.netfilter.aside import SAVE, save_rules
from sidecar.netfilter.capture_settings import CaptureSettings, capture_settings
from sidecar.netfilter.failing import Command
from sidecar.netfilter.install import Installer
from sidecar.netfilter.ipv6 import ipv6_missing
from sidecar.netfilter.ports import PortReservation, release, reserve
from sidecar.netfilter.ruleset import Ruleset, build_ruleset
from sidecar.on_failure import OnFailure
from sidecar.policies import Wanted, attempt, sources
from sidecar.policy_state import PolicyState, Result
from sidecar.quic import QuicReader, forget_quic_marks
from sidecar.refusal import NOT_REFUSED, refuse
from sidecar.remains import forget_aside_marks
from sidecar.routing.cached import Routing
from sidecar.routing.table import RoutingTable
from sidecar.server import ProxyServer, ServerSettings, tune_garbage_collector
from sidecar.shaping import Shaping
from sidecar.stepaside.server import StepAside
from sidecar.supervised import Supervised
from sidecar.tallies import Tallies
from sidecar.transport.edge import TransparentEdge
from sidecar.transport.inbound import InboundEdge
from sidecar.watch import follow
from sidecar.workers.pool import WorkerPool
from tc_core.errors import TcError
from tc_core.marks import ClassIds
from tc_core.policy import Bound, TrafficPolicy, TransportProtocol
from tc_core.tellers import TELLERS, Teller
from tc_core.units import Duration

_T = TypeVar("_T")
MakePool = Callable[..., WorkerPool]
"""A :class:`WorkerPool` of which the first arguments are given."""
_SAMPLE_INTERVAL: Final = 1.0
"""Seconds between two readings of the class counters; rates are means over it."""
_NOT_USED: Final = "the new policy is not used; the old one stays in force"

log = structlog.get_logger()


class Sidecar(Supervised):
    """One running sidecar. :func:`sidecar.starting.serve` makes and runs it."""

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
        lock: socket.SocketType | None = None,
    ) -> None:
        """``make_pool``: who relays instead of this process. ``tried``: :func:`contents` of what is wanted.

        ``mesh``: the proxy that connections of this Pod come from. ``guard``: the supervisor, if there is one, and
        ``lock`` the one of this namespace, for another to take over.
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
        lent = self._heirloom = guard.heirloom if guard is not None else None
        self._beside = lent is not None  # connections of an earlier proxy may still run
        # Rules are there that only connections of an earlier policy may need; also those for what clients opened.
        self._following = lent is not None and lent.captured
        self._following_inbound = lent is not None and lent.captured_inbound
        self._listeners = Listeners()
        self._apart: frozenset[int] = frozenset()
        self._reservation = PortReservation()
        self._in_thread = trio.CapacityLimiter(1)
        self._changing = trio.Lock()  # whoever changes what is in force holds it: reload, settling, the end
        self._reload_asked = trio.Event()
        self._told_by: Teller | None = None
        self._ruleset: Ruleset | None = None  # what was written last, if that went well
        self._signalled = False  # SIGHUP: read it even if nothing has changed
        self._tried = tried
        self._guard = guard
        self._was_ready = guard is not None and guard.again
        self._armed: tuple[Command, ...] | None = None
        self._quic = QuicReader(self._make_classifier, heir=self._heirloom is not None)
        self._lock = lock
        self._admin: list[trio.SocketListener] = []
        self._admin_life = trio.CancelScope()
        self._mine = trio.Event()  # unless it is lent, what is in force is this proxy's to change
        self._mine.set()
        self._leaving = False  # another has taken over: what is installed is its own now
        self._ends_first = False  # or is to, when the last relayed connection has ended
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
                nursery.start_soon(self._guard.listen, self._put_back, self._lend, self._leave, self._be_alone)
            try:
                await self._live(on_ready)
            except BaseException:  # cancelled, too: what is installed must not outlive us unseen
                if self._guard is not None and self._was_ready:
                    raise  # to the supervisor, which has another one take over what is in force
                try:
                    if not await self._stay_closed():
                        await self._end(on_summary)
                except Exception as error:  # noqa: BLE001 (what is raised is the first trouble, not what came of it)
                    log.error("not all was removed; `podlane sidecar --cleanup` tries again", error=str(error))
                raise
            await self._end(on_summary)
            nursery.cancel_scope.cancel()

    async def _live(self, on_ready: Callable[[], None]) -> None:
        with self._life:
            async with trio.open_nursery() as nursery:
                await self._bring_up(nursery)
                nursery.start_soon(self._keep_house)
                nursery.start_soon(self._reload_when_asked, nursery)
                if self.settings.watch:
                    nursery.start_soon(follow, partial(sources, self._given), lambda: self._reload_asked.set())
                self.ready = True
                on_ready()
                self._was_ready = True
                if self._guard is not None:
                    nursery.start_soon(self._watch_workers, self._guard)
                    self._guard.ready()
                tune_garbage_collector()
                await self._stop.wait()
                self.ready = False
                async with self._changing:
                    if self._leaving:
                        await self._go()
                    else:
                        await self._wind_down()
                nursery.cancel_scope.cancel()

    async def _end(self, on_summary: Callable[[dict[str, object]], None]) -> None:
        if self._leaving:
            return
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
            except (TcError, SidecarError) as error:
                log.warning(NOT_REFUSED, error=str(error))
        return refused

    def _refuse_all(self) -> bool:
        release(self._reservation)
        return refuse(self._installer, self._wanted, self.mesh, self.shaping.interface)

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
        if self._heirloom is not None:
            self._reservation = PortReservation(self._heirloom.reserved + self._reservation.added)
        if self._reservation.warning:
            log.warning(self._reservation.warning)
        if self.settings.admin_port:
            self._admin = self._inherited_admin() or await open_admin(
                self.settings.admin_address, self.settings.admin_port
            )
            self.admin_port = self._admin[0].socket.getsockname()[1]
        if self._heirloom is None:
            nursery.start_soon(self._serve_admin)
        if self._guard is not None and self._guard.ids is not None:
            self.shaping.ids = ids_of(self._guard.ids)
        await self._apply(self.policy, self.shaping.ids_for(self.policy), nursery)
        if self._heirloom is not None:
            nursery.start_soon(self._serve_admin)  # until now the one before answers, and is ready
            self._let_go(self._heirloom)
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

    async def _apply(self, policy: TrafficPolicy, ids: ClassIds, nursery: trio.Nursery) -> int:
        """Put a policy in force: classes, then the table, then the listener, then the rules that lead there.

        Last the classes that go, when nobody sends there any more: whatever moves has a lane at any time.

        Gives the number of changes to the classes. A failure in the middle leaves what was done; applying another
        policy, or the same one again, goes on from there.
        """
        if problem := beyond_mesh(policy, self.mesh, self.settings.datapath):
            raise ConfigError(problem)
        relay = self.settings.datapath is Datapath.RELAY
        silent = self.settings.silent_ports
        report = await self._blocking(
            partial(self.shaping.begin, policy, ids, left_alone(policy, self.settings), silent)
        )
        table = RoutingTable.of(policy, silent, self.mesh)
        routing = Routing(table, ids, self.shaping.paced(policy, ids))
        # Connections that an earlier policy captured need its rules for as long as they live, here or in another proxy.
        if self._server is not None:
            self._following = True
            self._following_inbound |= self._server.routing.table.captures(Bound.INBOUND)
        elif not self._beside:
            self._following = self._following_inbound = False
        if self._server is not None:
            await self._server.follow(routing)
        elif self._needs_server(table):
            server = self._make_server(routing)
            await nursery.start(server.run)
            self._server = server
        if relay:
            await self._quic.follow(routing, nursery)
        await self._blocking(partial(self._install, policy))
        await self._reroute()
        gone = await self._blocking(self.shaping.finish)
        if self.shaping.teller is not None and self.shaping.teller is not self._told_by:
            log.info("the class of what arrives is found " + TELLERS[self.shaping.teller])
        self._told_by = self.shaping.teller
        if gone.dropped_packets:
            log.warning("packets that waited in classes which are gone were dropped", count=gone.dropped_packets)
        self.policy = policy
        self.metrics.keep(ids)
        await self._blocking(self._sample)
        return len(report.done) + len(gone.done)

    def _needs_server(self, table: RoutingTable) -> bool:
        """Whether connections are relayed, or shown to the classifier of all of them."""
        aside = self.settings.datapath is Datapath.STEP_ASIDE
        return table.needs_capture or (aside and table.reads_quic)

    def _install(self, policy: TrafficPolicy, *, capture: bool = True, settled: bool = False) -> None:
        """``settled``: without what only connections of an earlier policy needed."""
        relay = self.settings.datapath is Datapath.RELAY
        if relay and any(match.needs_content for _, match in policy.rules(Bound.INBOUND)):
            self._apart = self._listeners.apart()
        build = partial(
            build_ruleset,
            policy,
            self.shaping.ids,
            capture=capture,
            keep_captured=not settled and (self._following or not capture),
            keep_inbound=not settled and self._following_inbound,
        )
        ruleset = build(self._capture_settings())
        self._arm(ruleset, install=ruleset != self._ruleset)
        if ruleset == self._ruleset:
            return  # written before; that it is there still is for SIGHUP to look at, since looking takes 30 ms
        self._ruleset = None
        if relay:
            without = partial(build, replace(self._capture_settings(), quic=False))
            ruleset = self._quic.install(self._installer.install, ruleset, without)
        else:
            self._installer.install(ruleset)
        self._ruleset = ruleset
        self._arm(ruleset)

    async def _reroute(self) -> None:
        """Have connections follow the policy that need no proxy to live, now that its rules are in place."""
        try:
            server = self._server
            changed = await (server.reroute() if isinstance(server, StepAside) else self._quic.settle())
        except ConntrackError as error:
            log.warning("live connections stay in the classes they have", error=str(error))
        else:
            if changed:
                log.info("live connections changed their class", count=changed)

    async def _settle(self) -> None:
        """Take away what only connections of an earlier policy needed, once there are none: rules, the listener."""
        if not self._following or self._beside:
            return
        server = self._server
        if server is not None:
            if server.active:
                return
            if not self._needs_server(server.routing.table):
                await server.drain(self.settings.grace)
                self._server = None
        await self._blocking(partial(self._install, self.policy, settled=True))
        self._following = self._following_inbound = False

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
                with suppress(TcError):
                    self._sample()
        log.info("removed", interface=self.shaping.interface)

    # --- while it runs -------------------------------------------------------------------------------------------

    async def _reload_when_asked(self, nursery: trio.Nursery) -> None:
        while True:
            await self._reload_asked.wait()
            await self._mine.wait()
            self._reload_asked = trio.Event()
            await self._reload(nursery)
            # What was read leaves cycles behind, which would stay for as long as the thresholds that connections want.
            gc.collect(0)

    async def _reload(self, nursery: trio.Nursery) -> None:
        """Read the policy again; what cannot be used, or not be put in force, leaves the old policy as it is."""
        signalled, self._signalled = self._signalled, False
        read = partial(attempt, self._given, self._wanted, None if signalled else self._tried)
        # In a thread of its own, left behind when the end comes: a policy may be huge, and a file a FIFO.
        found = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        if found is None:
            return
        if found.wanted is None:
            self._tried = found.contents
            self._refuse(found.problem, Result.REFUSED)
            return
        wanted = found.wanted
        async with self._changing:
            if not self._mine.is_set():  # another reads it; or this one again, when that has failed
                self._signalled |= signalled
                self._reload_asked.set()
                return
            self._tried = found.contents
            old, ids, settings = self.policy, self.shaping.ids, self.settings
            self.settings = wanted.settings
            if signalled:
                self._ruleset = None
                self._quic.try_again()
            try:
                changes = await self._apply(wanted.policy, self.shaping.ids_for(wanted.policy), nursery)
            except (TcError, SidecarError) as error:
                self.settings = settings
                await self._go_back(old, ids, nursery)
                self._refuse(str(error), Result.FAILED)
            else:
                self._wanted = wanted
                self.policy_state.applied(wanted.digest)
                tell_warnings(wanted)
                log.info("policy in force", changes=changes, hash=wanted.digest)

    def _refuse(self, problem: str, result: Result) -> None:
        self.policy_state.refused(problem, result)
        log.error(_NOT_USED, error=problem)

    async def _go_back(self, policy: TrafficPolicy, ids: ClassIds, nursery: trio.Nursery) -> None:
        """Put a policy in force again, under the ids that live connections know it by."""
        try:
            await self._apply(policy, ids, nursery)
        except (TcError, SidecarError) as error:
            log.error("the old policy could not be restored in full; send SIGHUP to try again", error=str(error))

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(_SAMPLE_INTERVAL)
            try:
                async with self._changing:
                    if isinstance(self._server, WorkerPool):
                        await self._server.look_after()
                    await self._blocking(self._sample)
                    if not self._mine.is_set():
                        continue
                    await self._follow_listeners()
                    if self.shaping.unfinished:
                        await self._blocking(self.shaping.finish)
                    await self._settle()
            except (TcError, SidecarError) as error:
                log.warning("counters cannot be read, or rules not be tidied up", error=str(error))

    async def _follow_listeners(self) -> None:
        """Leave alone the ports whose program is another one on loopback than elsewhere; see sidecar.listening."""
        server = self._server
        if server is None or isinstance(server, StepAside) or not server.routing.table.captures(Bound.INBOUND):
            return  # stepping aside, connections stay with the program that they are for
        now = self._listeners.apart()
        if now == self._apart:
            return
        await self._blocking(partial(self._install, self.policy))
        log.info("left alone: ports where a program listens on some addresses only", ports=sorted(self._apart))

    def _sample(self) -> None:
        self.shaping.sample(time.monotonic())

    def _clear_the_other_datapath(self) -> None:
        """What a killed predecessor marked by stepping aside would look like captured connections to the relay."""
        if any(self._installer.has_rule(SAVE, rule) for rule in save_rules((TransportProtocol.TCP,))):
            self._installer.remove()
            forget_aside_marks()

    def _make_server(self, routing: Routing) -> ProxyServer | WorkerPool | StepAside:
        s = self.settings
        if s.datapath is Datapath.STEP_ASIDE:
            return self._make_classifier(routing, self.metrics)
        if self._make_pool is not None:
            return self._make_pool(
                self._server_settings(),
                routing,
                self.metrics,
                log_format=s.log_format,
                log_level=s.log_level,
                inherited=self._heirloom.groups if self._heirloom is not None else (),
            )
        lent = self._heirloom
        edge, inbound = None, None
        if lent is not None:
            doors = [[each for group in lent.on(port) for each in group] for port in (s.outbound_port, s.inbound_port)]
            edge, inbound = TransparentEdge(doors[0], mesh=self.mesh), InboundEdge(doors[1])
        return ProxyServer(
            self._server_settings(),
            routing,
            self.metrics,
            edge=edge or TransparentEdge(mesh=self.mesh),
            inbound=inbound,
            ledger=self.shaping.ledger.row(0),
        )

    def _make_classifier(self, routing: Routing, tallies: Tallies) -> StepAside:
        s = self.settings
        return StepAside(
            s.outbound_port,
            routing,
            tallies,
            detection_timeout=s.detection_timeout,
            access_log=access_log_of(s),
        )

    def _server_settings(self) -> ServerSettings:
        s = self.settings
        return ServerSettings(
            port=s.outbound_port,
            inbound_port=s.inbound_port,
            ipv6=ipv6_missing() is None,
            max_connections=s.max_connections,
            detection_timeout=s.detection_timeout,
            connect_timeout=s.connect_timeout,
            idle_timeout=s.idle_timeout,
            access_log=access_log_of(s),
        )

    def _capture_settings(self) -> CaptureSettings:
        return capture_settings(
            self.settings,
            interface=self.shaping.interface,
            mesh=self.mesh,
            quic=self._quic.available,
            connmark=self.shaping.teller is Teller.CONNMARK,
            apart=self._apart,
        )


def access_log_of(settings: SidecarSettings) -> AccessLogSettings | None:
    """Where the access log goes; None: nowhere."""
    return None if settings.access_log is AccessLogMode.OFF else AccessLogSettings(settings.access_log_file)


def tell_warnings(wanted: Wanted) -> None:
    """Say what annotations ask for and do not get."""
    for warning in wanted.warnings:
        log.warning(warning)
