"""Putting a policy in force: classes, routing, listener, rules; a part of the service's class.

What :mod:`sidecar.app.sidecar` says of the way up and of reloads is here. Whoever calls holds the lock ``_changing``,
or is the only one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import trio

from daemon.log import Logger
from datapath.cleanup import forget_aside_marks
from datapath.data_plane_settings import DataPlaneSettings
from datapath.errors import ConntrackError
from datapath.exclusions import left_alone
from datapath.mesh.check import beyond_mesh
from datapath.mesh.types import MeshProxy
from datapath.netfilter.capture_settings import CaptureSettings
from datapath.netfilter.nfqueue_rules import SAVE, save_rules
from datapath.netfilter.ports import PortReservation, release
from datapath.netfilter.ruleset import Ruleset, build_ruleset
from datapath.routing.cached import Routing
from datapath.routing.table import RoutingTable
from datapath.sock_diag import Listeners
from datapath.stepaside.server import StepAside
from sidecar.app import factory
from sidecar.app.fail_closed import refuse
from sidecar.app.supervised import Supervised
from sidecar.config.data_plane import data_plane_settings
from sidecar.proxy.server import ProxyServer
from sidecar.workers.pool import WorkerPool
from tc_core.compile.ingress_classifier import TELLERS, Teller
from traffic_policy.errors import ConfigError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Bound, TrafficPolicy, TransportProtocol
from traffic_policy.settings import Datapath, OnFailure

MakePool = Callable[..., WorkerPool]
"""A :class:`WorkerPool` of which the first arguments are given."""

log = Logger()


class InForce(Supervised, Protocol):
    """Methods for a sidecar that has these attributes."""

    mesh: MeshProxy | None
    policy: TrafficPolicy
    _server: ProxyServer | WorkerPool | StepAside | None
    _following: bool
    _following_inbound: bool
    _ruleset: Ruleset | None
    _make_pool: MakePool | None
    _listeners: Listeners
    _apart: frozenset[int]
    _told_by: Teller | None
    _reservation: PortReservation

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
            partial(self.shaping.begin, policy, ids, left_alone(policy, self._plane_settings().capture), silent)
        )
        table = RoutingTable.of(policy, silent, self.mesh)
        routing = Routing(table, ids, self.shaping.paced(policy, ids))
        # Connections that an earlier policy captured need its rules for as long as they live.
        if self._server is not None:
            self._following = True
            self._following_inbound |= self._server.routing.table.captures(Bound.INBOUND)
        else:
            self._following = self._following_inbound = False
        if self._server is not None:
            await self._server.follow(routing)
        elif self._needs_server(table):
            server = self._make_server(routing)
            await nursery.start(server.run)
            self._server = server
        if relay:
            self._quic_tallies.keep(routing.ids)
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
        if not self._following:
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

    def _refuse_all(self) -> bool:
        release(self._reservation)
        return refuse(self._installer, self._wanted, self.mesh, self.shaping.interface)

    def _clear_the_other_datapath(self) -> None:
        """What a killed predecessor marked by stepping aside would look like captured connections to the relay.

        Where all that its rules capture is refused, there are no new marks, and they stay until ours take their place.
        """
        if any(self._installer.has_rule(SAVE, rule) for rule in save_rules((TransportProtocol.TCP,))):
            closed = self.settings.on_failure is OnFailure.CLOSED
            if not closed or self._installer.refusing() or not self._installer.refused():
                self._installer.remove()
            forget_aside_marks()

    def _make_server(self, routing: Routing) -> ProxyServer | WorkerPool | StepAside:
        s = self.settings
        if s.datapath is Datapath.STEP_ASIDE:
            return factory.classifier(s, routing, self.metrics)
        if self._make_pool is not None:
            return self._make_pool(
                factory.server_settings(s),
                routing,
                self.metrics,
                log_format=s.log_format,
                log_level=s.log_level,
            )
        ledger = self.shaping.ledger.row(0)
        return factory.relay(s, routing, self.metrics, mesh=self.mesh, ledger=ledger)

    def _make_classifier(self, routing: Routing) -> StepAside:
        return factory.classifier(self.settings, routing, self._quic_tallies)

    def _plane_settings(self) -> DataPlaneSettings:
        return data_plane_settings(self.settings, self.mesh)

    def _capture_settings(self) -> CaptureSettings:
        return self._plane_settings().captured(
            interface=self.shaping.interface,
            quic=self._quic.available,
            connmark=self.shaping.teller is Teller.CONNMARK,
            apart=self._apart,
        )
