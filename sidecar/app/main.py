"""Builds and runs a sidecar from its settings."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

import trio

from daemon.errors import single
from daemon.log import Logger
from daemon.log import configure as configure_log
from datapath.instance_lock import hold_instance_lock
from datapath.mesh.join import join
from datapath.mesh.types import MeshProxy
from datapath.netfilter.install import Installer, detect_backend
from datapath.own_group import own_group
from datapath.shaping import Shaping, shaped_interface
from datapath.shared_counters import SharedCounters
from datapath.sock_diag import holder_of
from sidecar.app.assembly import assemble
from sidecar.app.factory import MakePool, access_log_of
from sidecar.app.fail_closed import do_without_start
from sidecar.app.reloader import log_warnings
from sidecar.config.loader import Wanted, contents, load_wanted
from sidecar.config.settings import SidecarSettings
from sidecar.supervisor.client import SupervisorClient
from sidecar.transport.kernel_sockets import TransparentSockets, free_port
from sidecar.workers.forkserver import fork_server
from sidecar.workers.pool import WorkerPool
from sidecar.workers.sizing import worker_count
from sidecar.workers.worker import work
from tc_core.apply.ends import PodEnd
from tc_core.probe import features
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.errors import PodlaneError
from traffic_policy.settings import Datapath, Mesh

log = Logger()


def run(
    settings: SidecarSettings,
    *,
    supervisor: SupervisorClient | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_summary: Callable[[dict[str, object]], None] = lambda _: None,
) -> None:
    """Run a sidecar until it is signalled to stop, as :func:`serve` does, with its workers if any are configured.

    Must be called in a process with a single thread and without a running trio loop.
    """
    workers = worker_count(settings.workers, settings.max_connections, settings.datapath)
    received_counters = SharedCounters(workers)
    try:
        mesh = join(*_mesh_asked(settings))
    except PodlaneError:
        if supervisor is None or not supervisor.again:
            with suppress(PodlaneError), hold_instance_lock():  # as in serve; fails if another sidecar runs here
                do_without_start(settings)
        raise
    own = own_group(mesh)  # before workers are forked, which inherit it
    with ExitStack() as stack:
        make_pool = None
        if workers > 1:
            be_worker = partial(
                work, make_sockets=partial(TransparentSockets, mesh=mesh), received_counters=received_counters
            )
            make_pool = partial(WorkerPool, stack.enter_context(fork_server(be_worker)), workers)
        running = partial(
            serve,
            settings,
            make_pool=make_pool,
            received_counters=received_counters,
            mesh=mesh,
            own=own,
            supervisor=supervisor,
        )
        trio.run(partial(running, on_ready=on_ready, on_summary=on_summary))


def _mesh_asked(settings: SidecarSettings) -> tuple[Mesh, Datapath]:
    """Annotations override both settings; errors in them are reported when the policy is read."""
    if settings.annotations is not None:
        with suppress(PodlaneError):
            settings = load_wanted(settings).settings
    return settings.mesh, settings.datapath


def _with_free_ports(settings: SidecarSettings, *, failed: bool) -> SidecarSettings:
    """The settings with other ports for the relay instead of those that other programs have: nothing depends on their
    numbers, and a program that takes them must not keep a sidecar from starting.

    ``failed``: an earlier start has failed, perhaps since a program took a port between this look and its use. So ports
    are chosen that it cannot know.
    """
    if settings.datapath is not Datapath.RELAY:
        return settings
    changed = {}
    for name in ("outbound_port", "inbound_port"):
        port = getattr(settings, name)
        other = changed[name] = free_port(0 if failed else port)
        if other != port and not failed:
            log.warning("a port is taken, and another is used", port=port, instead=other, by=holder_of(port))
    return settings.model_copy(update=changed)


def _possible(wanted: Wanted) -> Wanted:
    """The same, stepping aside where the kernel or the privileges do not allow what was asked for."""
    if wanted.settings.datapath is not Datapath.EBPF:
        return wanted
    from datapath.ebpf.features import reason_against

    reason = reason_against()
    if not reason:
        return wanted
    log.warning("datapath: ebpf is not possible here; stepping aside instead", reason=reason)
    return replace(wanted, settings=wanted.settings.model_copy(update={"datapath": Datapath.STEP_ASIDE}))


async def serve(
    settings: SidecarSettings,
    *,
    make_pool: MakePool | None = None,
    received_counters: SharedCounters | None = None,
    mesh: MeshProxy | None = None,
    own: int | None = None,
    supervisor: SupervisorClient | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_summary: Callable[[dict[str, object]], None] = lambda _: None,
) -> None:
    """Run a sidecar until SIGTERM or SIGINT. For ``supervisor`` and the other processes see :func:`run`.

    ``on_ready`` is called once everything is in force, ``on_summary`` with the last ``/classes`` document once
    everything is removed. Raises the errors of :mod:`tc_core.errors` and :mod:`sidecar.errors`. Before that, everything
    installed, including the remains of a killed predecessor, is removed or made to refuse connections
    (:mod:`sidecar.app.fail_closed`).
    """
    wanted = None
    with ExitStack() as stack:
        lock = stack.enter_context(hold_instance_lock())
        settings = _with_free_ports(settings, failed=supervisor is not None and "exit" in supervisor.restarts)
        try:
            tried = contents(settings)  # read first, so that a later change is noticed
            wanted = _possible(load_wanted(settings))
            if wanted.settings.log_level is not settings.log_level:
                configure_log(settings.log_format, wanted.settings.log_level)
            log_warnings(wanted)
            if (access_log := access_log_of(settings)) is not None:
                access_log.check()
            signals = stack.enter_context(trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            kernel = stack.enter_context(NetlinkKernel())
            interface = shaped_interface(kernel, settings.interface)
            shaping = Shaping(
                kernel,
                interface,
                features.probe(),
                replace=settings.replace,
                end=PodEnd(relays=wanted.settings.datapath is Datapath.RELAY),
                received_counters=received_counters,
            )
            installer = Installer(detect_backend(settings.iptables))
            pool = partial(make_pool, lock) if make_pool else None
            running = assemble(
                settings,
                wanted,
                shaping,
                installer,
                make_pool=pool,
                tried=tried,
                mesh=mesh,
                own_group=own_group(mesh) if own is None else own,
                supervisor=supervisor,
            )
        except PodlaneError:
            if supervisor is None or not supervisor.again:  # else the supervisor has handled the connections
                do_without_start(settings, wanted, mesh)
            raise
        try:
            await running.run(signals, on_ready, on_summary)
        except BaseExceptionGroup as group:
            raise single(group, PodlaneError) or group from None
