"""The proxy's connection to its supervisor: heartbeats, the fallback, and commands.

See :mod:`sidecar.supervisor`. A sidecar may run without one (``podlane run`` monitors its own), and then has no
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
from traffic_policy.settings import LogFormat, OnFailure

_NO_SUPERVISOR: Final = 1
_ASK_S: Final = 1.0
"""Seconds between two queries of the workers."""

log = Logger()


class SupervisorClient:
    """The supervisor, as its proxy uses it."""

    def __init__(
        self,
        channel: IpcChannel,
        heartbeat: Heartbeat,
        restarts: Mapping[str, int],
        *,
        again: bool,
        ids: Mapping[str, Any] | None = None,
        held: Sequence[socket.socket] = (),
    ) -> None:
        self.restarts = dict(restarts)
        """Restarts of the proxy, by reason."""
        self.again = again
        """Whether an earlier proxy was ready: what is in force then stays, whatever happens to this one."""
        self.ids = ids
        """The class ids in force, as :meth:`ClassIds.to_document` gives them; None: none yet."""
        self.admin_listeners = list(held)
        """Listeners of the admin server of an earlier proxy, which the supervisor has held."""
        self._channel = channel
        self._heartbeat = heartbeat
        self._armed: tuple[Command, ...] | None = None
        self._over = False

    @classmethod
    def from_descriptor(cls, descriptor: int) -> SupervisorClient:
        """Take the socket that the supervisor passed, and receive its first message."""
        end = socket.socket(fileno=descriptor)
        end.set_inheritable(False)
        channel = IpcChannel(end)
        message, descriptors = channel.receive()
        if message is None:
            os._exit(_NO_SUPERVISOR)  # it ended before anything was started
        page, *held = descriptors
        heartbeat = Heartbeat(page)
        os.close(page)
        listeners = [socket.socket(fileno=each) for each in held]
        return cls(channel, heartbeat, message["restarts"], again=message["again"], ids=message["ids"], held=listeners)

    def arm(self, commands: Sequence[Command], ids: Mapping[str, Any], way: OnFailure, log_format: LogFormat) -> None:
        """Hand over the fallback to run if this process ends; call it before capture rules are installed.

        ``ids``, as :meth:`ClassIds.to_document` gives them, are for the next proxy: connections that can live without
        a proxy carry them.
        """
        self._armed, self.ids = tuple(commands), ids
        actions = [asdict(each) for each in commands]
        said = {"actions": actions, "ids": ids, "on_failure": way.value, "log_format": log_format.value}
        self._channel.send("armed", said)

    def hold(self, descriptors: Sequence[int]) -> None:
        """Have the supervisor hold listeners for the next proxy, so that no other program can take their port."""
        self._channel.send("hold", None, descriptors)

    def ready(self) -> None:
        """Report that everything is in force."""
        self._channel.send("ready")

    def not_ready(self) -> None:
        """Withdraw readiness: this process ends, and must not be restarted."""
        self._channel.send("not-ready")

    def in_force(self, ready: bool) -> None:
        """Say whether everything is in force, for the probes that ask the supervisor."""
        self._heartbeat.ready = ready

    def nothing_left(self) -> None:
        """Report that this process ends with nothing in force: its missing heartbeats are no longer a fault."""
        self._over = True
        for kind in range(KINDS):
            self._heartbeat.stop(kind)

    def workers_answered(self) -> None:
        """Give the heartbeat of the workers."""
        self._heartbeat.beat(WORKERS)

    async def send_heartbeats(self, classifier_turned: Callable[[], bool | None]) -> None:
        """Give the heartbeats of the event loop and, if there is one, of the classifier thread, periodically.

        ``classifier_turned`` returns whether the thread has run since the last call; None: there is none, or no longer.
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
        """Give the heartbeat of the workers periodically, as long as all of them answer.

        ``ask`` returns the numbers of those that do not.
        """
        self.workers_answered()  # they answered when they started
        while True:
            await trio.sleep(_ASK_S)
            if not await ask():
                self.workers_answered()

    async def listen(self, restore_capture: Callable[[], Awaitable[None]], bypassed: Callable[[], None]) -> None:
        """Follow the supervisor's messages: ``bypassed`` says that it removes the capture rules, ``restore_capture``
        reinstalls them.

        If the supervisor has exited, this process exits at once.
        """
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(self._channel.socket)
                message, _ = self._channel.receive()
                if message is None:
                    self._exit_without_supervisor()
                elif message["kind"] == "bypass":
                    bypassed()
                elif message["kind"] == "resume":
                    nursery.start_soon(restore_capture)

    def _exit_without_supervisor(self) -> None:
        """No process is left to handle our exit, so run the fallback here, and leave the rest to the next start."""
        problem = run_all([Action(each.argv, each.input) for each in self._armed or ()])
        log.error("the supervisor has gone, and so does this process; start the sidecar again", error=problem)
        os._exit(_NO_SUPERVISOR)


class RestartMetrics:
    """Restarts of the proxy; no metrics without a supervisor."""

    def __init__(self, supervisor: SupervisorClient | None) -> None:
        self._restarts = supervisor.restarts if supervisor is not None else {}

    def collect(self) -> Iterator[MetricFamily]:
        """The one metric family."""
        restarts = counter("podlane_restarts", "Proxies that were started again.", "reason")
        for reason, number in self._restarts.items():
            restarts.add(number, reason)
        yield restarts
