"""``podlane ready``: whether the sidecar of this network namespace is ready. For the probes of its own container."""

from __future__ import annotations

from typing import Final

import click

from podlane.admin_client import NoAnswerError, ask, reachable
from podlane.console import stop
from traffic_policy.settings import ADMIN_ADDRESS, ADMIN_PORT, variable

_PATIENCE: Final = 2.0
"""Seconds for one answer; the sidecar's event loop needs milliseconds."""


@click.command(
    epilog="""\b
Examples:
  podlane ready
  podlane ready --alive

Exit codes: 0 the sidecar is ready (or alive), 1 it is not (the reason is on standard error).
"""
)
@click.option("--alive", is_flag=True, help="Ask the supervisor whether it does its work, be the proxy ready or not.")
@click.option(
    "--admin-address", envvar=variable("admin_address"), default=ADMIN_ADDRESS, metavar="ADDRESS", hidden=True
)
@click.option("--admin-port", envvar=variable("admin_port"), default=ADMIN_PORT, type=int, metavar="PORT", hidden=True)
def ready(alive: bool, admin_address: str, admin_port: int) -> None:
    """Ask the sidecar of this network namespace whether all is in force.

    PODLANE_ADMIN_ADDRESS and PODLANE_ADMIN_PORT say where its admin server listens, as for the sidecar itself.
    """
    reason = _not_alive() if alive else _not_ready(reachable(admin_address), admin_port)
    if reason is not None:
        stop(reason, 1)


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
    try:
        answer = ask(address, port, "/readyz")
    except NoAnswerError as error:
        return f"No sidecar is to be reached at {address}:{port}: {error}. Is it running, with an admin port?"
    return None if answer.status == 200 else f"The sidecar at {address}:{port} says: {answer.begins}."
