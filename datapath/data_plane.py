"""A policy in force in one network namespace: classes, routing, what handles captured connections, and rules.

Up: classes first, then the server of captured connections, then the rules that lead there, so that no connection ever
meets a rule without a listener or a mark without a class. Another policy goes the same way from what is there. Down:
the capture of new connections goes first (:meth:`DataPlane.stop_capture`), running ones finish
(:meth:`DataPlane.drain`), and then everything that was installed is removed (:meth:`DataPlane.remove`).

Connections that an earlier policy captured outlive a new one that captures nothing: the server and the rules that they
need stay until the last of them has ended.

Nothing here knows of a process. What blocks runs in one thread (:class:`~datapath.kernel_thread.KernelThread`); only
servers run in the event loop.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from functools import partial

import trio

from daemon.log import Logger
from datapath.cleanup import clear_stepaside_marks
from datapath.connection_list import ConnectionPage, Order
from datapath.data_plane_settings import DataPlaneSettings
from datapath.data_plane_types import Callbacks, DataPlaneStatus, Server, ServerFactory
from datapath.errors import ConntrackError
from datapath.exclusions import excluded_matches
from datapath.kernel_thread import KernelThread
from datapath.mesh.check import beyond_mesh
from datapath.netfilter.install import Installer
from datapath.netfilter.nfqueue_rules import SAVE, save_rules
from datapath.netfilter.ports import PortReservation, release, reserve
from datapath.quic_classifier import QuicReader, clear_quic_marks
from datapath.routing.cached import Routing
from datapath.routing.table import RoutingTable
from datapath.ruleset_writer import RulesetWriter
from datapath.shaping import Shaping
from datapath.stepaside.server import StepAside
from tc_core.compile.ingress_classifier import INGRESS_CLASSIFIERS, IngressClassifier
from tc_core.handles import Handle
from tc_core.model import HtbClass
from traffic_policy.errors import ConfigError, PodlaneError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Bound, TrafficPolicy, TransportProtocol
from traffic_policy.settings import Datapath, OnFailure
from traffic_policy.units import Duration

log = Logger()


class DataPlane:
    """Puts policies in force, one after the other, and removes what it installed.

    :attr:`changing` is for the caller to hold while it changes what is in force, by :meth:`apply`,
    :meth:`restore_capture`, :meth:`maintain` or :meth:`stop_capture`.
    """

    def __init__(
        self,
        policy: TrafficPolicy,
        settings: DataPlaneSettings,
        shaping: Shaping,
        installer: Installer,
        servers: ServerFactory,
        callbacks: Callbacks | None = None,
    ) -> None:
        """``policy`` is the one that is to be in force first."""
        self.policy = policy
        self.settings = settings
        self.changing = trio.Lock()
        self._shaping = shaping
        self._installer = installer
        self._servers = servers
        self._callbacks = callbacks or Callbacks()
        self._thread = KernelThread()
        self._quic = QuicReader(servers.quic)
        self._rules = RulesetWriter(installer, shaping, self._quic, self._callbacks.fallback)
        self._server: Server | None = None
        self._nursery: trio.Nursery | None = None
        self._applied = False
        # Rules are there that only connections of an earlier policy may need; also those for what clients opened.
        self._following = False
        self._following_inbound = False
        self._reservation = PortReservation()
        self._teller_logged: IngressClassifier | None = None

    @property
    def server(self) -> Server | None:
        """What handles captured connections now."""
        return self._server

    # --- a policy in force ---------------------------------------------------------------------------------------

    async def prepare(self, nursery: trio.Nursery, ids: ClassIds | None = None) -> None:
        """Remove stale state that would harm, and keep our ports free; before the first :meth:`apply`.

        Servers run in ``nursery``. ``ids`` are those of an earlier data plane here, which connections still have.
        Raises :class:`RulesetError`, :class:`PrivilegeError`.
        """
        self._nursery = nursery
        if ids is not None:
            self._shaping.ids = ids
        await self._thread.run(self._prepare)

    def _prepare(self) -> None:
        capture = self.settings.capture
        relay = capture.datapath is Datapath.RELAY
        if relay:
            self._clear_the_other_datapath()
        listeners = (capture.outbound_port, capture.inbound_port) if relay else ()
        self._reservation = reserve((*listeners, *self.settings.own_ports))
        if self._reservation.warning:
            log.warning(self._reservation.warning)

    def _clear_the_other_datapath(self) -> None:
        """What a killed predecessor marked by stepping aside would look like captured connections to the relay.

        Where all that its rules capture is refused, there are no new marks, and they stay until ours take their place.
        """
        if any(self._installer.has_rule(SAVE, rule) for rule in save_rules((TransportProtocol.TCP,))):
            closed = self.settings.on_failure is OnFailure.CLOSED
            if not closed or self._installer.refusing() or not self._installer.refused():
                self._installer.remove()
            clear_stepaside_marks()

    async def apply(self, policy: TrafficPolicy, settings: DataPlaneSettings) -> int:
        """Put a policy in force; gives the number of changes to the classes.

        A failure in the middle puts the policy back that was in force, if there was one, with the class ids it had.
        Raises the errors of :mod:`tc_core.errors` and :mod:`datapath.errors`, and :class:`ConfigError`.
        """
        old_policy, old_ids, old_settings = self.policy, self._shaping.ids, self.settings
        self.settings = settings
        try:
            return await self._apply(policy, self._shaping.ids_for(policy))
        except PodlaneError:
            if self._applied:
                self.settings = old_settings
                await self._go_back(old_policy, old_ids)
            raise

    async def _go_back(self, policy: TrafficPolicy, ids: ClassIds) -> None:
        """Put a policy in force again, under the ids that live connections know it by."""
        try:
            await self._apply(policy, ids)
        except PodlaneError as error:
            log.error("the old policy could not be restored in full; send SIGHUP to try again", error=str(error))

    async def _apply(self, policy: TrafficPolicy, ids: ClassIds) -> int:
        """Put a policy in force: classes, then the table, then the server, then the rules that lead there.

        Last the classes that go, when nobody sends there any more: whatever moves has a class at any time. A failure in
        the middle leaves what was done; applying another policy, or the same one again, goes on from there.
        """
        capture = self.settings.capture
        if problem := beyond_mesh(policy, capture.mesh, capture.datapath):
            raise ConfigError(problem)
        alone = excluded_matches(policy, capture)
        report = await self._thread.run(partial(self._shaping.begin, policy, ids, alone, capture.silent_ports))
        table = RoutingTable.from_policy(policy, capture.silent_ports, capture.mesh)
        routing = Routing(table, ids, self._shaping.pacing_limits(policy, ids))
        await self._serve(routing)
        await self._thread.run(partial(self._write_rules, policy))
        await self._reroute()
        gone = await self._thread.run(self._shaping.finish)
        self._log_ingress_classifier()
        if gone.dropped_packets:
            log.warning("packets that waited in classes which are gone were dropped", count=gone.dropped_packets)
        self.policy = policy
        self._callbacks.ids(ids)
        await self.sample()
        self._applied = True
        return len(report.done) + len(gone.done)

    async def _serve(self, routing: Routing) -> None:
        """Have the servers follow, or start those that are needed."""
        nursery = self._nursery
        assert nursery is not None, "prepare() comes first"
        # Connections that an earlier policy captured need its rules for as long as they live.
        if self._server is not None:
            self._following = True
            self._following_inbound |= self._server.routing.table.captures(Bound.INBOUND)
            await self._server.follow(routing)
        else:
            self._following = self._following_inbound = False
            if self._needs_server(routing.table):
                server = self._servers.captured(routing)
                await nursery.start(server.run)
                self._server = server
        if self.settings.capture.datapath is Datapath.RELAY:
            await self._quic.follow(routing, nursery)

    def _needs_server(self, table: RoutingTable) -> bool:
        """Whether connections are relayed, or shown to the classifier of all of them."""
        aside = self.settings.capture.datapath is Datapath.STEP_ASIDE
        return table.needs_capture or (aside and table.reads_quic)

    def _write_rules(self, policy: TrafficPolicy, *, capture: bool = True, settled: bool = False) -> None:
        """``settled``: without what only connections of an earlier policy needed."""
        self._rules.write(
            policy,
            self.settings,
            capture=capture,
            keep_captured=not settled and (self._following or not capture),
            keep_inbound=not settled and self._following_inbound,
        )

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

    def _log_ingress_classifier(self) -> None:
        ingress_classifier = self._shaping.ingress_classifier
        if ingress_classifier is not None and ingress_classifier is not self._teller_logged:
            log.info("the class of what arrives is found " + INGRESS_CLASSIFIERS[ingress_classifier])
        self._teller_logged = ingress_classifier

    # --- while it is in force ------------------------------------------------------------------------------------

    def look_again(self) -> None:
        """Do not rely on what was written before, or was missing in the kernel: the next :meth:`apply` looks."""
        self._rules.forget()
        self._quic.try_again()

    async def restore_capture(self) -> None:
        """Write the rules of the policy in force again: somebody has run what :attr:`Callbacks.fallback` was told.

        Raises what :meth:`apply` raises.
        """
        self._rules.invalidate()
        await self._thread.run(partial(self._write_rules, self.policy))

    async def maintain(self) -> None:
        """Read counters, follow programs that begin or cease to listen, remove what is needed no more.

        To be called every second or so. Raises the errors of :mod:`tc_core.errors` and :mod:`datapath.errors`; the next
        call goes on from there.
        """
        await self.sample()
        await self._follow_listeners()
        if self._shaping.unfinished:
            await self._thread.run(self._shaping.finish)
        await self._settle()

    async def _follow_listeners(self) -> None:
        """Leave alone the ports whose program is another one on loopback than elsewhere; see datapath.sock_diag."""
        server = self._server
        if server is None or isinstance(server, StepAside) or not server.routing.table.captures(Bound.INBOUND):
            return  # stepping aside, connections stay with the program that they are for
        if not await self._thread.run(self._rules.listeners_changed):
            return
        await self._thread.run(partial(self._write_rules, self.policy))
        log.info("left alone: ports where a program listens on some addresses only", ports=sorted(self._rules.apart))

    async def _settle(self) -> None:
        """Take away what only connections of an earlier policy needed, once there are none: rules, the server."""
        if not self._following:
            return
        server = self._server
        if server is not None:
            if server.active:
                return
            if not self._needs_server(server.routing.table):
                await server.drain(self.settings.grace)
                self._server = None
        await self._thread.run(partial(self._write_rules, self.policy, settled=True))
        self._following = self._following_inbound = False

    # --- what it tells -------------------------------------------------------------------------------------------

    def status(self) -> DataPlaneStatus:
        """What is in force."""
        shaping = self._shaping
        return DataPlaneStatus(
            interface=shaping.interface,
            policy=self.policy,
            ids=shaping.ids,
            capture=self._rules.capture_settings(self.settings),
            ingress_classifier=shaping.ingress_classifier,
            limits=shaping.pacing_limits(self.policy, shaping.ids),
            snapshots=shaping.snapshots,
            received=shaping.received,
            read_at=shaping.read_at,
            captures=self._server is not None,
            problem=self._quic.problem,
        )

    async def sample(self) -> None:
        """Read the counters of all classes. Raises the errors of :mod:`tc_core.errors`."""
        await self._thread.run(self._sample)

    async def refresh(self, age: float) -> None:
        """Read them if they are older than ``age`` seconds and the kernel is not being asked already. Raises nothing.

        The interface may be gone: then what was last read has to do.
        """
        read_at = self._shaping.read_at
        if (read_at is None or time.monotonic() - read_at > age) and not self._thread.busy:
            with suppress(PodlaneError):
                await self.sample()

    def _sample(self) -> None:
        self._shaping.sample(time.monotonic())

    async def classes_in_kernel(self) -> tuple[dict[Handle, HtbClass], dict[Handle, HtbClass]]:
        """The classes that the kernel has now, of what is sent and of what arrives. Raises those of tc_core.errors."""
        sent = await self._thread.run(self._shaping.classes_in_force)
        return sent, await self._thread.run(self._shaping.received_in_force)

    async def connections(self, limit: int, order: Order) -> ConnectionPage:
        """The connections alive that a server has to do with, and ``limit`` of them. Raises :class:`ConntrackError`."""
        shown = ConnectionPage(0, []) if self._server is None else await self._server.connections(limit, order)
        return await self._quic.beside(shown, limit, order)

    def classifier_turned(self) -> bool | None:
        """Whether the thread that judges packets has come round since the last call; None: there is none."""
        return self._server.turned() if isinstance(self._server, StepAside) else self._quic.turned()

    # --- the end -------------------------------------------------------------------------------------------------

    async def stop_capture(self) -> None:
        """Let new connections go direct; those that are captured go on. Raises what :meth:`apply` does."""
        if self._server is not None or self._quic.running:
            await self._thread.run(partial(self._write_rules, self.policy, capture=False))
        await self._quic.stop()

    async def drain(self, grace: Duration) -> int:
        """Wait until every captured connection has ended; cut what is left after ``grace``, and tell how many."""
        return 0 if self._server is None else await self._server.drain(grace)

    async def remove(self) -> None:
        """Remove what was installed; one step's failure does not keep the others from running, and is raised."""
        await self._thread.run(self._remove)

    def _remove(self) -> None:
        with ExitStack() as steps:
            steps.callback(release, self._reservation)
            steps.callback(self._shaping.remove)
            if self.settings.capture.datapath is Datapath.STEP_ASIDE:
                steps.callback(clear_stepaside_marks)
            elif self._quic.used:
                steps.callback(clear_quic_marks)
            steps.callback(self._installer.remove)
            if self._shaping.snapshots:
                # The interface may be gone, and its counters with it: then the last ones have to do.
                with suppress(PodlaneError):
                    self._sample()
        log.info("removed", interface=self._shaping.interface)

    async def release_ports(self) -> None:
        """Undo what :meth:`prepare` did, where :meth:`remove` does not: rules stay."""
        await self._thread.run(partial(release, self._reservation))
