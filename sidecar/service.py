"""The sidecar as a whole: shaping, proxy, capture and admin server, brought up in order and taken down in reverse.

Up: classes first, then the listener, then the capture that leads to it, so that no connection ever meets a rule without
a listener or a mark without a class. Down: the capture of new connections goes first, running ones finish within the
grace period, and then everything that was installed is removed, also when any step fails, and whatever signals come.
With several workers (:mod:`sidecar.workers`) listener and connections are theirs, and all else stays here.

A reload goes the way up again, from what is there. It fails as a whole: then the old policy is put in force once more
with the class ids it had. Connections that the old policy captured outlive a new one that captures nothing: the
listener and the rules they need stay until the last of them has ended.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final, TypeVar

import structlog
import trio
from prometheus_client import CONTENT_TYPE_LATEST

from sidecar.admin import Handler, Reply, serve_admin
from sidecar.config import SidecarSettings
from sidecar.datapath import Datapath
from sidecar.errors import ConntrackError, SidecarError, single
from sidecar.instance import only_instance
from sidecar.log import configure as configure_log
from sidecar.metrics import Crew, Metrics
from sidecar.netfilter.aside import SHOW
from sidecar.netfilter.choose import holders
from sidecar.netfilter.install import Installer, detect_backend
from sidecar.netfilter.ipv6 import ipv6_missing
from sidecar.netfilter.ports import PortReservation, release, reserve
from sidecar.netfilter.rules import Family
from sidecar.netfilter.ruleset import CaptureSettings, build_ruleset
from sidecar.policies import Wanted, load_wanted, reload_wanted, signature
from sidecar.routing.cached import Routing
from sidecar.routing.table import RoutingTable
from sidecar.server import ProxyServer, ServerSettings, tune_garbage_collector
from sidecar.shaping import Shaping, shaped_interface
from sidecar.status import classes_document
from sidecar.stepaside.server import StepAside, forget_marks
from sidecar.workers.count import worker_count
from sidecar.workers.forkserver import fork_server
from sidecar.workers.pool import WorkerPool
from sidecar.workers.worker import work
from tc_core import features, reconcile
from tc_core.errors import TcError
from tc_core.marks import ClassIds
from tc_core.netlink import NetlinkKernel
from tc_core.policy import TrafficPolicy

_T = TypeVar("_T")
_MakePool = Callable[..., WorkerPool]
"""A :class:`WorkerPool` of which the first arguments are given."""
_SAMPLE_INTERVAL: Final = 1.0
"""Seconds between two readings of the class counters; rates are means over it."""
_NOT_USED: Final = "the new policy is not used; the old one stays in force"

log = structlog.get_logger()


class Sidecar:
    """One running sidecar. :func:`serve` makes and runs it."""

    def __init__(
        self,
        given: SidecarSettings,
        wanted: Wanted,
        shaping: Shaping,
        installer: Installer,
        make_pool: _MakePool | None = None,
    ) -> None:
        """``make_pool``: who relays instead of this process."""
        self.settings = wanted.settings
        self.policy = wanted.policy
        self.shaping = shaping
        self.metrics = Metrics(lambda: self.shaping.snapshots, self._crew)
        self.ready = False
        self.admin_port: int | None = None
        self._given = given  # before annotations, if there are any, had their say
        self._wanted = wanted
        self._installer = installer
        self._make_pool = make_pool
        self._server: ProxyServer | WorkerPool | StepAside | None = None
        self._following = False  # rules are there that only connections of an earlier policy may need
        self._reservation = PortReservation()
        self._in_thread = trio.CapacityLimiter(1)
        self._changing = trio.Lock()  # whoever changes what is in force holds it: reload, settling, the end
        self._reload_asked = trio.Event()
        self._stop = trio.Event()
        self._life = trio.CancelScope()
        self._patience = trio.CancelScope()

    async def run(
        self,
        signals: AsyncIterator[int],
        on_ready: Callable[[], None],
        on_summary: Callable[[dict[str, object]], None],
    ) -> None:
        """Bring everything up, serve until SIGTERM or SIGINT, drain, take everything down."""
        async with trio.open_nursery() as nursery:
            # Followed to the very end: a second SIGTERM must not kill a process that is removing its rules.
            nursery.start_soon(self._follow_signals, signals)
            try:
                await self._live(on_ready)
            except BaseException:
                try:
                    await self._end(on_summary)
                except Exception as error:  # noqa: BLE001 (what is raised is the first trouble, not what came of it)
                    log.error("not all was removed; `podlane sidecar --cleanup` tries again", error=str(error))
                raise
            await self._end(on_summary)
            nursery.cancel_scope.cancel()

    async def _live(self, on_ready: Callable[[], None]) -> None:
        with self._life:
            async with trio.open_nursery() as nursery:
                await self._bring_up(nursery)
                nursery.start_soon(self._keep_house)
                nursery.start_soon(self._reload_when_asked, nursery)
                if self.settings.annotations is not None:
                    nursery.start_soon(self._watch_annotations)
                self.ready = True
                on_ready()
                tune_garbage_collector()
                await self._stop.wait()
                self.ready = False
                async with self._changing:
                    await self._wind_down()
                nursery.cancel_scope.cancel()

    async def _end(self, on_summary: Callable[[dict[str, object]], None]) -> None:
        with trio.CancelScope(shield=True):
            await self._blocking(self._take_down)
        if self.shaping.snapshots:
            # Last: whoever reads it may be slow, or gone.
            on_summary(self.classes_document())

    async def _blocking(self, call: Callable[[], _T]) -> _T:
        """Call in a thread what takes the kernel's time; one at a time, and to its end even when cancelled."""
        return await trio.to_thread.run_sync(call, limiter=self._in_thread)

    async def _follow_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._reload_asked.set()
            elif self._stop.is_set():
                self._patience.cancel()
            elif self.ready:
                self._stop.set()
            else:
                self._life.cancel()

    # --- up and down ---------------------------------------------------------------------------------------------

    async def _bring_up(self, nursery: trio.Nursery) -> None:
        relay = self.settings.datapath is Datapath.RELAY
        if relay:
            await self._blocking(self._clear_the_other_datapath)
        listening = (self.settings.outbound_port if relay else 0, self.settings.admin_port)
        self._reservation = reserve(p for p in listening if p)
        if self._reservation.warning:
            log.warning(self._reservation.warning)
        if self.settings.admin_port:
            self.admin_port = await nursery.start(
                serve_admin, self.settings.admin_address, self.settings.admin_port, self._admin_handlers()
            )
        await self._apply(self.policy, self.shaping.ids_for(self.policy), nursery)
        log.info(
            "ready",
            interface=self.shaping.interface,
            total=str(self.policy.total),
            classes=len(self.policy.classes),
            datapath=str(self.settings.datapath),
            capture=self._server is not None,
            admin=self.admin_port,
        )

    async def _apply(self, policy: TrafficPolicy, ids: ClassIds, nursery: trio.Nursery) -> int:
        """Put a policy in force: classes, then the table, then the listener, then the rules that lead there.

        Gives the number of changes to the classes. A failure in the middle leaves what was done; applying another
        policy, or the same one again, goes on from there.
        """
        report = await self._blocking(partial(self.shaping.apply, policy, ids))
        table = RoutingTable.of(policy, self.settings.silent_ports)
        routing = Routing(table, ids)
        # Connections that an earlier policy captured need its rules for as long as they live.
        self._following = self._server is not None
        if isinstance(self._server, WorkerPool):
            await self._server.follow(routing, self.metrics.in_use(ids))
        elif self._server is not None:
            self._server.routing = routing
        elif table.needs_capture:
            server = self._make_server(routing)
            await nursery.start(server.run)
            self._server = server
        await self._blocking(partial(self._install, policy, keep_captured=self._following))
        await self._reroute()
        self.policy = policy
        self.metrics.keep(self.metrics.in_use(ids))
        await self._blocking(self._sample)
        return len(report.done)

    def _install(self, policy: TrafficPolicy, *, capture: bool = True, keep_captured: bool = False) -> None:
        settings = self._capture_settings()
        ids = self.shaping.ids
        self._installer.install(build_ruleset(policy, ids, settings, capture=capture, keep_captured=keep_captured))

    async def _reroute(self) -> None:
        """Have connections follow the policy that need no proxy to live."""
        if not isinstance(self._server, StepAside):
            return
        try:
            changed = await self._server.reroute()
        except ConntrackError as error:
            log.warning("live connections stay in the classes they have", error=str(error))
        else:
            if changed:
                log.info("live connections changed their class", count=changed)

    async def _settle(self) -> None:
        """Take away what only connections of an earlier policy needed, once there are none: rules, the listener."""
        if not self._following:
            return
        server = self._server
        if server is not None:
            if server.active:
                return
            if not server.routing.table.needs_capture:
                await server.drain(self.settings.grace)
                self._server = None
        await self._blocking(partial(self._install, self.policy))
        self._following = False

    async def _wind_down(self) -> None:
        log.info("draining", grace=str(self.settings.grace))
        if self._server is None:
            return
        await self._blocking(partial(self._install, self.policy, capture=False, keep_captured=True))
        with self._patience:
            cut = await self._server.drain(self.settings.grace)
            if cut:
                log.warning("connections cut at the end of the grace period", count=cut)

    def _take_down(self) -> None:
        """Remove what was installed; one step's failure does not keep the others from running."""
        with ExitStack() as steps:
            steps.callback(release, self._reservation)
            steps.callback(self.shaping.remove)
            if self.settings.datapath is Datapath.STEP_ASIDE:
                steps.callback(_forget_marks)
            steps.callback(self._installer.remove)
            if self.shaping.snapshots:
                # The interface may be gone, and its counters with it: then the last ones have to do.
                with suppress(TcError):
                    self._sample()
        log.info("removed", interface=self.shaping.interface)

    # --- while it runs -------------------------------------------------------------------------------------------

    async def _reload_when_asked(self, nursery: trio.Nursery) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked = trio.Event()
            await self._reload(nursery)

    async def _watch_annotations(self) -> None:
        """Reload when the files change: in a Pod nobody sends a signal after the kubelet has written them anew."""
        seen = self._wanted.files
        while True:
            await trio.sleep(_SAMPLE_INTERVAL)
            if (now := signature(self._given)) != seen:
                seen = now
                self._reload_asked.set()

    async def _reload(self, nursery: trio.Nursery) -> None:
        """Re-read the policy; what cannot be used, or not be put in force, leaves the old policy as it is."""
        load = partial(reload_wanted, self._given, self._wanted)
        try:
            # In a thread of its own, left behind when the end comes: a policy may be huge, and a file a FIFO.
            wanted = await trio.to_thread.run_sync(load, abandon_on_cancel=True)
        except Exception as error:  # noqa: BLE001 (whatever stands in a file that is being edited must not end the proxy)
            log.error(_NOT_USED, error=str(error))
            return
        async with self._changing:
            old, ids, settings = self.policy, self.shaping.ids, self.settings
            self.settings = wanted.settings
            try:
                changes = await self._apply(wanted.policy, self.shaping.ids_for(wanted.policy), nursery)
            except (TcError, SidecarError) as error:
                self.settings = settings
                await self._go_back(old, ids, nursery)
                log.error(_NOT_USED, error=str(error))
            else:
                self._wanted = wanted
                _warn(wanted)
                log.info("policy in force", changes=changes)

    async def _go_back(self, policy: TrafficPolicy, ids: ClassIds, nursery: trio.Nursery) -> None:
        """Put a policy in force again, under the ids that live connections know it by."""
        try:
            await self._apply(policy, ids, nursery)
        except (TcError, SidecarError) as error:
            log.error("the old policy could not be restored in full; send SIGHUP to try again", error=str(error))

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(_SAMPLE_INTERVAL)
            try:
                async with self._changing:
                    if isinstance(self._server, WorkerPool):
                        await self._server.look_after()
                    await self._blocking(self._sample)
                    await self._settle()
            except (TcError, SidecarError) as error:
                log.warning("counters cannot be read, or rules not be tidied up", error=str(error))

    def _sample(self) -> None:
        self.shaping.sample(time.monotonic())

    def _clear_the_other_datapath(self) -> None:
        """What a killed predecessor marked by stepping aside would look like captured connections to the relay."""
        if SHOW in self._installer.installed(Family.V4).chains:
            self._installer.remove()
            _forget_marks()

    def _make_server(self, routing: Routing) -> ProxyServer | WorkerPool | StepAside:
        s = self.settings
        if s.datapath is Datapath.STEP_ASIDE:
            return StepAside(s.outbound_port, routing, self.metrics, detection_timeout=s.detection_timeout)
        if self._make_pool is not None:
            return self._make_pool(
                self._server_settings(), routing, self.metrics, log_format=s.log_format, log_level=s.log_level
            )
        return ProxyServer(self._server_settings(), routing, self.metrics)

    def _server_settings(self) -> ServerSettings:
        s = self.settings
        return ServerSettings(
            port=s.outbound_port,
            ipv6=ipv6_missing() is None,
            max_connections=s.max_connections,
            detection_timeout=s.detection_timeout,
            connect_timeout=s.connect_timeout,
            idle_timeout=s.idle_timeout,
        )

    def _capture_settings(self) -> CaptureSettings:
        return CaptureSettings(
            datapath=self.settings.datapath,
            outbound_port=self.settings.outbound_port,
            silent_ports=self.settings.silent_ports,
            exclude_outbound_ports=self.settings.exclude_outbound_ports,
            exclude_outbound_cidrs=self.settings.exclude_outbound_cidrs,
            interface=self.shaping.interface,
        )

    # --- what the admin server answers ---------------------------------------------------------------------------

    def _admin_handlers(self) -> dict[str, Handler]:
        return {
            "/metrics": self._metrics_reply,
            "/healthz": self._health,
            "/readyz": lambda: Reply.text(200, "ready") if self.ready else Reply.text(503, "not ready"),
            "/classes": self._classes_reply,
        }

    async def _metrics_reply(self) -> Reply:
        await self._ask_workers()
        return Reply(200, CONTENT_TYPE_LATEST, self.metrics.render())

    async def _classes_reply(self) -> Reply:
        await self._ask_workers()
        return Reply.json(self.classes_document())

    async def _health(self) -> Reply:
        missing = await self._ask_workers()
        if not missing:
            return Reply.text(200, "ok")
        return Reply.text(503, f"no answer from worker {', '.join(map(str, missing))}")

    async def _ask_workers(self) -> list[int]:
        """Have the workers say what they have counted; gives the numbers of those that do not."""
        return await self._server.ask() if isinstance(self._server, WorkerPool) else []

    def _crew(self) -> Crew:
        return self._server.crew if isinstance(self._server, WorkerPool) else Crew()

    def classes_document(self) -> dict[str, object]:
        """Limits, counters and connections of every class, as plain data."""
        return classes_document(
            self.shaping.interface, self.policy.total, self.shaping.snapshots, self.metrics.sum().connections
        )


def run(
    settings: SidecarSettings,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_summary: Callable[[dict[str, object]], None] = lambda _: None,
) -> None:
    """Run a sidecar until it is told to stop, as :func:`serve` does, with its workers if it is to have some.

    Has the process for itself: one thread so far, and no trio yet.
    """
    workers = worker_count(settings.workers, settings.max_connections, settings.datapath)
    with ExitStack() as stack:
        make_pool = None
        if workers > 1:
            make_pool = partial(WorkerPool, stack.enter_context(fork_server(work)), workers)
        trio.run(partial(serve, settings, make_pool=make_pool, on_ready=on_ready, on_summary=on_summary))


async def serve(
    settings: SidecarSettings,
    *,
    make_pool: _MakePool | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_summary: Callable[[dict[str, object]], None] = lambda _: None,
) -> None:
    """Run a sidecar until it is told to stop (SIGTERM, SIGINT). ``make_pool``: see :func:`run`.

    ``on_ready`` is called once everything is in force, ``on_summary`` with the last ``/classes`` document once all is
    removed. Raises the errors of :mod:`tc_core.errors` and :mod:`sidecar.errors`; what was installed by then, and what
    a predecessor that was killed had left, is removed first.
    """
    with only_instance() as lock, ExitStack() as stack:
        try:
            wanted = load_wanted(settings)
            if wanted.settings.log_level is not settings.log_level:
                configure_log(settings.log_format, wanted.settings.log_level)
            _warn(wanted)
            signals = stack.enter_context(trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            kernel = stack.enter_context(NetlinkKernel())
            interface = shaped_interface(kernel, settings.interface)
            shaping = Shaping(kernel, interface, features.probe(), replace=settings.replace)
            installer = Installer(detect_backend(settings.iptables))
            running = Sidecar(settings, wanted, shaping, installer, partial(make_pool, lock) if make_pool else None)
        except (TcError, SidecarError):
            # A killed predecessor's rules lead to a listener that will not come back: connections must go direct.
            try:
                _remove_remains(settings.interface)
            except (TcError, SidecarError) as error:
                log.warning("what an earlier sidecar may have left here could not be removed", error=str(error))
            raise
        try:
            await running.run(signals, on_ready, on_summary)
        except BaseExceptionGroup as group:
            raise single(group, (TcError, SidecarError)) or group from None


def _warn(wanted: Wanted) -> None:
    """Say what annotations ask for and do not get."""
    for warning in wanted.warnings:
        log.warning(warning)


def cleanup(interface: str | None) -> None:
    """Remove what an earlier sidecar left in this network namespace, in whatever way. Nothing there is no error.

    ``interface`` is the shaped one, the default route's when None. Raises the errors of :mod:`tc_core.errors` and
    :mod:`sidecar.errors`, the first :class:`InstanceRunningError`.
    """
    with only_instance():
        _remove_remains(interface)


def _remove_remains(interface: str | None) -> None:
    """Rules, then marks and classes; the rules' failure does not keep those from being removed."""
    with ExitStack() as steps:
        steps.callback(_remove_classes, interface)
        steps.callback(_forget_marks)
        for backend in holders() or [detect_backend()]:
            steps.callback(Installer(backend).remove)


def _forget_marks() -> None:
    """Of connections that were stepped aside from. Without our rules nobody reads them, so failing does no harm."""
    try:
        forget_marks()
    except ConntrackError as error:
        log.warning("marks of connections stay", error=str(error))


def _remove_classes(interface: str | None) -> None:
    with NetlinkKernel() as kernel:
        named = interface or kernel.default_route_interface()
        if named is not None:
            reconcile.remove(kernel, named)
