"""What all verbs share at the terminal: errors in one form, exit codes, and colour only where somebody looks."""

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
"""The verb could not do its work, or `check` found something missing."""
MISUSED: Final = 2
"""The command line, a setting or the policy cannot be used; nothing has been touched."""
RUN_FAILED: Final = 125
"""`podlane run` itself failed; env(1) and its like use the same three numbers."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
_POLITE: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a process to end."""


def signalled(number: int) -> int:
    """The exit code that stands for an end by a signal, as shells count it."""
    return 128 + number


def say(text: str, *, error: bool = False) -> None:
    """A line for the user on standard error, which leaves standard output to COMMAND's and verbs' results."""
    head = click.style("podlane: ", fg="red" if error else "cyan", bold=error)
    # A terminal that has gone (SIGHUP) must not keep anybody from cleaning up.
    with suppress(OSError):
        click.echo(f"{head}{text}", err=True)


def stop(text: str, status: int) -> NoReturn:
    """Print an error and end with ``status``."""
    say(text, error=True)
    sys.exit(status)


@contextmanager
def failing_clearly(status: int = FAILED) -> Iterator[None]:
    """Turn this project's errors into their text and an exit code; anything else is a bug and keeps its traceback.

    A policy or settings that cannot be used exit with 2, all others with ``status``.
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
    """For a daemon until it follows signals itself: importing takes most of its start, and it has nothing in force yet.

    (What an earlier one has, which was killed, is for the sidecar's supervisor to remove.)

    Without a handler PID 1 of a container would never see SIGTERM (pid_namespaces(7)).
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(OK))


def ignore_late_signals() -> None:
    """For a daemon that has ended: its exit code is decided, and must not change while Python shuts down."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def end_by_exception() -> None:
    """Make every polite way to end this process an exception, so that everything is cleared up on the way out.

    Handlers, unlike ignored signals, do not pass on to children: those must be able to die of SIGINT even where the
    shell started this process with SIGINT ignored.
    """

    def end(number: int, _: object) -> None:
        # Only once: the next one would stop the clearing up.
        ignore_signals()
        sys.exit(signalled(number))

    for number in _POLITE:
        signal.signal(number, end)


def ignore_signals() -> None:
    """Let none of the polite signals end this process any more."""
    for number in _POLITE:
        signal.signal(number, signal.SIG_IGN)


def console(*, error: bool = False) -> Console:
    """A rich console; it writes colours and live views only to a terminal, and respects NO_COLOR."""
    from rich.console import Console

    return Console(stderr=error, highlight=False)
