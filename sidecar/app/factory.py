"""Builds the parts that serve connections, a relay or a packet classifier, from settings. Runs nothing."""

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
from traffic_policy.ports import TransportProtocol
from traffic_policy.settings import AccessLogMode, Datapath

MakePool = Callable[..., WorkerPool]
"""A :class:`WorkerPool` with its first arguments bound."""


def access_log_of(settings: SidecarSettings) -> AccessLogSettings | None:
    """The access log's destination; None if there is none."""
    return None if settings.access_log is AccessLogMode.OFF else AccessLogSettings(settings.access_log_file)


def server_settings(settings: SidecarSettings) -> ServerSettings:
    """The settings passed to each process that relays."""
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
    """The handler of captured connections: a classifier, workers if ``make_pool`` is given, or a relay in this process.

    ``counters`` are the counters to update; ``received_counters`` is where this process records the bytes it receives.
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
    """The packet classifier, for all connections or for QUIC alone.

    Raises ConfigError if the access log cannot be written.
    """
    make = partial(StepAside, detection_timeout=settings.detection_timeout, on_idle=Trim(trim_memory).left)
    if settings.datapath is Datapath.RELAY:
        make = partial(make, transports=(TransportProtocol.UDP,))
    where = access_log_of(settings)
    if where is None:
        return make(settings.outbound_port, routing, counters)
    lines = AccessLog(where, counters.lost_lines)
    return make(settings.outbound_port, routing, LoggingFlowObserver(counters, lines), on_end=lines.close)
