"""The data plane's settings, from the sidecar's. Pure."""

from __future__ import annotations

from datapath.data_plane_settings import DataPlaneSettings
from datapath.mesh.types import MeshProxy
from datapath.netfilter.capture_settings import CaptureSettings
from sidecar.config.settings import SidecarSettings


def data_plane_settings(settings: SidecarSettings, mesh: MeshProxy | None, own_group: int) -> DataPlaneSettings:
    """``mesh`` is the service mesh proxy of this Pod; None: there is none. ``own_group`` is that of our sockets."""
    capture = CaptureSettings(
        datapath=settings.datapath,
        outbound_port=settings.outbound_port,
        inbound_port=settings.inbound_port,
        silent_ports=settings.silent_ports,
        exclude_outbound_ports=settings.exclude_outbound_ports,
        exclude_outbound_cidrs=settings.exclude_outbound_cidrs,
        exclude_inbound_ports=settings.exclude_inbound_ports,
        exclude_inbound_cidrs=settings.exclude_inbound_cidrs,
        mesh=mesh,
        own_group=own_group,
    )
    own_ports = (settings.admin_port,) if settings.admin_port else ()
    return DataPlaneSettings(capture, settings.on_failure, own_ports, settings.grace)
