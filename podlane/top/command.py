"""``podlane top``: live rates of each class, of a running sidecar or of any interface."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from podlane.console import console, end_by_exception, failing_clearly
from podlane.errors import LabError, NotPermittedError
from podlane.options import HISTORY_VARIABLE, parsed
from traffic_policy.settings import ADMIN_ADDRESS, ADMIN_PORT, AGENT_PORT
from traffic_policy.units import Duration

if TYPE_CHECKING:
    from rich.console import Console

    from podlane.top.readings import Source
    from podlane.top.view import View

_LEAST: Final = Duration.parse("100ms")
_MOST: Final = Duration.parse("1m")
SORTS: Final = (
    "policy", "workload", "name", "prio", "rate", "ceil", "now", "use", "borrowed", "packets", "drops", "backlog",
    "throttled", "conns", "new",
)  # fmt: skip
"""Those of :mod:`podlane.top.columns`, which is not imported here to keep --help fast."""
_MOST_CONNECTIONS: Final = 5000


def interval_of(value: str) -> Duration:
    """What ``--interval`` says. Raises ValueError."""
    interval = Duration.parse(value)
    if not _LEAST <= interval <= _MOST:
        raise ValueError(f"{interval} is not from {_LEAST} to {_MOST}.")
    return interval


@click.command(
    epilog="""\b
Examples:
  podlane top
  podlane top --admin 127.0.0.1:15109 --sort now
  podlane top --connections
  podlane top --workload shop/web-1
  podlane top --node --sort throttled
  podlane top --interface eth0 --once
  podlane top --json --interval 5s --count 12 > minute.jsonl
  kubectl port-forward POD 15109 & podlane top

Keys: q quit, s and < > sort, r reverse, p pause, c connections, ? help.
Exit codes: 0 shown, 1 there is nothing to look at (the reason is on standard error), 2 the command line cannot be used.
"""
)
@click.option(
    "--admin",
    metavar="HOST:PORT",
    help=f"Where the admin server is.  [default: {ADMIN_ADDRESS}, port {ADMIN_PORT}, or {AGENT_PORT} of an agent]",
)
@click.option("--workload", metavar="NAME", help="One workload of the node agent, as /workloads names it.")
@click.option("--node", is_flag=True, help="All workloads of the node agent, sorted by their rates.")
@click.option("-i", "--interface", metavar="NAME", help="An interface instead of a sidecar: the kernel's own counters.")
@click.option("--netns", metavar="NAME", help="Look from inside this network namespace (of `ip netns`, or a path).")
@click.option("--connections", is_flag=True, help="Live connections instead of classes; of a sidecar only.")
@click.option(
    "--order", type=click.Choice(["newest", "largest"]), default="newest", help="Connections that come first."
)
@click.option(
    "--limit",
    type=click.IntRange(1, _MOST_CONNECTIONS),
    default=200,
    show_default=True,
    metavar="N",
    help="Connections at most.",
)
@click.option("--sort", type=click.Choice(SORTS), help="Sort classes by a column.", metavar="COLUMN")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option(
    "--interval",
    callback=parsed(interval_of),
    default="1s",
    show_default=True,
    metavar="TIME",
    help="What a rate is the mean of.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N intervals.")
@click.option("--once", is_flag=True, help="Print one table, after one interval, and end.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON per interval.")
def top(
    admin: str | None,
    workload: str | None,
    node: bool,
    interface: str | None,
    netns: str | None,
    connections: bool,
    order: str,
    limit: int,
    sort: str | None,
    reverse: bool,
    interval: Duration,
    count: int | None,
    once: bool,
    as_json: bool,
) -> None:
    """Watch what each class does: its rate, what it borrows, drops, waits, and its connections.

    Asks the admin server of a sidecar, by default the one of this network namespace, or of the node agent, or reads the
    counters of an interface. Changes nothing. Where the output is no terminal a table is printed for each interval.
    """
    if interface is not None and admin is not None:
        raise click.UsageError("--interface and --admin: Look at one of them. An interface needs no sidecar.")
    if sum((interface is not None, workload is not None, node)) > 1:
        raise click.UsageError("--interface, --workload and --node: Look at one of them.")
    if node and connections:
        raise click.UsageError("--connections: They are listed for one workload. Name it by --workload.")
    if interface is not None and connections:
        raise click.UsageError("--connections: Only a sidecar knows connections. Leave --interface out.")
    if once and count is not None:
        raise click.UsageError("--once and --count: Once is a count of 1. Leave one of them out.")
    with failing_clearly():
        from datapath.connection_list import Order
        from podlane.top.view import View

        sort = sort or ("now" if node else "policy")
        view = View(sort=sort, reverse=reverse, order=Order(order), shows_connections=connections, of_node=node)
        with _inside(netns):
            source = _interface(interface, netns) if interface is not None else _admin(admin, workload, node)
            show(source, view, interval.seconds, 1 if once else count, limit, prints=once, as_json=as_json)


def show(
    source: Source, view: View, interval: float, count: int | None, limit: int, *, prints: bool, as_json: bool
) -> None:
    """Live on a terminal; printed if that is wanted or there is none. ``interval`` is in seconds."""
    out = console()
    is_live = sys.stdin.isatty() and sys.stdout.isatty() and not out.is_dumb_terminal
    if is_live and not (prints or as_json):
        from podlane.top.screen import Screen

        end_by_exception()
        Screen(out, source, view, interval, limit).run(count)
    else:
        _print(out, source, view, interval, count, limit, as_json=as_json)


def _print(
    out: Console, source: Source, view: View, interval: float, count: int | None, limit: int, *, as_json: bool
) -> None:
    from podlane.top.printing import frames, json_line, print_frame
    from podlane.top.readings import AwayError

    try:
        for number, frame in enumerate(islice(frames(source, interval, away=_say_away), count)):
            try:
                shown = source.connections(limit, view.order) if view.shows_connections else None
            except AwayError as error:
                _say_away(str(error))
                continue
            if as_json:
                click.echo(json_line(source, frame, shown, time.time()))
                continue
            if number:
                click.echo()
            print_frame(out, source, frame, view, shown)
    except BrokenPipeError:
        # The reader has closed the pipe, as head(1) does. Buffered output must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_away(reason: str) -> None:
    click.echo(f"podlane: {reason} It is tried again.", err=True)


def _admin(admin: str | None, workload: str | None, node: bool) -> Source:
    from podlane.top.admin import AdminSource

    try:
        return AdminSource.parse(admin, workload=workload, node=node)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--admin") from None


def _interface(name: str, netns: str | None) -> Source:
    from podlane.tc import kernel_access
    from podlane.tc.history_file import HistoryFile
    from podlane.tc.records import knowledge
    from podlane.top.interface import InterfaceSource

    history = os.environ.get(HISTORY_VARIABLE)
    store = HistoryFile(Path(history) if history else None)
    return InterfaceSource(kernel_access.open_kernel(), name, knowledge(store.standing(name), name), netns or "")


@contextmanager
def _inside(netns: str | None) -> Iterator[None]:
    """Read from another network namespace. Raises :class:`LabError`, :class:`NotPermittedError`."""
    if netns is None:
        yield
        return
    from datapath.errors import NetworkNamespaceError
    from podlane.netns.namespace import NAMES, Namespace

    with ExitStack() as stack:
        try:
            stack.enter_context(Namespace(netns).entered())  # an absolute path stays one
        except NetworkNamespaceError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise NotPermittedError(
                    f"Looking from inside {netns} takes CAP_SYS_ADMIN. Use sudo: sudo podlane top --netns {netns}"
                ) from None
            raise LabError(
                f"There is no network namespace {netns} ({os.strerror(error.errno)}). `ip netns` lists those in "
                f"{NAMES}; of a process it is /proc/PID/ns/net."
            ) from None
        yield
