"""``podlane ready``: whether the sidecar of this network namespace is ready. For the probes of its own container."""

from __future__ import annotations

from typing import Final

import click

from podlane.console import stop

_PATIENCE: Final = 2.0
"""Seconds for an answer; the supervisor needs milliseconds."""


@click.command(
    epilog="""\b
Examples:
  podlane ready
  podlane ready --alive

Exit codes: 0 the sidecar is ready (or alive), 1 it is not (the reason is on standard error).
"""
)
@click.option("--alive", is_flag=True, help="Ask whether the supervisor does its work, be the proxy ready or not.")
def ready(alive: bool) -> None:
    """Ask the supervisor of this network namespace's sidecar whether all is in force.

    It listens in /run/podlane, which only its own user can enter: ask as that user, in the same container.
    """
    from sidecar.errors import SupervisorError
    from sidecar.supervisor.control import PING, READY, request

    try:
        answer = request(PING if alive else READY, _PATIENCE)
    except SupervisorError as error:
        stop(str(error), 1)
    if not alive and answer != READY:
        stop(answer, 1)
