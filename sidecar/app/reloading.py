"""Following the policy while the sidecar runs; a part of the service's class.

A reload fails as a whole: then the old policy is put in force once more with the class ids it had.
"""

from __future__ import annotations

import gc
from functools import partial
from typing import Final, Protocol

import trio

from daemon.log import Logger
from datapath.netfilter.ruleset import Ruleset
from sidecar.app.in_force import InForce
from sidecar.config.loader import Wanted, attempt
from sidecar.config.reload_status import Result
from sidecar.config.settings import SidecarSettings
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy

_NOT_USED: Final = "the new policy is not used; the old one stays in force"

log = Logger()


class Reloading(InForce, Protocol):
    """Methods for a sidecar that has these attributes."""

    settings: SidecarSettings
    _given: SidecarSettings
    _wanted: Wanted
    _ruleset: Ruleset | None
    _reload_asked: trio.Event
    _signalled: bool
    _tried: bytes

    async def _reload_when_asked(self, nursery: trio.Nursery) -> None:
        while True:
            await self._reload_asked.wait()
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
            self._tried = found.contents
            old, ids, settings = self.policy, self.shaping.ids, self.settings
            self.settings = wanted.settings
            if signalled:
                self._ruleset = None
                self._quic.try_again()
            try:
                changes = await self._apply(wanted.policy, self.shaping.ids_for(wanted.policy), nursery)
            except PodlaneError as error:
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
        except PodlaneError as error:
            log.error("the old policy could not be restored in full; send SIGHUP to try again", error=str(error))


def tell_warnings(wanted: Wanted) -> None:
    """Say what annotations ask for and do not get."""
    for warning in wanted.warnings:
        log.warning(warning)
