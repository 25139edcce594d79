"""The QUIC classifier of the relay datapath. It runs while a policy reads names in QUIC.

The step-aside classifier handles both TCP and UDP; a relay sees no UDP and needs this one in addition. It is optional:
while it is not running, or on a kernel without NFQUEUE, QUIC is classified by port and :attr:`QuicReader.problem` says
why. A policy that blocks QUIC needs no classifier.
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
    """Runs the classifier while the routing in force needs one."""

    def __init__(self, make: Callable[[Routing], StepAside]) -> None:
        """``make`` creates a classifier, which runs in its own thread and calls its witness from there."""
        self._make = make
        self._classifier: StepAside | None = None
        self.used = False
        """Whether a classifier has run, so that its marks may exist."""
        self.proven = False
        """Whether rules that lead to the classifier are installed."""
        self.problem = ""
        """Why QUIC is classified by port although the policy has names for it; empty without a problem."""

    @property
    def running(self) -> bool:
        """Whether a classifier runs."""
        return self._classifier is not None

    def turned(self) -> bool | None:
        """Whether its thread has completed a turn since the last call; None without a thread."""
        return None if self._classifier is None else self._classifier.turned()

    @property
    def available(self) -> bool:
        """Whether rules may queue packets to it."""
        return not self.problem

    async def follow(self, routing: Routing, nursery: trio.Nursery) -> None:
        """Classify by this routing from now on. Call before its rules are installed."""
        if self._classifier is not None:
            await self._classifier.follow(routing)
        elif routing.table.reads_quic and self.available:
            try:
                await self._begin(routing, nursery)
            except (QueueError, PrivilegeError) as error:
                self.give_up(str(error))

    async def _begin(self, routing: Routing, nursery: trio.Nursery) -> None:
        classifier = self._make(routing)
        with trio.CancelScope(shield=True):  # start() does not block, and an untracked classifier must not run
            await nursery.start(classifier.run)
        self._classifier = classifier
        self.used = True

    def install(
        self, install: Callable[[Ruleset], object], ruleset: Ruleset, without: Callable[[], Ruleset]
    ) -> Ruleset:
        """Install a ruleset, or the one ``without`` QUIC rules where the kernel lacks what only those need.

        A single failure may come from another program that holds the lock or writes at the same time. Returns the
        installed ruleset. Raises :class:`RulesetError`.
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
        """Retry: a missing module may be loaded now, or a queue free that another program had."""
        self.problem = ""

    def give_up(self, why: str) -> None:
        """Read no QUIC on this kernel until :meth:`try_again`."""
        self.problem = f"QUIC goes by port and network: {why}"
        log.warning(self.problem)

    async def settle(self) -> int:
        """Reclassify live flows by the routing, or stop a classifier that it does not need. Call after its rules.

        Returns how many flows changed class. Raises :class:`ConntrackError`, :class:`PrivilegeError`.
        """
        if self._classifier is None:
            return 0
        if self._classifier.routing.table.reads_quic and self.available:
            return await self._classifier.reroute()
        await self.stop()
        await trio.to_thread.run_sync(clear_quic_marks)
        return 0

    async def stop(self) -> None:
        """Stop the classifier; flows continue in their class."""
        if self._classifier is not None:
            await self._classifier.drain(_AT_ONCE)
            self._classifier = None

    async def beside(self, relayed: ConnectionPage, limit: int, order: Order) -> ConnectionPage:
        """The relay's connections, plus the classified flows if the kernel can list them."""
        if self._classifier is None:
            return relayed
        try:
            flows = await self._classifier.connections(limit, order)
        except ConntrackError:  # show the relay's connections without the flows
            return relayed
        both = [*relayed.connections, *flows.connections]
        return ConnectionPage(relayed.active + flows.active, select_connections(both, limit, order))


def clear_quic_marks() -> None:
    """Clear our bits in the marks of UDP flows. A failure is harmless: without our rules nothing reads them."""
    try:
        clear_marks(TransportProtocol.UDP)
    except ConntrackError as error:
        log.warning("marks of QUIC's flows stay", error=str(error))
