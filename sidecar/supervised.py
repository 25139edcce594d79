"""What a sidecar does for its supervisor, and for the proxy that takes over from it: a part of the service's class."""

from __future__ import annotations

import os
import socket
from functools import partial
from itertools import chain
from typing import Final, Protocol

import structlog
import trio

from pod_policy.settings import Datapath, OnFailure
from sidecar.admin import serve_admin_on
from sidecar.answers import Answers
from sidecar.config import SidecarSettings
from sidecar.errors import ConfigError, SidecarError
from sidecar.guard import Guard, ids_told
from sidecar.heirloom import Heirloom
from sidecar.netfilter.failing import Command
from sidecar.netfilter.install import Installer
from sidecar.netfilter.ports import PortReservation, release
from sidecar.netfilter.ruleset import Ruleset
from sidecar.policies import load_wanted
from sidecar.stepaside.server import StepAside
from tc_core.policy import Bound, TrafficPolicy

_ASK_S: Final = 1.0
"""Seconds between two questions to the workers."""

log = structlog.get_logger(__name__)


class Supervised(Answers, Protocol):
    """Methods for a sidecar that has these attributes."""

    _guard: Guard | None
    _heirloom: Heirloom | None
    _lock: socket.SocketType | None
    _admin: list[trio.SocketListener]
    _admin_life: trio.CancelScope
    _armed: tuple[Command, ...] | None
    _given: SidecarSettings
    _mine: trio.Event
    _leaving: bool
    _ends_first: bool
    _beside: bool
    _following: bool
    _following_inbound: bool
    _changing: trio.Lock
    _installer: Installer
    _patience: trio.CancelScope
    _reservation: PortReservation
    _ruleset: Ruleset | None
    _stop: trio.Event

    def _install(self, policy: TrafficPolicy, *, capture: bool = True, settled: bool = False) -> None: ...

    async def _wind_down(self) -> None: ...

    def _inherited_admin(self) -> list[trio.SocketListener]:
        """What another proxy has lent. (The port may be none of the settings any more; see :meth:`_let_go`.)"""
        lent = self._heirloom.admin if self._heirloom is not None else ()
        mine = [each for each in lent if each.getsockname()[1] == self.settings.admin_port]
        opened = [socket.socket(fileno=each.detach()) for each in mine]
        return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in opened]

    def _let_go(self, heirloom: Heirloom) -> None:
        """All is in force: close what of the heirloom has no use here. A later server opens its own doors."""
        server = self._server
        used = [] if server is None or isinstance(server, StepAside) else server.listeners()
        heirloom.let_go(chain.from_iterable(used))
        self._heirloom = None
        if self._guard is not None:
            self._guard.heirloom = None

    async def _serve_admin(self) -> None:
        with self._admin_life:
            if self._admin:
                await serve_admin_on(self._admin, self._admin_handlers())

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

    async def _go(self) -> None:
        """Another proxy serves, or is to come: close the doors, and let connections end."""
        if self._guard is not None:
            self._guard.leaving(self.settings.grace.seconds)
        self._admin_life.cancel()
        if self._ends_first:
            await self._wind_down()
            return
        log.info("another proxy has taken over; draining", grace=str(self.settings.grace))
        await self._quic.stop()
        if self._server is not None:
            with self._patience:
                cut = await self._server.drain(self.settings.grace)
                if cut:
                    log.warning("connections cut at the end of the grace period", count=cut)

    async def _lend(self) -> Heirloom | None:
        """What another proxy needs to take over; None: nothing, since that one comes after this one.

        From here on what is in force is the other's to change, until :meth:`_put_back`. Raises :class:`ConfigError`, or
        OSError where there are no descriptors left.
        """
        # Nothing waits for this: a file may be a FIFO, and never be read to its end.
        wanted = await trio.to_thread.run_sync(self._datapath_wanted, abandon_on_cancel=True)
        async with self._changing:
            self._mine = trio.Event()
            if self.settings.datapath is Datapath.STEP_ASIDE or self._lock is None:
                release(self._reservation)  # the other begins anew
                return None
            if wanted is Datapath.RELAY:
                return self._heirloom_now(self._lock)
            if self.settings.on_failure is OnFailure.CLOSED:
                raise ConfigError(
                    f"The new one is to work by {wanted}, and relayed connections have to end before it can begin. "
                    "With on-failure closed no connection may go direct meanwhile. Make the Pod anew, or set "
                    "on-failure to open for that time."
                )
            self._ends_first = True
            release(self._reservation)
            return None

    def _datapath_wanted(self) -> Datapath:
        """What another proxy would read now; that of this one where it can read nothing, as it will say.

        Marks of captured connections mean another thing to the other datapath, so the two cannot be there at once.
        """
        if self._given.annotations is None or self.settings.datapath is Datapath.STEP_ASIDE:
            return self.settings.datapath
        try:
            return load_wanted(self._given).settings.datapath
        except Exception:  # noqa: BLE001 (whatever stands in a file that is being edited must not end the proxy)
            return self.settings.datapath

    def _heirloom_now(self, lock: socket.SocketType) -> Heirloom:
        server = self._server
        assert not isinstance(server, StepAside)  # a relay's
        groups = [group for group in server.listeners() if group] if server is not None else []  # draining it has none
        admin = [socket.SocketType(fileno=os.dup(each.socket.fileno())) for each in self._admin]
        inbound = self._following_inbound or (server is not None and server.routing.table.captures(Bound.INBOUND))
        return Heirloom(
            lock,
            tuple(admin),
            tuple(map(tuple, groups)),
            self._reservation.added,
            captured=self._following or server is not None,
            captured_inbound=inbound,
        )

    def _leave(self) -> None:
        self._leaving = True
        self._stop.set()

    def _be_alone(self) -> None:
        """The earlier proxy has ended, and its connections with it."""
        self._beside = False
        self._quic.be_alone()

    async def _put_back(self) -> None:
        """The supervisor has taken capture away, since this process was silent for so long; or nobody takes over."""
        async with self._changing:
            self._mine.set()
            if self._stop.is_set():
                return  # what is installed is another's now, or about to be removed
            self._ruleset = self._armed = None
            self._installer.distrust()
            try:
                await self._blocking(partial(self._install, self.policy))
            except SidecarError as error:
                log.error("new connections do without the proxy; send SIGHUP to try again", error=str(error))

    def _judge_turned(self) -> bool | None:
        return self._server.turned() if isinstance(self._server, StepAside) else self._quic.turned()

    async def _watch_workers(self, guard: Guard) -> None:
        guard.all_workers_answer()  # they have, when they began
        while True:
            await trio.sleep(_ASK_S)
            if not await self._ask_workers():
                guard.all_workers_answer()
