"""The proxy's side of its supervisor: signs of life, what to do when it is gone, and what it is told.

See :mod:`sidecar.supervisor`. A sidecar may run without one (``podlane run`` looks after its own), and then has no
:class:`Guard`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import structlog
import trio

from pod_policy.settings import LogFormat, OnFailure
from sidecar.errors import SidecarError
from sidecar.exposition import Family, counter
from sidecar.heirloom import Heirloom
from sidecar.netfilter.failing import Command
from sidecar.supervisor.actions import Action, run_all
from sidecar.supervisor.beats import EVERY_S, JUDGE, KINDS, LOOP, WORKERS, Beats
from sidecar.supervisor.wire import MOST_DESCRIPTORS, Wire
from tc_core.marks import ClassIds

_FORSAKEN: Final = 1

log = structlog.get_logger(__name__)


class Guard:
    """The supervisor, as its proxy knows it."""

    def __init__(
        self,
        wire: Wire,
        beats: Beats,
        restarts: Mapping[str, int],
        *,
        again: bool,
        ids: Mapping[str, Any] | None = None,
        heirloom: Heirloom | None = None,
    ) -> None:
        self.restarts = dict(restarts)
        """How often a proxy was started anew, by reason."""
        self.again = again
        """Whether an earlier one was ready: what is in force stays there whatever happens to this one."""
        self.ids = ids
        """The class ids in force, as :func:`ids_told` gives them; None: there have been none yet."""
        self.heirloom = heirloom
        """What the proxy that runs has lent, for this one to take over."""
        self._wire = wire
        self._beats = beats
        self._armed: tuple[Command, ...] | None = None
        self._over = False
        self._lending = trio.CancelScope()

    @classmethod
    def of(cls, descriptor: int) -> Guard:
        """Take the socket that a supervisor has given, and hear its first words."""
        end = socket.socket(fileno=descriptor)
        end.set_inheritable(False)
        wire = Wire(end)
        message, descriptors = wire.receive()
        if message is None:
            os._exit(_FORSAKEN)  # it has gone before anything began
        beats = Beats(descriptors[0])
        os.close(descriptors[0])
        told = message["heirloom"]
        heirloom = Heirloom.of(told, descriptors[1:]) if told is not None else None
        return cls(wire, beats, message["restarts"], again=message["again"], ids=message["ids"], heirloom=heirloom)

    def arm(self, commands: Sequence[Command], ids: Mapping[str, Any], way: OnFailure, log_format: LogFormat) -> None:
        """Say what to run if this process should be gone; to be called before what captures is installed.

        ``ids``, as :func:`ids_told` gives them, are for the next one: connections that need no proxy to live wear them.
        """
        self._armed, self.ids = tuple(commands), ids
        actions = [asdict(each) for each in commands]
        said = {"actions": actions, "ids": ids, "on_failure": way.value, "log_format": log_format.value}
        self._wire.send("armed", said)

    def offer(self, pid: int, end: socket.socket) -> None:
        """Say that there is a standby, and hand over the socket behind which it is; see :mod:`sidecar.standby`."""
        self._wire.send("standby", {"pid": pid}, [end.fileno()])

    def ready(self) -> None:
        """Say that all is in force."""
        self._wire.send("ready")

    def not_ready(self) -> None:
        """Take that back: this process ends, and there is to be no other."""
        self._wire.send("not-ready")

    def nothing_left(self) -> None:
        """This process ends, and has nothing in force: from now on its silence is no fault to be seen to."""
        self._over = True
        for kind in range(KINDS):
            self._beats.take_back(kind)

    def all_workers_answer(self) -> None:
        """Say so."""
        self._beats.give(WORKERS)

    async def give_signs(self, judge_turns: Callable[[], bool | None]) -> None:
        """Tell that the event loop turns, again and again; and the thread that judges packets, if there is one.

        ``judge_turns`` says whether it has come round since the last call; None: there is none, or none any more.
        """
        while not self._over:
            self._beats.give(LOOP)
            turned = judge_turns()
            if turned:
                self._beats.give(JUDGE)
            elif turned is None:
                self._beats.take_back(JUDGE)
            await trio.sleep(EVERY_S)

    async def listen(
        self,
        put_back: Callable[[], Awaitable[None]],
        lend: Callable[[], Awaitable[Heirloom | None]],
        leave: Callable[[], None],
        alone: Callable[[], None],
    ) -> None:
        """Follow what the supervisor says. If it is gone this process ends at once.

        ``put_back`` what captures, and go on as before; ``lend`` what another needs to take over (an error says why it
        cannot), and ``leave`` when it has; ``alone`` when the one has ended that this one took over from.
        """
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(self._wire.socket)
                message, _ = self._wire.receive()
                if message is None:
                    self._end_forsaken()
                elif message["kind"] == "resume":
                    self._lending.cancel()  # nobody waits for that any more
                    nursery.start_soon(put_back)
                elif message["kind"] == "lend":
                    self._lending = trio.CancelScope()
                    nursery.start_soon(self._lend, lend, leave, self._lending)
                elif message["kind"] == "leave":
                    leave()
                elif message["kind"] == "alone":
                    alone()

    async def _lend(
        self, lend: Callable[[], Awaitable[Heirloom | None]], leave: Callable[[], None], scope: trio.CancelScope
    ) -> None:
        with scope:
            try:
                heirloom = await lend()
                if heirloom is None:
                    leave()  # what it has cannot be had by two: the other comes after it
                self._hand_over(heirloom)
            except Exception as error:  # an upgrade that fails must cost no connection of this process
                problem = str(error)
                if not isinstance(error, SidecarError):
                    problem = f"It cannot lend what another proxy needs: {error}"
                    log.error("nothing is lent to another proxy", exc_info=error)
                self._wire.send("lent", {"heirloom": None, "problem": problem})

    def _hand_over(self, heirloom: Heirloom | None) -> None:
        descriptors = [] if heirloom is None else heirloom.descriptors()
        if len(descriptors) >= MOST_DESCRIPTORS:  # beside the page with the signs of life
            problem = (
                f"It would inherit {len(descriptors)} sockets, and {MOST_DESCRIPTORS - 1} is the most that can be "
                "handed over. Start the sidecar with fewer workers to be able to upgrade it."
            )
            self._wire.send("lent", {"heirloom": None, "problem": problem})
            return
        told = None if heirloom is None else heirloom.told()
        self._wire.send("lent", {"heirloom": told, "problem": None}, descriptors)

    def leaving(self, grace: float) -> None:
        """Say that this process ends when its connections have, after ``grace`` seconds at most."""
        self._wire.send("leaving", {"grace": grace})

    def _end_forsaken(self) -> None:
        """Nobody would notice our end. So do what was to be done then, and leave the rest to the next start."""
        problem = run_all([Action(each.argv, each.input) for each in self._armed or ()])
        log.error("the supervisor has gone, and so does this process; start the sidecar again", error=problem)
        os._exit(_FORSAKEN)


def ids_told(ids: ClassIds) -> dict[str, Any]:
    """Class ids as plain data, with those that are not to be used again soon."""
    return {"ids": dict(ids), "retired": list(ids.retired)}


def ids_of(told: Mapping[str, Any]) -> ClassIds:
    """The other way round."""
    return ClassIds(told["ids"], tuple(told["retired"]))


class RestartMetrics:
    """How often the proxy was started anew; nothing where it has no supervisor."""

    def __init__(self, guard: Guard | None) -> None:
        self._restarts = guard.restarts if guard is not None else {}

    def collect(self) -> Iterator[Family]:
        """One family."""
        restarts = counter("podlane_restarts", "Proxies that were started anew.", "reason")
        for reason, number in self._restarts.items():
            restarts.add(number, reason)
        yield restarts
