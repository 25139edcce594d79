"""From settings to the parts that serve connections: a relay, or a classifier of packets. Makes them, runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from datapath.data_plane_types import Server
from datapath.mesh.types import MeshProxy
from datapath.netfilter.ipv6 import ipv6_missing
from datapath.routing.cached import Routing
from datapath.shared_counters import CounterRow
from datapath.stepaside.server import StepAside
from sidecar.config.settings import SidecarSettings
from sidecar.observability.access_log import AccessLog, AccessLogSettings, LoggingFlowObserver
from sidecar.observability.counters import ConnectionCounters
from sidecar.proxy.memory_trim import Trim, trim_memory
from sidecar.proxy.server import ProxyServer, ServerSettings
from sidecar.transport.kernel_sockets import TransparentSockets
from sidecar.workers.pool import WorkerPool
from traffic_policy.settings import AccessLogMode, Datapath

MakePool = Callable[..., WorkerPool]
"""A :class:`WorkerPool` of which the first arguments are given."""


def access_log_of(settings: SidecarSettings) -> AccessLogSettings | None:
    """Where the access log goes; None: nowhere."""
    return None if settings.access_log is AccessLogMode.OFF else AccessLogSettings(settings.access_log_file)


def server_settings(settings: SidecarSettings) -> ServerSettings:
    """What each process that relays is told."""
    return ServerSettings(
        port=settings.outbound_port,
        inbound_port=settings.inbound_port,
        ipv6=ipv6_missing() is None,
        max_connections=settings.max_connections,
        detection_timeout=settings.detection_timeout,
        connect_timeout=settings.connect_timeout,
        idle_timeout=settings.idle_timeout,
        access_log=access_log_of(settings),
    )


def server(
    settings: SidecarSettings,
    counters: ConnectionCounters,
    routing: Routing,
    *,
    make_pool: MakePool | None,
    mesh: MeshProxy | None,
    received_counters: CounterRow,
) -> Server:
    """What handles captured connections: a classifier, workers if there is ``make_pool``, or a relay in this process.

    ``counters`` are what it counts in; ``received_counters`` is where this process writes down what it has received.
    """
    if settings.datapath is Datapath.STEP_ASIDE:
        return classifier(settings, counters, routing)
    told = server_settings(settings)
    if make_pool is not None:
        return make_pool(told, routing, counters, log_format=settings.log_format, log_level=settings.log_level)
    return ProxyServer(
        told, routing, counters, kernel_sockets=TransparentSockets(mesh=mesh), received_counters=received_counters
    )


def classifier(settings: SidecarSettings, counters: ConnectionCounters, routing: Routing) -> StepAside:
    """What judges packets: of all connections, or of QUIC alone.

    Raises ConfigError when the access log cannot be written.
    """
    make = partial(StepAside, detection_timeout=settings.detection_timeout, on_idle=Trim(trim_memory).left)
    where = access_log_of(settings)
    if where is None:
        return make(settings.outbound_port, routing, counters)
    lines = AccessLog(where, counters.lost_lines)
    return make(settings.outbound_port, routing, LoggingFlowObserver(counters, lines), on_end=lines.close)
