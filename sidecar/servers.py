"""From settings to the parts that serve connections: a relay, or a classifier of packets. Makes them, runs nothing."""

from __future__ import annotations

from pod_policy.settings import AccessLogMode
from sidecar.access_log import AccessLogSettings
from sidecar.config import SidecarSettings
from sidecar.heirloom import Heirloom
from sidecar.mesh.kinds import MeshProxy
from sidecar.metrics import Metrics
from sidecar.netfilter.ipv6 import ipv6_missing
from sidecar.routing.cached import Routing
from sidecar.server import ProxyServer, ServerSettings
from sidecar.stepaside.server import StepAside
from sidecar.tallies import Tallies
from sidecar.transport.edge import TransparentEdge
from sidecar.transport.inbound import InboundEdge
from sidecar.transport.ledger import LedgerRow


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


def relay(
    settings: SidecarSettings,
    routing: Routing,
    metrics: Metrics,
    *,
    mesh: MeshProxy | None,
    lent: Heirloom | None,
    ledger: LedgerRow,
) -> ProxyServer:
    """The relay of this process, with the listeners that another has ``lent``, or its own."""
    edge, inbound = TransparentEdge(mesh=mesh), None
    if lent is not None:
        ports = settings.outbound_port, settings.inbound_port
        doors = [[each for group in lent.on(port) for each in group] for port in ports]
        edge, inbound = TransparentEdge(doors[0], mesh=mesh), InboundEdge(doors[1])
    return ProxyServer(server_settings(settings), routing, metrics, edge=edge, inbound=inbound, ledger=ledger)


def classifier(settings: SidecarSettings, routing: Routing, tallies: Tallies) -> StepAside:
    """What judges packets: of all connections, or of QUIC alone."""
    return StepAside(
        settings.outbound_port,
        routing,
        tallies,
        detection_timeout=settings.detection_timeout,
        access_log=access_log_of(settings),
    )
