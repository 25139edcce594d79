"""``podlane control-plane``: tenants, tokens and policies by REST, every change recorded."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

import click

from podlane.options import choice
from traffic_policy.settings import LogFormat, LogLevel

if TYPE_CHECKING:
    from control_plane.domain.access import TokenText
    from control_plane.settings import ControlPlaneSettings


def _database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those that say where the events are."""
    for option in (
        click.option(
            "--database",
            metavar="URL",
            help="Another database: postgresql://USER@HOST/NAME, or sqlite:PATH.  "
            "[default: events.db in the state folder]",
        ),
        click.option(
            "--state", metavar="FOLDER", help="Where its database is.  [default: /var/lib/podlane/control-plane]"
        ),
    ):
        command = option(command)
    return command


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  podlane control-plane --state ~/podlane
  podlane control-plane --database postgresql://podlane@db.example.com/podlane
  podlane control-plane --address 0.0.0.0 --certificate tls.crt --key tls.key
  podlane control-plane backup /var/backups/podlane.jsonl

Every option can be given as an environment variable, as in PODLANE_CONTROL_PLANE_DATABASE=postgresql://...
At the first start it prints the token of its first administrator, once: `podlane login` wants it.
""",
)
@_database_options
@click.option("--kafka", metavar="HOST:PORT,...", help="Publish every event to this Kafka, too.  [default: to none]")
@click.option("--kafka-topic", metavar="NAME", help="On this topic.  [default: podlane.events]")
@click.option("--kafka-config", metavar="FILE", help="Properties of librdkafka for it, one a line: TLS, SASL.")
@click.option("--address", metavar="ADDRESS", help="Where it listens.  [default: 127.0.0.1]")
@click.option("--port", metavar="PORT", type=int, help="Its port; 0 for any that is free.  [default: 15180]")
@click.option("--certificate", metavar="FILE", help="Of its TLS server, with the chain (PEM); else it speaks HTTP.")
@click.option("--key", metavar="FILE", help="The certificate's private key (PEM).")
@click.option("--agents-address", metavar="ADDRESS", help="Where agents connect, by mutual TLS.  [default: 127.0.0.1]")
@click.option("--agents-port", metavar="PORT", type=int, help="The port for them; 0: any.  [default: 15181]")
@click.option(
    "--agents-name",
    metavar="NAMES",
    help="Under which names and addresses they reach it, with commas; the first is told to them.",
)
@click.option("--trust-domain", metavar="NAME", help="Of the agents' SPIFFE IDs.  [default: podlane]")
@click.option(
    "--ca-certificate",
    metavar="FILE",
    help="The CA of agents (PEM), and others to trust.  [default: one of its own, in the state folder]",
)
@click.option("--ca-key", metavar="FILE", help="The private key of one of those (PEM): it signs.")
@click.option(
    "--reviewers",
    metavar="FOLDER",
    help="Tokens to ask clusters' API servers about agents' ServiceAccounts, each in a file TENANT.CLUSTER.  "
    "[default: reviewers in the state folder]",
)
@click.option(
    "--otlp", metavar="URL", help="An OpenTelemetry collector that is told of changes, as http://127.0.0.1:4318"
)
@click.option("--prometheus", metavar="URL", help="A Prometheus for the queries of rollouts, as http://127.0.0.1:9090")
@click.option(
    "--channel-secrets",
    metavar="FOLDER",
    help="Secrets of channels that are told of alerts, each in a file TENANT.CHANNEL.  "
    "[default: channel-secrets in the state folder]",
)
@click.option(
    "--alerts-may-reach",
    metavar="NETWORKS",
    help="Networks of this machine's own and link-local addresses to which alerts may go, as 127.0.0.0/8; with commas.",
)
@click.option("--public-url", metavar="URL", help="How browsers reach it.  [default: where it listens]")
@click.option("--oidc-issuer", metavar="URL", help="An identity provider (OpenID Connect) by which people log in.")
@click.option("--oidc-client-id", metavar="ID", help="The name that it has for us.")
@click.option("--oidc-client-secret-file", metavar="FILE", help="The secret of that client, if it has one.")
@click.option("--oidc-audience", metavar="NAME", help="What its access tokens must be for.  [default: the client's id]")
@click.option("--oidc-groups-claim", metavar="CLAIM", help="Which claim has the user's groups.  [default: groups]")
@click.option(
    "--rate-limit", metavar="N", type=int, help="Requests a second of one token or user; 0: any.  [default: 100]"
)
@click.option("--log-format", type=choice(LogFormat), help="How log lines are written.")
@click.option("--log-level", type=choice(LogLevel), help="From which severity on.")
@click.option("--new-token", is_flag=True, help="Print a new administrator's token, if the first is lost, and exit.")
@click.option("--rotate-root", is_flag=True, help="Make the next CA of agents, which signs a day later, and exit.")
@click.option("--ready-fd", type=int, hidden=True, help="Write the ports here once it listens.")
@click.pass_context
def control_plane(
    context: click.Context, /, new_token: bool, rotate_root: bool, ready_fd: int | None, **options: Any
) -> None:
    """Keep the policies of a fleet: who may use how much of the network, decided once and recorded for good.

    Without options it works on one machine, with an SQLite database.
    """
    from podlane.console import end_at_once_on_sigterm, failing_clearly, ignore_late_signals

    if context.invoked_subcommand is not None:
        if new_token or rotate_root or ready_fd is not None or any(value is not None for value in options.values()):
            raise click.UsageError(f"Options of `{context.invoked_subcommand}` come after its name.")
        return
    end_at_once_on_sigterm()
    with failing_clearly():
        main, settings = _prepared(options)
        if new_token:
            click.echo(str(main.issue_token(settings)))
            return
        if rotate_root:
            click.echo(f"the next CA of agents signs from {main.rotate_root(settings):%F %T} UTC on")
            return
        try:
            main.serve(settings, on_first_token=_show, on_ready=partial(_tell, ready_fd))
        finally:
            ignore_late_signals()


@control_plane.command("rebuild")
@_database_options
def rebuild(**options: Any) -> None:
    """Make the tables that lists are read from again, from the events. It may serve meanwhile.

    Nothing makes it necessary but a table that somebody has changed by hand.
    """
    from podlane.console import failing_clearly, say

    with failing_clearly():
        main, settings = _prepared(options)
        main.rebuild(settings, lambda tenant, events: say(f"{tenant}: made again from {events} events"))


@control_plane.command("backup")
@click.argument("file")
@_database_options
def backup(file: str, **options: Any) -> None:
    """Write all logs to FILE (- for standard output), as lines of JSON. It may serve meanwhile.

    The digests are checked on the way: a log that was altered is not backed up.
    """
    from podlane.console import failing_clearly, say

    with failing_clearly():
        main, settings = _prepared(options)
        if file == "-":
            main.write_backup(settings, sys.stdout)
            return
        with _whole(Path(file)) as stream:
            main.write_backup(settings, stream)
        say(f"{file} has it")


@control_plane.command("restore")
@click.argument("file", type=click.File(encoding="utf-8"))
@_database_options
def restore(file: TextIO, **options: Any) -> None:
    """Fill an empty database from FILE (- for standard input), whichever database it is from.

    All of it, or nothing: digests are checked first.
    """
    from podlane.console import failing_clearly, say

    with failing_clearly():
        main, settings = _prepared(options)
        restored = main.restore_backup(settings, file)
        say(f"restored {sum(restored.values())} events of {len(restored)} tenants")


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A file for its owner alone, which is there when all of it is on disk, or not at all."""
    from control_plane.store.errors import BackupError

    part = path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise BackupError(f"{path} cannot be written: {error.strerror}. Name another file.") from None


def _prepared(options: dict[str, Any]) -> tuple[ModuleType, ControlPlaneSettings]:
    """The program, if its packages are there, and its settings; the log is set up."""
    try:
        from control_plane import main
    except ModuleNotFoundError as error:
        from podlane.errors import ToolMissingError

        raise ToolMissingError(
            f"The control plane needs packages that are not installed ({error.name}). "
            "Install them: pip install 'podlane[control-plane]'"
        ) from None
    from control_plane.settings import load_settings
    from daemon import log

    settings = load_settings(options)
    log.configure(settings.log_format, settings.log_level)
    return main, settings


def _show(token: TokenText) -> None:
    from podlane.console import say

    if os.path.samestat(os.fstat(1), os.stat(os.devnull)):
        say("nobody sees the first administrator's token; podlane control-plane --new-token makes another")
        return
    say("the first administrator's token, which is shown once:")
    click.echo(str(token))


def _tell(descriptor: int | None, url: str, port: int, agents_port: int) -> None:
    from podlane.console import say

    say(f"log in by: podlane login {url}")
    say(f"agents connect to port {agents_port}; see podlane join-token")
    if descriptor is not None:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{port}\n{agents_port}\n")
