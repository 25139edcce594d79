"""``podlane control-plane``: tenants, tokens and policies by REST, every change recorded."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from podlane.options import choice
from traffic_policy.settings import LogFormat, LogLevel

if TYPE_CHECKING:
    from control_plane.domain.access import TokenText


@click.command(
    epilog="""\b
Examples:
  podlane control-plane --state ~/podlane
  podlane control-plane --database postgresql://podlane@db.example.com/podlane
  podlane control-plane --address 0.0.0.0 --certificate tls.crt --key tls.key

Every option can be given as an environment variable, as in PODLANE_CONTROL_PLANE_DATABASE=postgresql://...
At the first start it prints the token of its first administrator, once: `podlane login` wants it.
"""
)
@click.option("--state", metavar="FOLDER", help="Where its database is.  [default: /var/lib/podlane/control-plane]")
@click.option(
    "--database",
    metavar="URL",
    help="Another database: postgresql://USER@HOST/NAME, or sqlite:PATH.  [default: events.db in the state folder]",
)
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
@click.option("--prometheus", metavar="URL", help="A Prometheus for the queries of rollouts, as http://127.0.0.1:9090")
@click.option("--log-format", type=choice(LogFormat), help="How log lines are written.")
@click.option("--log-level", type=choice(LogLevel), help="From which severity on.")
@click.option("--new-token", is_flag=True, help="Print a new administrator's token, if the first is lost, and exit.")
@click.option("--rotate-root", is_flag=True, help="Make the next CA of agents, which signs a day later, and exit.")
@click.option("--ready-fd", type=int, hidden=True, help="Write the ports here once it listens.")
def control_plane(new_token: bool, rotate_root: bool, ready_fd: int | None, **options: Any) -> None:
    """Keep the policies of a fleet: who may use how much of the network, decided once and recorded for good.

    Without options it works on one machine, with an SQLite database.
    """
    from podlane.console import end_at_once_on_sigterm, failing_clearly, ignore_late_signals

    end_at_once_on_sigterm()
    with failing_clearly():
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


def _show(token: TokenText) -> None:
    from podlane.console import say

    say("the first administrator's token, which is shown once:")
    click.echo(str(token))


def _tell(descriptor: int | None, url: str, port: int, agents_port: int) -> None:
    from podlane.console import say

    say(f"log in by: podlane login {url}")
    say(f"agents connect to port {agents_port}; see podlane join-token")
    if descriptor is not None:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{port}\n{agents_port}\n")
