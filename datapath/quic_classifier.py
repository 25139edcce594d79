"""QUIC beside the relay: a classifier of its own, for as long as a policy reads names in QUIC.

Stepping aside, the one classifier has all; a relay sees no UDP, so this one is added to it. Nothing depends on it: a
kernel without queue lets QUIC go by port, as it does while no classifier is there, and :attr:`QuicReader.problem` says
so. A policy that blocks QUIC needs no classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from daemon.log import Logger
from datapath.connection_list import ConnectionPage, Order, select_connections
from datapath.errors import ConntrackError, PrivilegeError, QueueError, RulesetError
from datapath.netfilter.ruleset import Ruleset
from datapath.routing.cached import Routing
from datapath.stepaside.server import StepAside, clear_marks
from traffic_policy.policy import TransportProtocol
from traffic_policy.units import Duration

_AT_ONCE: Final = Duration(0)

log = Logger()


class QuicReader:
    """Runs the classifier when the routing in force wants one."""

    def __init__(self, make: Callable[[Routing], StepAside]) -> None:
        """``make`` gives a classifier. It judges in a thread of its own, so its witness is told by that thread."""
        self._make = make
        self._classifier: StepAside | None = None
        self.used = False
        """Whether there was a classifier, and there may be marks of it."""
        self.proven = False
        """Whether rules that lead to one have been installed."""
        self.problem = ""
        """Why QUIC goes by port although the policy has names for it; empty while all is well."""

    @property
    def running(self) -> bool:
        """Whether a classifier is there."""
        return self._classifier is not None

    def turned(self) -> bool | None:
        """Whether its thread has come round since the last call; None: there is none."""
        return None if self._classifier is None else self._classifier.turned()

    @property
    def available(self) -> bool:
        """Whether rules may show packets to it."""
        return not self.problem

    async def follow(self, routing: Routing, nursery: trio.Nursery) -> None:
        """Judge by this routing from now on; before the rules that go with it."""
        if self._classifier is not None:
            await self._classifier.follow(routing)
        elif routing.table.reads_quic and self.available:
            try:
                await self._begin(routing, nursery)
            except (QueueError, PrivilegeError) as error:
                self.give_up(str(error))

    async def _begin(self, routing: Routing, nursery: trio.Nursery) -> None:
        classifier = self._make(routing)
        with trio.CancelScope(shield=True):  # it waits for nothing, and must not run unknown to us
            await nursery.start(classifier.run)
        self._classifier = classifier
        self.used = True

    def install(
        self, install: Callable[[Ruleset], object], ruleset: Ruleset, without: Callable[[], Ruleset]
    ) -> Ruleset:
        """Install a ruleset, or the one ``without`` QUIC's rules where the kernel lacks what only those need.

        What fails once may be somebody else's doing: one who holds the lock, or writes in the same moment. Gives what
        is installed. Raises :class:`RulesetError`.
        """
        try:
            install(ruleset)
        except RulesetError:
            if self.proven or (less := without()) == ruleset:
                raise
            try:
                install(ruleset)
            except RulesetError as error:
                install(less)
                self.give_up(str(error))
                return less
        self.proven = self.proven or self.running
        return ruleset

    def try_again(self) -> None:
        """What was missing may have come: a module, a queue that another program had."""
        self.problem = ""

    def give_up(self, why: str) -> None:
        """QUIC cannot be read on this kernel, which does not change by itself; see :meth:`try_again`."""
        self.problem = f"QUIC goes by port and network: {why}"
        log.warning(self.problem)

    async def settle(self) -> int:
        """Have live flows follow the routing, or end what it does not need; behind its rules.

        Gives how many flows changed their class. Raises :class:`ConntrackError`, :class:`PrivilegeError`.
        """
        if self._classifier is None:
            return 0
        if self._classifier.routing.table.reads_quic and self.available:
            return await self._classifier.reroute()
        await self.stop()
        await trio.to_thread.run_sync(clear_quic_marks)
        return 0

    async def stop(self) -> None:
        """End: flows go on by themselves, in the class they have."""
        if self._classifier is not None:
            await self._classifier.drain(_AT_ONCE)
            self._classifier = None

    async def beside(self, relayed: ConnectionPage, limit: int, order: Order) -> ConnectionPage:
        """The relay's connections, and the flows that were decided, where the kernel tells."""
        if self._classifier is None:
            return relayed
        try:
            flows = await self._classifier.connections(limit, order)
        except ConntrackError:  # the flows alone are not to be seen
            return relayed
        both = [*relayed.connections, *flows.connections]
        return ConnectionPage(relayed.active + flows.active, select_connections(both, limit, order))


def clear_quic_marks() -> None:
    """Clear our bits in the marks of UDP flows. Without our rules nobody reads them, so failing does no harm."""
    try:
        clear_marks(TransportProtocol.UDP)
    except ConntrackError as error:
        log.warning("marks of QUIC's flows stay", error=str(error))
