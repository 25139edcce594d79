"""The proxy's side of its supervisor: signs of life, what to do when it is gone, and what it is told.

See :mod:`sidecar.supervisor`. A sidecar may run without one (``podlane run`` looks after its own), and then has no
:class:`SupervisorClient`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import trio

from daemon.log import Logger
from daemon.prometheus_text import MetricFamily, counter
from datapath.netfilter.fallback import Command
from sidecar.supervisor.commands import Action, run_all
from sidecar.supervisor.heartbeat import CLASSIFIER, EVERY_S, KINDS, LOOP, WORKERS, Heartbeat
from sidecar.supervisor.ipc import IpcChannel
from traffic_policy.marks import ClassIds
from traffic_policy.settings import LogFormat, OnFailure

_NO_SUPERVISOR: Final = 1
_ASK_S: Final = 1.0
"""Seconds between two questions to the workers."""

log = Logger()


class SupervisorClient:
    """The supervisor, as its proxy knows it."""

    def __init__(
        self,
        channel: IpcChannel,
        heartbeat: Heartbeat,
        restarts: Mapping[str, int],
        *,
        again: bool,
        ids: Mapping[str, Any] | None = None,
    ) -> None:
        self.restarts = dict(restarts)
        """How often a proxy was started again, by reason."""
        self.again = again
        """Whether an earlier one was ready: what is in force stays there whatever happens to this one."""
        self.ids = ids
        """The class ids in force, as :func:`encode_ids` gives them; None: there have been none yet."""
        self._channel = channel
        self._heartbeat = heartbeat
        self._armed: tuple[Command, ...] | None = None
        self._over = False

    @classmethod
    def from_descriptor(cls, descriptor: int) -> SupervisorClient:
        """Take the socket that a supervisor has given, and hear its first words."""
        end = socket.socket(fileno=descriptor)
        end.set_inheritable(False)
        channel = IpcChannel(end)
        message, descriptors = channel.receive()
        if message is None:
            os._exit(_NO_SUPERVISOR)  # it has gone before anything began
        [page] = descriptors
        heartbeat = Heartbeat(page)
        os.close(page)
        return cls(channel, heartbeat, message["restarts"], again=message["again"], ids=message["ids"])

    def arm(self, commands: Sequence[Command], ids: Mapping[str, Any], way: OnFailure, log_format: LogFormat) -> None:
        """Say what to run if this process should be gone; to be called before what captures is installed.

        ``ids``, as :func:`encode_ids` gives them, are for the next one: connections that need no proxy to live wear
        them.
        """
        self._armed, self.ids = tuple(commands), ids
        actions = [asdict(each) for each in commands]
        said = {"actions": actions, "ids": ids, "on_failure": way.value, "log_format": log_format.value}
        self._channel.send("armed", said)

    def ready(self) -> None:
        """Say that all is in force."""
        self._channel.send("ready")

    def not_ready(self) -> None:
        """Take that back: this process ends, and there is to be no other."""
        self._channel.send("not-ready")

    def nothing_left(self) -> None:
        """This process ends, and has nothing in force: from now on its silence is no fault to be seen to."""
        self._over = True
        for kind in range(KINDS):
            self._heartbeat.stop(kind)

    def workers_answered(self) -> None:
        """Say so."""
        self._heartbeat.beat(WORKERS)

    async def send_heartbeats(self, classifier_turned: Callable[[], bool | None]) -> None:
        """Tell that the event loop turns, again and again; and the thread that judges packets, if there is one.

        ``classifier_turned`` says whether it has come round since the last call; None: there is none, or none any more.
        """
        while not self._over:
            self._heartbeat.beat(LOOP)
            turned = classifier_turned()
            if turned:
                self._heartbeat.beat(CLASSIFIER)
            elif turned is None:
                self._heartbeat.stop(CLASSIFIER)
            await trio.sleep(EVERY_S)

    async def watch_workers(self, ask: Callable[[], Awaitable[list[int]]]) -> None:
        """Tell that all workers answer, again and again, as long as they do.

        ``ask`` gives the numbers of those that do not.
        """
        self.workers_answered()  # they have, when they began
        while True:
            await trio.sleep(_ASK_S)
            if not await ask():
                self.workers_answered()

    async def listen(self, restore_capture: Callable[[], Awaitable[None]]) -> None:
        """Follow what the supervisor says: ``restore_capture`` what captures, and go on as before.

        If the supervisor is gone this process ends at once.
        """
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(self._channel.socket)
                message, _ = self._channel.receive()
                if message is None:
                    self._exit_without_supervisor()
                elif message["kind"] == "resume":
                    nursery.start_soon(restore_capture)

    def _exit_without_supervisor(self) -> None:
        """Nobody would notice our end. So do what was to be done then, and leave the rest to the next start."""
        problem = run_all([Action(each.argv, each.input) for each in self._armed or ()])
        log.error("the supervisor has gone, and so does this process; start the sidecar again", error=problem)
        os._exit(_NO_SUPERVISOR)


def encode_ids(ids: ClassIds) -> dict[str, Any]:
    """Class ids as plain data, with those that are not to be used again soon."""
    return {"ids": dict(ids), "retired": list(ids.retired)}


def decode_ids(told: Mapping[str, Any]) -> ClassIds:
    """The other way round."""
    return ClassIds(told["ids"], tuple(told["retired"]))


class RestartMetrics:
    """How often the proxy was started again; nothing where it has no supervisor."""

    def __init__(self, supervisor: SupervisorClient | None) -> None:
        self._restarts = supervisor.restarts if supervisor is not None else {}

    def collect(self) -> Iterator[MetricFamily]:
        """One family."""
        restarts = counter("podlane_restarts", "Proxies that were started again.", "reason")
        for reason, number in self._restarts.items():
            restarts.add(number, reason)
        yield restarts
