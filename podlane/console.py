"""Shared terminal handling of all verbs: uniform errors, exit codes, and colour only on a terminal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn

import click

from podlane.errors import ResultError
from traffic_policy.errors import ConfigError, PodlaneError, PolicyError

if TYPE_CHECKING:
    from rich.console import Console

OK: Final = 0
FAILED: Final = 1
"""The verb failed, or `check` found a requirement missing."""
MISUSED: Final = 2
"""The command line, a setting or the policy is invalid; nothing was changed."""
RUN_FAILED: Final = 125
"""`podlane run` itself failed; env(1) and similar programs use the same three codes."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
_POLITE: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that request termination."""


def signalled(number: int) -> int:
    """The exit code for termination by a signal, as in shells."""
    return 128 + number


def say(text: str, *, error: bool = False) -> None:
    """Print a line for the user on standard error; standard output is for COMMAND's and verbs' results."""
    head = click.style("podlane: ", fg="red" if error else "cyan", bold=error)
    # A terminal that was closed (SIGHUP) must not prevent the clean-up.
    with suppress(OSError):
        click.echo(f"{head}{text}", err=True)


def stop(text: str, status: int) -> NoReturn:
    """Print an error and exit with ``status``."""
    say(text, error=True)
    sys.exit(status)


@contextmanager
def failing_clearly(status: int = FAILED) -> Iterator[None]:
    """Turn the project's exceptions into their message and an exit code; others are bugs and keep their traceback.

    An invalid policy or settings exit with 2, all other errors with ``status``.
    """
    try:
        yield
    except ResultError:
        sys.exit(status)
    except PodlaneError as error:
        stop(str(error), MISUSED if isinstance(error, (PolicyError, ConfigError)) else status)
    except KeyboardInterrupt:
        sys.exit(signalled(signal.SIGINT))


def end_at_once_on_sigterm() -> None:
    """For a daemon until it handles signals itself: importing takes most of its start, and nothing is in force yet.

    (The remains of a killed predecessor are removed by the sidecar's supervisor.)

    Without a handler PID 1 of a container would never receive SIGTERM (pid_namespaces(7)).
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(OK))


def ignore_late_signals() -> None:
    """For a daemon after its end: its exit code is decided, and must not change while Python shuts down."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def end_by_exception() -> None:
    """Raise an exception for each termination signal, so that everything is cleaned up.

    Handlers, unlike ignored signals, are not inherited by children: those must be able to die of SIGINT even if the
    shell started this process with SIGINT ignored.
    """

    def end(number: int, _: object) -> None:
        # Only once: another exception would interrupt the clean-up.
        ignore_signals()
        sys.exit(signalled(number))

    for number in _POLITE:
        signal.signal(number, end)


def ignore_signals() -> None:
    """Ignore all termination signals from now on."""
    for number in _POLITE:
        signal.signal(number, signal.SIG_IGN)


def console(*, error: bool = False) -> Console:
    """A rich console; it writes colours and live views only to a terminal, and respects NO_COLOR."""
    from rich.console import Console

    return Console(stderr=error, highlight=False)
