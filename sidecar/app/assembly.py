"""Builds a sidecar from its settings and the wanted policy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from datapath.data_plane import DataPlane
from datapath.data_plane_types import Callbacks, ServerFactory
from datapath.ebpf.reader import LaneReader
from datapath.mesh.types import MeshProxy
from datapath.netfilter.fallback import Command
from datapath.netfilter.install import Installer
from datapath.shaping import Shaping
from sidecar.app import factory
from sidecar.app.fail_closed import refuse
from sidecar.app.relay_processes import RelayProcesses
from sidecar.app.reloader import Reloader
from sidecar.app.sidecar import Sidecar
from sidecar.config.data_plane import data_plane_settings
from sidecar.config.loader import Wanted
from sidecar.config.reload_status import ReloadStatus
from sidecar.config.settings import SidecarSettings
from sidecar.observability.admin_api import AdminApi
from sidecar.observability.counters import ConnectionCounters
from sidecar.observability.metrics import EnforcementMetrics, Metrics, ReceivedMetrics
from sidecar.supervisor.client import RestartMetrics, SupervisorClient
from traffic_policy.marks import ClassIds
from traffic_policy.settings import Datapath, OnFailure

_POLICY_SOURCES: Final = ("policy", "annotations", "shared_policy")
"""The settings that name the policy's sources."""


def assemble(
    given: SidecarSettings,
    wanted: Wanted,
    shaping: Shaping,
    installer: Installer,
    *,
    make_pool: factory.MakePool | None = None,
    tried: bytes = b"",
    mesh: MeshProxy | None = None,
    own_group: int,
    supervisor: SupervisorClient | None = None,
) -> Sidecar:
    """``given`` are the settings before annotations are applied; ``tried`` is the digest of the files of ``wanted``.

    ``make_pool`` makes the workers that relay instead of this process. ``mesh`` is the service mesh proxy whose
    connections are shaped, ``own_group`` the group of the sockets of this process and its workers.
    """
    settings = wanted.settings
    state = ReloadStatus()
    quic = ConnectionCounters()  # runs in a thread of its own
    # Without a relay, one classifier counts all connections.
    processes = RelayProcesses(lambda: plane.server, (quic,) if settings.datapath is Datapath.RELAY else ())
    metrics = Metrics(
        lambda: shaping.snapshots,
        processes.workers,
        state,
        ReceivedMetrics(lambda: shaping.received),
        RestartMetrics(supervisor),
        EnforcementMetrics(lambda: plane.repairs),
    )

    def keep(ids: ClassIds) -> None:
        metrics.keep(ids)
        quic.keep(ids)

    def arm(commands: tuple[Command, ...], ids: ClassIds, way: OnFailure) -> None:
        assert supervisor is not None
        supervisor.arm(commands, ids.to_document(), way, settings.log_format)

    plane_settings = partial(data_plane_settings, mesh=mesh, own_group=own_group)
    plane = DataPlane(
        wanted.policy,
        plane_settings(settings),
        shaping,
        installer,
        ServerFactory(
            captured=partial(
                factory.server,
                settings,
                metrics,
                make_pool=make_pool,
                mesh=mesh,
                received_counters=shaping.received_counters.row(0),
            ),
            quic=partial(factory.classifier, settings, quic),
            beginnings=partial(LaneReader, observer=metrics, detection_timeout=settings.detection_timeout),
        ),
        Callbacks(keep, arm if supervisor is not None else None),
    )
    reloader = Reloader(given, wanted, plane, state, plane_settings, tried)

    def notes() -> Iterator[str | None]:
        yield from (state.problem, plane.status().problem, *reloader.wanted.warnings)

    source = {name: str(path) for name in _POLICY_SOURCES if (path := getattr(settings, name)) is not None}
    admin = AdminApi(plane, metrics, source=source, ask_workers=processes.ask, notes=notes)
    close = partial(refuse, installer, wanted, mesh, shaping.interface)
    return Sidecar(settings, plane, reloader, admin, processes, close, supervisor)
