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
from sidecar.errors import ConntrackError, PrivilegeError, QueueError, RulesetError
from sidecar.live_connections import Order, Shown, first_shown
from sidecar.netfilter.ruleset import Ruleset
from sidecar.routing.cached import Routing
from sidecar.stepaside.server import StepAside, forget_marks
from sidecar.tallies import Tallies
from tc_core.policy import TransportProtocol
from tc_core.units import Duration

_AT_ONCE: Final = Duration(0)
_LOOK_S: Final = 0.05
"""Seconds between two looks of an heir whether it can have the queue."""

log = Logger()


class QuicReader:
    """Runs the classifier when the routing in force wants one."""

    def __init__(self, make: Callable[[Routing, Tallies], StepAside], *, heir: bool = False) -> None:
        """``make`` gives a classifier that counts in these tallies, which no other thread does.

        ``heir``: another process has the queue, and leaves it once this one is ready; :meth:`be_alone` is called when
        it has ended.
        """
        self._make = make
        self._beside = heir
        self._awaited: Routing | None = None  # what to judge by once the queue is free
        self._waiting = trio.CancelScope()
        self._waited = trio.Event()
        self.tallies = Tallies()
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

    def be_alone(self) -> None:
        """The process that had the queue has ended."""
        self._beside = False

    async def follow(self, routing: Routing, nursery: trio.Nursery) -> None:
        """Judge by this routing from now on; before the rules that go with it."""
        self.tallies.keep(routing.ids)
        if self._classifier is not None:
            await self._classifier.follow(routing)
        elif self._awaited is not None:
            self._awaited = routing
        elif self._beside and routing.table.reads_quic:
            self._awaited, self._waiting, self._waited = routing, trio.CancelScope(), trio.Event()
            nursery.start_soon(self._take_over, nursery)
        elif routing.table.reads_quic and self.available:
            try:
                await self._begin(routing, nursery)
            except (QueueError, PrivilegeError) as error:
                self.give_up(str(error))

    async def _begin(self, routing: Routing, nursery: trio.Nursery) -> None:
        classifier = self._make(routing, self.tallies)
        with trio.CancelScope(shield=True):  # it waits for nothing, and must not run unknown to us
            await nursery.start(classifier.run)
        self._classifier = classifier
        self.used = True

    async def _take_over(self, nursery: trio.Nursery) -> None:
        """Begin once the queue is free, and have live flows follow. :meth:`stop` ends it.

        Nothing tells when it is, and a queue that another process has looks forbidden.
        """
        try:
            with self._waiting:
                while self._awaited is not None and self._awaited.table.reads_quic:
                    last, judged_by = not self._beside, self._awaited
                    try:
                        await self._begin(judged_by, nursery)
                    except (QueueError, PrivilegeError) as error:
                        if last:
                            self.give_up(str(error))
                            return
                    else:
                        await self._catch_up()
                        return
                    await trio.sleep(_LOOK_S)
        finally:
            self._awaited = None
            self._waited.set()

    async def _catch_up(self) -> None:
        """The policy may be another than that by which the process before has judged, or than it was a moment ago."""
        routing, self._awaited = self._awaited, None
        if self._classifier is None or routing is None:
            return
        await self._classifier.follow(routing)
        try:
            changed = await self._classifier.reroute()
        except (ConntrackError, PrivilegeError) as error:
            log.warning("live flows stay in the classes they have", error=str(error))
        else:
            if changed:
                log.info("live flows changed their class", count=changed)

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
        routing = self._classifier.routing if self._classifier is not None else self._awaited
        if routing is None:
            return 0
        if routing.table.reads_quic and self.available:
            return await self._classifier.reroute() if self._classifier is not None else 0
        await self.stop()
        await trio.to_thread.run_sync(forget_quic_marks)
        return 0

    async def stop(self) -> None:
        """End, or do not begin: flows go on by themselves, in the class they have."""
        if self._awaited is not None:
            self._waiting.cancel()
            await self._waited.wait()
        if self._classifier is not None:
            await self._classifier.drain(_AT_ONCE)
            self._classifier = None

    async def beside(self, relayed: Shown, limit: int, order: Order) -> Shown:
        """The relay's connections, and the flows that were decided, where the kernel tells."""
        if self._classifier is None:
            return relayed
        try:
            flows = await self._classifier.connections(limit, order)
        except ConntrackError:  # the flows alone are not to be seen
            return relayed
        both = [*relayed.connections, *flows.connections]
        return Shown(relayed.active + flows.active, first_shown(both, limit, order))


def forget_quic_marks() -> None:
    """Clear our bits in the marks of UDP flows. Without our rules nobody reads them, so failing does no harm."""
    try:
        forget_marks(TransportProtocol.UDP)
    except ConntrackError as error:
        log.warning("marks of QUIC's flows stay", error=str(error))
