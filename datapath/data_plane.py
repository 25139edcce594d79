"""A policy in force in one network namespace: classes, routing, what handles captured connections, and rules.

Start: the classes, then the server of captured connections, then the rules that lead to it, so that no connection meets
a rule without a listener or a mark without a class. A policy change follows the same order. Shutdown: stop capturing
new connections (:meth:`DataPlane.stop_capture`), let the captured ones finish (:meth:`DataPlane.drain`), then remove
everything that was installed (:meth:`DataPlane.remove`).

When a policy that captures nothing replaces one that captures, the server and the rules stay until the last captured
connection has ended.

This module manages no process. Blocking calls run in one thread (:class:`~datapath.kernel_thread.KernelThread`); only
servers run in the event loop.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from functools import partial

import trio

from daemon.log import Logger
from datapath.cleanup import clear_step_aside, clear_stepaside_marks, remove_rules_of_others
from datapath.connection_list import ConnectionPage, Order
from datapath.data_plane_settings import DataPlaneSettings
from datapath.data_plane_types import Callbacks, DataPlaneStatus, Server, ServerFactory
from datapath.ebpf.lane import remove_programs
from datapath.ebpf.node_link import NodeLink
from datapath.ebpf.reader import ReaderLife
from datapath.ebpf.writer import ProgramWriter
from datapath.enforcement import CLASSES, MOST_REPAIRS, ROUTES, RULES, Part, Repairs, Unannounced, Watch
from datapath.errors import ConntrackError
from datapath.exclusions import excluded_matches
from datapath.kernel_thread import KernelThread
from datapath.mesh.check import beyond_mesh
from datapath.netfilter.install import Installer
from datapath.netfilter.ports import PortReservation, release, reserve
from datapath.quic_classifier import QuicReader, clear_quic_marks
from datapath.routing.cached import Routing
from datapath.routing.table import RoutingTable
from datapath.ruleset_writer import RulesetWriter
from datapath.shaping import ClassSnapshot, Shaping
from datapath.stepaside.server import StepAside
from tc_core.apply.ends import NodeEnd
from tc_core.compile.ingress_classifier import INGRESS_CLASSIFIERS, IngressClassifier
from tc_core.handles import Handle
from tc_core.model import HtbClass
from traffic_policy.errors import ConfigError, PodlaneError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Bound, TrafficPolicy
from traffic_policy.settings import Datapath
from traffic_policy.units import Duration

log = Logger()


class DataPlane:
    """Puts policies in force, one after the other, and removes what it installed.

    The caller holds :attr:`changing` during :meth:`apply`, :meth:`restore_capture`, :meth:`maintain` and
    :meth:`stop_capture`.
    """

    def __init__(
        self,
        policy: TrafficPolicy,
        settings: DataPlaneSettings,
        shaping: Shaping,
        installer: Installer,
        servers: ServerFactory,
        callbacks: Callbacks | None = None,
        thread: KernelThread | None = None,
        link: NodeLink | None = None,
    ) -> None:
        """``policy`` is the first one to put in force; ``thread`` makes calls in the network namespace, which is the
        node's with ``link``: then programs decide, and there are no rules."""
        self.policy = policy
        self.settings = settings
        self.changing = trio.Lock()
        self._shaping = shaping
        self._installer = installer
        self._servers = servers
        self._callbacks = callbacks or Callbacks()
        self._thread = thread or KernelThread()
        self._quic = QuicReader(servers.quic)
        self._rules: RulesetWriter | ProgramWriter
        if settings.capture.datapath is Datapath.EBPF:
            remove = partial(remove_rules_of_others, installer) if link is None else None  # the node's are not ours
            self._rules = ProgramWriter(shaping, remove, self._callbacks.fallback, servers.reader.maps, link)
        else:
            self._rules = RulesetWriter(installer, shaping, self._quic, self._callbacks.fallback)
        self._server: Server | None = None
        self._reading = ReaderLife(servers.reader, servers.beginnings)
        self._nursery: trio.Nursery | None = None
        self._applied = False
        self._ruled = False  # whether rules of ours may be there
        self._earlier: ClassIds | None = None
        # Rules are installed that only connections of an earlier policy may need, inbound ones included.
        self._following = False
        self._following_inbound = False
        self._reservation = PortReservation()
        self._teller_logged: IngressClassifier | None = None
        self.repairs = Repairs()
        """What is missing, and what was put back."""
        self._watch: Watch | None = None
        self._bypassed = False

    @property
    def server(self) -> Server | None:
        """The server that handles captured connections now."""
        return self._server

    # --- a policy in force ---------------------------------------------------------------------------------------

    async def prepare(self, nursery: trio.Nursery, ids: ClassIds | None = None) -> None:
        """Remove harmful stale state and reserve our ports. Call before the first :meth:`apply`.

        Servers run in ``nursery``. ``ids`` are the class ids of an earlier data plane, still in use by connections.
        Raises :class:`RulesetError`, :class:`PrivilegeError`.
        """
        self._nursery = nursery
        self._earlier = ids
        if ids is not None:
            self._shaping.ids = ids
        await self._thread.run(self._prepare)

    def _prepare(self) -> None:
        capture = self.settings.capture
        relay = capture.datapath is Datapath.RELAY
        if relay:
            clear_step_aside(self._installer, self.settings.on_failure)
        if isinstance(self._rules, RulesetWriter) and self._shaping.classes_in_force():
            remove_programs(self._shaping.interface)  # a killed predecessor's, which would overrule our marks
        listeners = (capture.outbound_port, capture.inbound_port) if relay else ()
        self._reservation = reserve((*listeners, *self.settings.own_ports))
        if self._reservation.warning:
            log.warning(self._reservation.warning)
        programs = isinstance(self._rules, ProgramWriter)
        missing = {RULES: self._rules.missing_rules, CLASSES: self._shaping.missing}
        self._watch = Watch(
            self.repairs,
            missing if programs else {**missing, ROUTES: self._rules.missing_routes},
            Unannounced() if programs else self._installer.changes(),
            self.settings.read_every.seconds,
            time.monotonic(),
            self._thread.entered,
            self.settings.ask_every.seconds,
            self._shaping.devices if isinstance(self._shaping.end, NodeEnd) else None,
        )

    async def apply(self, policy: TrafficPolicy, settings: DataPlaneSettings) -> int:
        """Put a policy in force and return the number of changes to the classes.

        On failure the previous policy, if any, is put back with its class ids.
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
        """Put a policy in force again, with the class ids that live connections use."""
        try:
            await self._apply(policy, ids)
        except PodlaneError as error:
            log.error("the old policy could not be restored in full; send SIGHUP to try again", error=str(error))

    async def _apply(self, policy: TrafficPolicy, ids: ClassIds) -> int:
        """Put a policy in force: classes, then the routing table, then the server, then the rules that lead to it.

        Removed classes go last, when nothing sends to them, so that every packet has a class at any time. A failure
        leaves the completed steps in place; the next call with this or another policy continues from there.
        """
        capture = self.settings.capture
        if problem := beyond_mesh(policy, capture.mesh, capture.datapath):
            raise ConfigError(problem)
        alone = excluded_matches(policy, capture)
        report = await self._thread.run(partial(self._shaping.begin, policy, ids, alone, capture.silent_ports))
        table = RoutingTable.from_policy(policy, capture.silent_ports, capture.mesh)
        routing = Routing(table, ids, self._shaping.pacing_limits(policy, ids))
        await self._serve(routing)
        first, self._ruled = not self._ruled, True
        await self._thread.run(partial(self._write_rules, policy))
        if isinstance(self._rules, ProgramWriter) and self._nursery is not None:
            await self._reading.follow(self._rules.lasting, routing, self._nursery)
        await self._reroute(first=first)
        gone = await self._thread.run(self._shaping.finish)
        self._log_ingress_classifier()
        if gone.dropped_packets:
            log.warning("packets that waited in classes which are gone were dropped", count=gone.dropped_packets)
        self.policy = policy
        self._callbacks.ids(ids)
        await self.sample()
        self._applied = True
        self.repairs.begin_again()
        return len(report.done) + len(gone.done)

    async def _serve(self, routing: Routing) -> None:
        """Pass the routing to the running servers and start those that are missing."""
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
        """Whether connections are relayed, or queued to the step-aside classifier. Programs need none."""
        datapath = self.settings.capture.datapath
        if datapath is Datapath.EBPF:
            return False
        return table.needs_capture or (datapath is Datapath.STEP_ASIDE and table.reads_quic)

    def _write_rules(self, policy: TrafficPolicy, *, capture: bool = True, settled: bool = False) -> None:
        """Write the rules; ``settled`` omits those that only connections of an earlier policy needed."""
        self._rules.write(
            policy,
            self.settings,
            capture=capture,
            keep_captured=not settled and (self._following or not capture),
            keep_inbound=not settled and self._following_inbound,
        )

    async def _reroute(self, *, first: bool) -> None:
        """Move connections that need no proxy to their new classes, now that the rules are in place."""
        try:
            server = self._server
            if isinstance(server, StepAside):
                changed = await server.reroute() if not first or self._may_have_decided() else 0
            else:
                changed = await self._quic.settle()
        except ConntrackError as error:
            log.warning("live connections stay in the classes they have", error=str(error))
        else:
            if changed:
                log.info("live connections changed their class", count=changed)

    def _may_have_decided(self) -> bool:
        """At the start: whether there can be connections of an earlier data plane whose class is another one now.

        Not where no class has another id than before, nor where there were no rules. To look takes milliseconds.
        """
        ids, earlier = self._shaping.ids, self._earlier
        if earlier is None:
            return self._rules.adopted
        return (dict(ids), ids.retired) != (dict(earlier), earlier.retired)

    def _log_ingress_classifier(self) -> None:
        ingress_classifier = self._shaping.ingress_classifier
        if ingress_classifier is not None and ingress_classifier is not self._teller_logged:
            log.info("the class of what arrives is found " + INGRESS_CLASSIFIERS[ingress_classifier])
        self._teller_logged = ingress_classifier

    # --- while it is in force ------------------------------------------------------------------------------------

    def look_again(self) -> None:
        """Drop cached knowledge of rules and kernel features; the next :meth:`apply` reads them from the kernel."""
        self._rules.forget()
        self._quic.try_again()

    def bypassed(self) -> None:
        """The commands of :attr:`Callbacks.fallback` are about to be run: the rules stay away until
        :meth:`restore_capture`."""
        self._bypassed = True

    async def restore_capture(self) -> None:
        """Write the rules of the policy in force again, after the commands of :attr:`Callbacks.fallback` were run.

        Raises what :meth:`apply` raises.
        """
        self._bypassed = False
        self._rules.invalidate()
        await self._thread.run(partial(self._write_rules, self.policy))

    async def maintain(self) -> None:
        """Put back what another program has removed, read counters, follow changes of listening sockets, remove state
        that is no longer needed.

        Call about once per second. Raises the errors of :mod:`tc_core.errors` and :mod:`datapath.errors`; the next
        call continues from there.
        """
        await self.mend(await self._thread.run(self.look))

    def rest(self) -> bool:
        """Whether nothing is being changed or read at present; if so, nothing is until :meth:`resume`, but by the
        caller, who may :meth:`look` meanwhile. A change that begins then waits for its first call to the kernel."""
        if self.changing.locked() or self._thread.busy:
            return False
        self._thread.pause()
        return True

    def resume(self) -> None:
        """The end of :meth:`rest`, by the same task."""
        self._thread.resume()

    def look(self) -> frozenset[Part]:
        """The part of :meth:`maintain` that blocks: see what is missing, for :meth:`mend`, and read the counters.

        In any network namespace.
        """
        parts = self._missing()
        if not parts:
            self._sample()
        return parts

    def _missing(self) -> frozenset[Part]:
        """What to put back now (:mod:`datapath.enforcement`)."""
        watch, repairs = self._watch, self.repairs
        if watch is None or not self._applied or self._bypassed:
            return frozenset()
        beaten = repairs.beaten
        parts = watch.look(time.monotonic())
        if repairs.beaten and not beaten:
            log.error(
                "another program removes what is installed here, again and again: it wins, and nothing is put back",
                lost="; ".join(repairs.lost),
                repairs=MOST_REPAIRS,
                remedy="stop that program, then send SIGHUP",
            )
        return parts

    @property
    def unsettled(self) -> bool:
        """Whether :meth:`mend` has something to do even if nothing is missing."""
        return self._following or self._shaping.unfinished

    async def mend(self, parts: frozenset[Part]) -> None:
        """The rest of :meth:`maintain`, after :meth:`look`."""
        if parts:
            await self._put_back(parts)
            await self.sample()
        await self._follow_listeners()
        if self._shaping.unfinished:
            await self._thread.run(self._shaping.finish)
        await self._settle()

    async def _put_back(self, parts: frozenset[Part]) -> None:
        log.warning("what was installed here is gone, and is put back", lost="; ".join(self.repairs.lost))
        try:
            if CLASSES in parts:
                await self._thread.run(self._shaping.put_back)
        finally:
            if parts & {RULES, ROUTES}:
                await self.restore_capture()

    async def _follow_listeners(self) -> None:
        """Exempt ports on which another program listens on loopback than elsewhere; see datapath.sock_diag."""
        server = self._server
        if server is None or isinstance(server, StepAside) or not server.routing.table.captures(Bound.INBOUND):
            return  # when stepping aside, connections reach their program unchanged
        if not await self._thread.run(self._rules.listeners_changed):
            return
        await self._thread.run(partial(self._write_rules, self.policy))
        log.info("left alone: ports where a program listens on some addresses only", ports=sorted(self._rules.apart))

    async def _settle(self) -> None:
        """Remove the rules and the server of an earlier policy once none of its connections is left."""
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

    # --- status --------------------------------------------------------------------------------------------------

    def status(self) -> DataPlaneStatus:
        """The current status."""
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
            problem="; ".join(filter(None, (self._quic.problem, self._rules.problem))),
        )

    @property
    def counted(self) -> tuple[tuple[ClassSnapshot, ...], tuple[ClassSnapshot, ...]]:
        """The classes of what is sent, and of what is received, as they were read last: all that is needed of
        :meth:`status` by who asks for it each second."""
        received = self._shaping.received
        return self._shaping.snapshots, received.classes if received is not None else ()

    async def sample(self) -> None:
        """Read the counters of all classes. Raises the errors of :mod:`tc_core.errors`."""
        await self._thread.run(self._sample)

    async def refresh(self, age: float) -> None:
        """Read the counters if older than ``age`` seconds and no read is under way. Raises nothing.

        If the interface is gone, the last values stay.
        """
        read_at = self._shaping.read_at
        if (read_at is None or time.monotonic() - read_at > age) and not self._thread.busy:
            with suppress(PodlaneError):
                await self.sample()

    def _sample(self) -> None:
        self._shaping.sample(time.monotonic())

    async def classes_in_kernel(self) -> tuple[dict[Handle, HtbClass], dict[Handle, HtbClass]]:
        """The kernel's classes now, for sent and for received traffic. Raises the errors of tc_core.errors."""
        sent = await self._thread.run(self._shaping.classes_in_force)
        return sent, await self._thread.run(self._shaping.received_in_force)

    async def connections(self, limit: int, order: Order) -> ConnectionPage:
        """The number of live connections of the servers or programs, and ``limit`` of them.

        Raises :class:`ConntrackError`, :class:`ConnectionListError`.
        """
        if isinstance(self._rules, ProgramWriter):
            return await self._reading.connections(limit, order)
        shown = ConnectionPage(0, []) if self._server is None else await self._server.connections(limit, order)
        return await self._quic.beside(shown, limit, order)

    def classifier_turned(self) -> bool | None:
        """Whether the classifier's thread has completed a turn since the last call; None without such a thread."""
        return self._server.turned() if isinstance(self._server, StepAside) else self._quic.turned()

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the sockets that watch the network namespace. What is installed stays; :meth:`maintain` ends."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        self._reading.stop()
        if isinstance(self._rules, ProgramWriter):
            self._rules.close()

    async def stop_capture(self) -> None:
        """Stop capturing new connections; captured ones continue. Raises what :meth:`apply` raises."""
        if self._server is not None or self._quic.running:
            await self._thread.run(partial(self._write_rules, self.policy, capture=False))
        await self._quic.stop()

    async def drain(self, grace: Duration) -> int:
        """Wait for captured connections to end; abort the rest after ``grace`` and return how many."""
        self._reading.stop()
        return 0 if self._server is None else await self._server.drain(grace)

    async def remove(self) -> None:
        """Remove what was installed. All steps run even if one fails; its error is raised at the end."""
        self._reading.stop()
        await self._thread.run(self._remove)

    def _remove(self) -> None:
        with ExitStack() as steps:
            steps.callback(release, self._reservation)
            steps.callback(self._shaping.remove)
            if self.settings.capture.datapath is Datapath.STEP_ASIDE:
                steps.callback(clear_stepaside_marks)
            elif self._quic.used:
                steps.callback(clear_quic_marks)
            steps.callback(self._installer.remove if isinstance(self._rules, RulesetWriter) else self._rules.remove)
            if self._shaping.snapshots:
                # The interface, and its counters, may be gone: the last values stay.
                with suppress(PodlaneError):
                    self._sample()
        log.info("removed", interface=self._shaping.interface)

    async def release_ports(self) -> None:
        """Undo :meth:`prepare` without :meth:`remove`: the rules stay."""
        await self._thread.run(partial(release, self._reservation))
