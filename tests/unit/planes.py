"""A data plane over kernels that are made up: what it does is in a journal, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Never, cast

import trio

from datapath.connection_list import ConnectionPage, Order
from datapath.data_plane import DataPlane
from datapath.data_plane_settings import DataPlaneSettings
from datapath.data_plane_types import Callbacks, ServerFactory
from datapath.errors import RulesetError
from datapath.netfilter.capture_settings import CaptureSettings
from datapath.netfilter.fallback import Command
from datapath.netfilter.install import Backend, Installer, InstallReport
from datapath.netfilter.rules import Rule
from datapath.netfilter.ruleset import Ruleset
from datapath.routing.cached import Routing
from datapath.shaping import Shaping
from tc_core.apply.execute import Report as ClassReport
from tc_core.fake.kernel import FakeKernel
from tc_core.probe.capability import ALL_FEATURES
from traffic_policy.marks import ClassIds
from traffic_policy.policy import Match, TrafficPolicy
from traffic_policy.policy_file import parse_policy
from traffic_policy.settings import Datapath, OnFailure
from traffic_policy.units import Duration

WEB = "total: 100Mbit\nclasses: [{name: web, rate: 1Mbit, match: {host: web.example.com}}]"
API = "total: 100Mbit\nclasses: [{name: api, rate: 1Mbit, match: {host: api.example.com, port: 8080}}]"
PORT = "total: 100Mbit\nclasses: [{name: port, rate: 1Mbit, match: {port: 80}}]"
SETTINGS = DataPlaneSettings(CaptureSettings(), grace=Duration.parse("5s"))


class RecordedShaping(Shaping):
    def __init__(self, kernel: FakeKernel, journal: list[str]) -> None:
        super().__init__(kernel, "eth0", ALL_FEATURES, replace=False)
        self._journal = journal

    def begin(
        self,
        policy: TrafficPolicy,
        ids: ClassIds,
        excluded_matches: Sequence[Match] = (),
        silent_ports: Sequence[int] = (),
    ) -> ClassReport:
        self._journal.append(f"classes {names(policy)}")
        return super().begin(policy, ids, excluded_matches, silent_ports)

    def finish(self) -> ClassReport:
        self._journal.append("classes that go")
        return super().finish()

    def remove(self) -> None:
        self._journal.append("classes removed")
        super().remove()


class RecordedInstaller(Installer):
    """Installs nothing. ``refused`` are how many of the next rulesets it refuses, ``gone`` what others have removed."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__(cast("Backend", None))
        self.refused = 0
        self.without: frozenset[str] = frozenset()
        self.gone: list[str] = []
        self.known: list[Ruleset] = []
        self._journal = journal

    def number(self, ruleset: Ruleset) -> int:
        """From 0 on, by when it was seen first."""
        if ruleset not in self.known:
            self.known.append(ruleset)
        return self.known.index(ruleset)

    def install(self, ruleset: Ruleset) -> InstallReport:
        if self.refused:
            self.refused -= 1
            self._journal.append(f"rules {self.number(ruleset)} refused")
            raise RulesetError("another program holds the lock")
        self.gone.clear()
        self._journal.append(f"rules {self.number(ruleset)}{'' if ruleset.capture else ' without capture'}")
        return InstallReport(changed=True, adopted=False)

    def lacking(self) -> frozenset[str]:
        return self.without

    def failing(self, ruleset: Ruleset, way: OnFailure, datapath: Datapath) -> tuple[Command, ...]:  # noqa: ARG002
        return (Command((str(self.number(ruleset)),), ""),)

    def changes(self) -> SimpleNamespace:
        return SimpleNamespace(fileno=lambda: None, arrived=lambda: bool(self.gone), close=lambda: None)

    def missing_rules(self, ruleset: Ruleset) -> list[str]:  # noqa: ARG002
        return list(self.gone)

    def missing_routes(self, ruleset: Ruleset) -> list[str]:  # noqa: ARG002
        return []

    def invalidate(self) -> None:
        self._journal.append("installed rules are looked at")

    def remove(self) -> bool:
        self._journal.append("rules removed")
        return True

    def has_rule(self, chain: str, rule: Rule) -> bool:  # noqa: ARG002
        return False


class RecordedServer:
    def __init__(self, routing: Routing, journal: list[str]) -> None:
        self.routing = routing
        self.active = 0
        self._journal = journal
        self._drained = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        self._journal.append("server")
        task_status.started()
        await self._drained.wait()

    async def follow(self, routing: Routing) -> None:
        self._journal.append("server follows")
        self.routing = routing

    async def drain(self, grace: Duration) -> int:
        self._journal.append(f"server drains {grace}")
        self._drained.set()
        return 0

    async def connections(self, limit: int, order: Order) -> ConnectionPage:  # noqa: ARG002
        return ConnectionPage(self.active, [])


class Planes:
    """One data plane, and everything around it."""

    def __init__(self, first: str, settings: DataPlaneSettings = SETTINGS) -> None:
        self.journal: list[str] = []
        self.kernel = FakeKernel("eth0")
        self.shaping = RecordedShaping(self.kernel, self.journal)
        self.installer = RecordedInstaller(self.journal)
        self.servers: list[RecordedServer] = []
        self.plane = DataPlane(
            parse_policy(first),
            settings,
            self.shaping,
            self.installer,
            ServerFactory(self._server, self._no_quic),
            Callbacks(lambda ids: self.journal.append(f"ids {sorted(ids)}"), self._fallback),
        )

    async def apply(self, text: str) -> list[str]:
        """Have a policy applied; what that did."""
        await self.plane.apply(parse_policy(text), SETTINGS)
        return self.told()

    def told(self) -> list[str]:
        """What was done since the last call."""
        told = list(self.journal)
        self.journal.clear()
        return told

    def _server(self, routing: Routing) -> RecordedServer:
        self.servers.append(RecordedServer(routing, self.journal))
        return self.servers[-1]

    def _no_quic(self, _routing: Routing) -> Never:
        raise AssertionError

    def _fallback(self, commands: tuple[Command, ...], ids: ClassIds, way: OnFailure) -> None:  # noqa: ARG002
        self.journal.append("fallback " + " ".join(each.argv[0] for each in commands))


@asynccontextmanager
async def prepared(first: str) -> AsyncIterator[Planes]:
    """With a place for its servers, which end with the block."""
    made = Planes(first)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await made.plane.prepare(nursery)
            yield made
            nursery.cancel_scope.cancel()


def names(policy: TrafficPolicy) -> str:
    return " ".join(each.name for each in policy.classes)
