"""The operator's life: a small admin server, the Lease, and the work of whoever holds it."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import trio

from cluster_operator.fleet_client import FleetPlane
from cluster_operator.fleet_records import FleetRecords
from cluster_operator.lease import LeaderLease
from cluster_operator.settings import OperatorSettings
from cluster_operator.writer import StatusWriter
from daemon.admin_server import Handler, Reply, serve_admin
from daemon.errors import single
from daemon.kubernetes.access import find_access
from daemon.kubernetes.api import ApiServer, lease
from daemon.kubernetes.events import EventWriter
from daemon.log import Logger
from traffic_policy.errors import ConfigError, PodlaneError

_PROGRAM: Final = "podlane-operator"

log = Logger()


async def serve(settings: OperatorSettings, *, on_ready: Callable[[int | None], None] = lambda _: None) -> None:
    """Work until SIGTERM or SIGINT. ``on_ready`` is called with the admin port.

    Raises :class:`ConfigError`, :class:`~daemon.kubernetes.errors.ApiAccessError`,
    :class:`~daemon.errors.PortInUseError`.
    """
    access = find_access(settings.kubeconfig, settings.context, os.environ)
    if access is None:
        raise ConfigError("There is no API server to ask: this is no Pod. Name a kubeconfig by --kubeconfig.")
    api = ApiServer(access, program=_PROGRAM)
    identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    leader = LeaderLease(api, lease(settings.namespace or access.namespace, settings.lease), identity)
    events = EventWriter(api, _PROGRAM)
    records = _records(settings)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_at_signal, signals, nursery.cancel_scope)
                on_ready(await _start_admin(settings, leader, nursery))
                nursery.start_soon(events.run)
                nursery.start_soon(leader.lead, StatusWriter(api, events, records).run)
        except ExceptionGroup as group:
            raise single(group, PodlaneError) or group from None
    log.info("ended")


def _records(settings: OperatorSettings) -> FleetRecords | None:
    """None: there is no control plane. Raises :class:`ConfigError`."""
    if not settings.control_plane:
        return None
    assert settings.token_file is not None
    plane = FleetPlane(settings.control_plane, settings.token_file, settings.control_plane_ca)
    return FleetRecords(plane, settings.cluster)


async def _start_admin(settings: OperatorSettings, leader: LeaderLease, nursery: trio.Nursery) -> int | None:
    if not settings.admin_port:
        return None
    handlers: dict[str, Handler] = {
        "/healthz": lambda _: Reply.text(200, "ok\n"),
        "/readyz": lambda _: Reply.text(200, "leads\n" if leader.leads else "waits\n"),
    }
    serving = partial(serve_admin, settings.admin_address, settings.admin_port, handlers, _holder)
    port: int | None = await nursery.start(serving)
    return port


def _holder(port: int) -> str:
    return f"another program that listens on port {port}"


async def _end_at_signal(signals: AsyncIterator[int], life: trio.CancelScope) -> None:
    async for _ in signals:
        life.cancel()
        return
