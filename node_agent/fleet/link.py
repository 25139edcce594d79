"""The connection to a control plane, made again and again. Lanes never wait for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from daemon.log import Logger
from fleet_api.limits import CONNECT
from node_agent.fleet.enrolment import Enrolment
from node_agent.fleet.errors import CallEndedError, UnreachableError
from node_agent.fleet.fleet_settings import Address, FleetSettings
from node_agent.fleet.policies import FleetPolicies
from node_agent.fleet.saved_state import SavedState
from node_agent.fleet.talk import ControlPlaneTalk, NodeFacts
from node_agent.fleet.transport import calling
from traffic_policy.errors import PodlaneError

_SHORTEST: Final = 0.5
_LONGEST: Final = 20.0
"""Seconds between which the longest pause before the next attempt grows; each is a random part of it, so that ten
thousand agents do not come at once (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). After
an absence as many come in a second as one core of a control plane shakes hands with."""
_REFUSED: Final = (30.0, 90.0)
"""Seconds before an agent that is refused asks again: somebody has to do something first."""
_PROVEN: Final = 10.0
"""Seconds after which a connection counts as one that works."""

log = Logger()


@dataclass(slots=True)
class LinkStatus:
    """``since`` is when it was connected, or disconnected (Unix seconds). ``error``: why it is not connected."""

    connected: bool = False
    since: float = 0.0
    address: str = ""
    error: str = ""
    refused: bool = False
    connections: int = 0
    """How often it was connected."""


def pause(attempt: int, part: Callable[[], float] = random.random) -> float:
    """Seconds before the next attempt; ``attempt`` counts failures in a row, from 0. ``part`` is in [0, 1)."""
    return part() * min(_LONGEST, _SHORTEST * 2.0 ** min(attempt, 16))


class FleetLink:
    """Keeps the agent connected."""

    def __init__(
        self,
        settings: FleetSettings,
        node: NodeFacts,
        policies: FleetPolicies,
        saved: SavedState,
        enrolment: Enrolment,
    ) -> None:
        self.status = LinkStatus(since=time.time())
        self.enrolment = enrolment
        self._connected_at = 0.0
        """When it was connected last, by the clock that only goes forward."""
        self._settings = settings
        self._node = node
        self._policies = policies
        self._saved = saved

    @property
    def revision(self) -> int:
        """Of what is desired; 0: nothing."""
        state = self._policies.state
        return state.revision if state is not None else 0

    @property
    def trouble(self) -> str:
        """What an operator has to know, in sentences; empty: nothing."""
        status = self.status
        said = [self._saved.trouble]
        if not status.connected:
            said.append(f"The control plane is not connected. {status.error}".rstrip())
        return " ".join(filter(None, said))

    async def run(self) -> None:
        """Until cancelled."""
        await self.enrolment.load()
        await self._node.labels.known()
        attempt = 0
        while True:
            addresses = random.sample(self._settings.addresses, len(self._settings.addresses))
            for number, address in enumerate(addresses):
                if number:
                    await trio.sleep(pause(0))
                last, error = await self._stay(address)
                attempt = 0 if self._worked() else attempt
                self._lost(last, error)
                if self.status.refused:
                    break
            await trio.sleep(random.uniform(*_REFUSED) if self.status.refused else pause(attempt))
            attempt += 1

    async def _stay(self, address: Address) -> tuple[Address, Exception]:
        """Be connected for as long as it lasts, also to where the control plane has the agent move; where it was at
        last, and why that ended. A connection ends when the one that takes its place stands."""
        holder: trio.CancelScope | None = None
        last: tuple[Address, Exception] | None = None

        async def hold(place: Address, before: trio.CancelScope | None) -> None:
            nonlocal holder, last
            moving = False

            def connected() -> None:
                nonlocal holder
                if before is not None:
                    before.cancel()
                holder = mine
                self._connected(place)

            def move() -> None:
                nonlocal moving
                if not moving:
                    moving = True
                    log.info("the control plane asks for another connection", address=str(place))
                    nursery.start_soon(leave, place, mine)

            with trio.CancelScope() as mine:
                error = await self._talk(place, connected, move)
                if holder is mine or (holder is None and before is None):
                    last = place, error
                    nursery.cancel_scope.cancel()

        async def leave(place: Address, mine: trio.CancelScope) -> None:
            attempt = 0
            while holder in (mine, None):
                others = [each for each in self._settings.addresses if each != place]
                for other in (*random.sample(others, len(others)), place):
                    await hold(other, mine)
                    if holder not in (mine, None):
                        return
                await trio.sleep(pause(attempt))
                attempt += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, address, None)
        assert last is not None
        return last

    def _connected(self, address: Address) -> None:
        number = self.status.connections + 1
        self.status = LinkStatus(True, time.time(), str(address), connections=number)
        self._connected_at = time.monotonic()
        log.info("connected to the control plane", address=str(address))

    async def _talk(self, address: Address, connected: Callable[[], None], move: Callable[[], None]) -> Exception:
        """Be connected for as long as it lasts; why it ended."""
        try:
            credentials = await self.enrolment.valid(address)
            tls = credentials.tls()
            async with calling(address, tls, CONNECT) as call:
                await ControlPlaneTalk(
                    call, self._node, self._policies, self._saved, self.enrolment, connected, move
                ).run()
        except (CallEndedError, UnreachableError, PodlaneError) as error:
            return error

    def _worked(self) -> bool:
        return self.status.connected and time.monotonic() - self._connected_at > _PROVEN

    def _lost(self, address: Address, error: Exception) -> None:
        was = self.status
        by_them = isinstance(error, CallEndedError) and error.refused
        if by_them:
            self.enrolment.refused()
        # Without a certificate, or with a file that cannot be read, asking again soon is of no use either.
        refused = by_them or isinstance(error, PodlaneError)
        since = time.time() if was.connected else was.since
        self.status = LinkStatus(False, since, str(address), str(error), refused, was.connections)
        if was.connected or was.error != str(error):
            write = log.error if refused else log.warning
            write(
                "the control plane refuses this agent" if by_them else "the control plane is not connected",
                address=str(address), reason=str(error),
            )  # fmt: skip
