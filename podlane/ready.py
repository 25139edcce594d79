"""``podlane ready``: whether the sidecar of this network namespace is ready. For the probes of its own container."""

from __future__ import annotations

import time
from typing import Final

import click

from podlane.console import stop
from podlane.options import parsed
from traffic_policy.units import Duration

_PATIENCE: Final = 2.0
"""Seconds for an answer; the supervisor needs milliseconds."""
_PAUSE: Final = 0.03
"""Seconds between two questions while waiting: an answer costs the supervisor some 0.1 ms."""


@click.command(
    epilog="""\b
Examples:
  podlane ready
  podlane ready --wait 10s
  podlane ready --alive

Exit codes: 0 the sidecar is ready (or alive), 1 it is not (the reason is on standard error).
"""
)
@click.option("--alive", is_flag=True, help="Ask whether the supervisor does its work, be the proxy ready or not.")
@click.option(
    "--wait", metavar="TIME", callback=parsed(Duration.parse), help="Ask until the answer is yes, but no longer."
)
def ready(alive: bool, wait: Duration | None) -> None:
    """Ask the supervisor of this network namespace's sidecar whether all is in force.

    It listens in /run/podlane, which only its own user can enter: ask as that user, in the same container.
    """
    give_up = time.monotonic() + (wait.seconds if wait is not None else 0.0)
    while (reason := _not_alive() if alive else _not_ready()) is not None:
        left = give_up - time.monotonic()
        if left <= 0:
            stop(reason, 1)
        time.sleep(min(_PAUSE, left))


def _not_alive() -> str | None:
    """Why the supervisor is not alive; None when it is."""
    from sidecar.supervisor.control import OK, PING

    answer = _asked(PING)
    return None if answer == OK else answer


def _not_ready() -> str | None:
    """Why not everything is in force; None when it is."""
    from sidecar.supervisor.control import READY

    answer = _asked(READY)
    return None if answer == READY else answer


def _asked(word: str) -> str:
    """The supervisor's answer, or why there is none."""
    from sidecar.errors import SupervisorError
    from sidecar.supervisor.control import request

    try:
        return request(word, _PATIENCE)
    except SupervisorError as error:
        return str(error)
