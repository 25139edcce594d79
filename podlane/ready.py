"""``podlane ready``: is the sidecar of this network namespace ready? For probes and hooks of its own container."""

from __future__ import annotations

import http.client
import socket
import time
from typing import Final

import click

from pod_policy.settings import ADMIN_ADDRESS, ADMIN_PORT, variable
from podlane.console import stop

_EVERY: Final = 0.1
"""Seconds between two attempts: an application starts this much later than it could, at most."""
_PATIENCE: Final = 2.0
"""Seconds for one answer; the sidecar's event loop gives it in milliseconds."""
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to ask when the admin server listens on all addresses."""


@click.command(
    epilog="""\b
Examples:
  podlane ready
  podlane ready --wait 30s
  podlane ready --alive

Exit codes: 0 the sidecar is ready (or alive), 1 it is not (the reason is on standard error).
"""
)
@click.option("--wait", metavar="TIME", help="Wait this long for it.  [default: ask once]")
@click.option("--alive", is_flag=True, help="Ask the supervisor whether it does its work, be the proxy ready or not.")
@click.option(
    "--admin-address", envvar=variable("admin_address"), default=ADMIN_ADDRESS, metavar="ADDRESS", hidden=True
)
@click.option("--admin-port", envvar=variable("admin_port"), default=ADMIN_PORT, type=int, metavar="PORT", hidden=True)
def ready(wait: str | None, alive: bool, admin_address: str, admin_port: int) -> None:
    """Ask the sidecar of this network namespace whether all is in force.

    PODLANE_ADMIN_ADDRESS and PODLANE_ADMIN_PORT say where its admin server listens, as for the sidecar itself.
    """
    deadline = time.monotonic() + _seconds(wait)
    address = _ANY.get(admin_address, admin_address)
    while (reason := _not_alive() if alive else _not_ready(address, admin_port)) is not None:
        if time.monotonic() >= deadline:
            stop(reason, 1)
        time.sleep(_EVERY)


def _seconds(wait: str | None) -> float:
    if wait is None:
        return 0.0
    from tc_core.errors import UnitError
    from tc_core.units import Duration

    try:
        return Duration.parse(wait).seconds
    except UnitError as error:
        raise click.BadParameter(str(error), param_hint="--wait") from None


def _not_alive() -> str | None:
    """Why the supervisor is not alive; None when it is."""
    from sidecar.errors import SupervisorError
    from sidecar.supervisor.control import PING, request

    try:
        request(PING, _PATIENCE)
    except SupervisorError as error:
        return str(error)
    return None


def _not_ready(address: str, port: int) -> str | None:
    """Why the sidecar is not ready; None when it is."""
    connection = http.client.HTTPConnection(address, port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        if answer.status == http.HTTPStatus.OK:
            return None
        return f"The sidecar at {address}:{port} says: {answer.read(200).decode(errors='replace').strip()}."
    except (OSError, http.client.HTTPException) as error:
        told = "no answer" if isinstance(error, socket.timeout) else getattr(error, "strerror", None) or str(error)
        return f"No sidecar is to be reached at {address}:{port}: {told}. Is it running, with an admin port?"
    finally:
        connection.close()
