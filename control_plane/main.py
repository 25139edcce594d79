"""Builds and runs a control plane from its settings."""

from __future__ import annotations

import errno
import signal
import socket
import ssl
from collections.abc import Callable
from typing import Final

import uvicorn

from control_plane.bootstrap import another_token, first_token
from control_plane.domain.access import TokenText
from control_plane.http.app import create_app
from control_plane.service import ControlPlane
from control_plane.settings import ControlPlaneSettings
from control_plane.store.event_store import open_store
from daemon.errors import CertificateError, PortInUseError
from daemon.log import Logger
from traffic_policy.errors import ConfigError

_BACKLOG: Final = 1024
_DRAIN: Final = 10
"""Seconds that requests may take when the process is to end."""

log = Logger()


def serve(
    settings: ControlPlaneSettings,
    *,
    on_first_token: Callable[[TokenText], None],
    on_ready: Callable[[str, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    ``on_first_token`` is called once in the life of a database, ``on_ready`` with the URL and the port. Raises
    :class:`ConfigError`, :class:`~daemon.errors.PortInUseError`, :class:`~daemon.errors.CertificateError`,
    :class:`~control_plane.store.errors.StoreError`.
    """
    if settings.certificate and settings.key:
        _check_certificate(settings)
    with _listen(settings) as listener:
        store = open_store(settings.database_url)
        try:
            plane = ControlPlane(store)
            token = first_token(plane)
            if token is not None:
                on_first_token(token)
            config = uvicorn.Config(
                create_app(plane),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_DRAIN,
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.key,
            )
            server = uvicorn.Server(config)

            def end(*_: object) -> None:
                server.should_exit = True

            # uvicorn has handlers of its own while it runs, and afterwards raises what it got for those before.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, end)
            port = listener.getsockname()[1]
            url = _url(settings, port)
            log.info("the control plane listens", url=url)
            on_ready(url, port)
            server.run(sockets=[listener])
        finally:
            store.close()
    log.info("ended")


def issue_token(settings: ControlPlaneSettings) -> TokenText:
    """A new token of an administrator, from the database itself. Raises what :func:`serve` does."""
    store = open_store(settings.database_url)
    try:
        return another_token(ControlPlane(store))
    finally:
        store.close()


def _url(settings: ControlPlaneSettings, port: int) -> str:
    host = f"[{settings.address}]" if ":" in settings.address else settings.address
    return f"{'https' if settings.certificate else 'http'}://{host}:{port}"


def _check_certificate(settings: ControlPlaneSettings) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(str(settings.certificate), str(settings.key))
    except OSError as error:
        raise CertificateError(
            f"{settings.certificate} and {settings.key} cannot be used: {error}. Name a certificate and its key."
        ) from None


def _listen(settings: ControlPlaneSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    try:
        return socket.create_server((settings.address, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{settings.address}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"{where} is taken. Choose another port by --port.") from None
        raise ConfigError(f"Cannot listen on {where}: {error.strerror}. Choose another --address.") from None
