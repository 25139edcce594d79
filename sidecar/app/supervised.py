"""What a sidecar does for its supervisor: a part of the service's class."""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

import trio

from daemon.log import Logger
from datapath.netfilter.fallback import Command
from datapath.netfilter.install import Installer
from datapath.netfilter.ruleset import Ruleset
from datapath.stepaside.server import StepAside
from sidecar.observability.admin_routes import Answers
from sidecar.supervisor.client import Guard, ids_told
from traffic_policy.errors import PodlaneError
from traffic_policy.policy import TrafficPolicy

_ASK_S: Final = 1.0
"""Seconds between two questions to the workers."""

log = Logger()


class Supervised(Answers, Protocol):
    """Methods for a sidecar that has these attributes."""

    _guard: Guard | None
    _armed: tuple[Command, ...] | None
    _changing: trio.Lock
    _installer: Installer
    _ruleset: Ruleset | None
    _stop: trio.Event

    def _install(self, policy: TrafficPolicy, *, capture: bool = True, settled: bool = False) -> None: ...

    def _arm(self, ruleset: Ruleset, *, install: bool = False) -> None:
        """Tell the supervisor what to do without this process; ``install``: until that is done, for both rulesets."""
        if self._guard is None:
            return
        s = self.settings
        commands = self._installer.failing(ruleset, s.on_failure, s.datapath)
        if install and self._armed:
            commands = (*self._armed, *(each for each in commands if each not in self._armed))
        ids = ids_told(self.shaping.ids)
        if commands != self._armed or ids != self._guard.ids:
            self._guard.arm(commands, ids, s.on_failure, s.log_format)
            self._armed = commands

    async def _put_back(self) -> None:
        """The supervisor has taken capture away, since this process was silent for so long."""
        async with self._changing:
            if self._stop.is_set():
                return  # what is installed is about to be removed
            self._ruleset = self._armed = None
            self._installer.distrust()
            try:
                await self._blocking(partial(self._install, self.policy))
            except PodlaneError as error:
                log.error("new connections do without the proxy; send SIGHUP to try again", error=str(error))

    def _judge_turned(self) -> bool | None:
        return self._server.turned() if isinstance(self._server, StepAside) else self._quic.turned()

    async def _watch_workers(self, guard: Guard) -> None:
        guard.all_workers_answer()  # they have, when they began
        while True:
            await trio.sleep(_ASK_S)
            if not await self._ask_workers():
                guard.all_workers_answer()
