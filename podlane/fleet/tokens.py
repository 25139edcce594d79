"""``podlane tokens``: what programs log in with."""

from __future__ import annotations

from typing import Any

import click

from control_plane.domain.access import Role
from podlane.fleet.output import changing_options, context_options, output_option, show_change
from podlane.options import choice


@click.group(
    epilog="""\b
Examples:
  podlane tokens list
  podlane tokens create --role editor --title CI --expires-in 90d > token
  podlane tokens revoke 77d0c4a1e5b2f390 --reason "the laptop was stolen"
"""
)
def tokens() -> None:
    """List, issue and revoke a tenant's API tokens. Log in first, by `podlane login`."""


@tokens.command("list")
@context_options
@output_option
def list_tokens(context: str | None, tenant: str | None, output: str) -> None:
    """List those that are not revoked. Nobody can see their text again."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(list(client.items(client.about("tokens"))), output, _rows)


@tokens.command("create")
@click.option("--role", type=choice(Role), required=True, help="What it may do in its tenant.")
@click.option("--title", metavar="TEXT", default="", help="Whose it is, or what for.")
@click.option("--expires-in", metavar="TIME", default="90d", help="As in 12h or 30d; never.  [default: 90d]")
@context_options
@changing_options
@output_option
def create_token(
    role: str,
    title: str,
    expires_in: str,
    context: str | None,
    tenant: str | None,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Issue a token. Its text goes to standard output, once; only its hash is kept."""
    from podlane.console import failing_clearly, say
    from podlane.fleet.output import OutputFormat
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        wish = {"role": role, "title": title, "expires_in": _seconds(expires_in)}
        found = client.ask("POST", client.about("tokens"), wish, reason=reason, dry_run=dry_run)
        if dry_run or output != OutputFormat.TABLE:
            show_change(found, output, "")
            return
        say(f"the token {found['id']} of {client.context.tenant} ({role}), which is shown once:")
        click.echo(found["token"])


@tokens.command("revoke")
@click.argument("id")
@context_options
@changing_options
@output_option
def revoke_token(id: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Revoke the token ID, at once and for good."""
    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        found = client.ask("DELETE", client.about("tokens", id), reason=reason, dry_run=dry_run)
        show_change(found, output, f"the token {id} is revoked")


def _seconds(text: str) -> int | None:
    from traffic_policy.errors import ConfigError

    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if text == "never":
        return None
    if text[:-1].isdecimal() and text[-1:] in units and int(text[:-1]):
        return int(text[:-1]) * units[text[-1]]
    raise ConfigError(f"--expires-in {text} is no time. Write it as 12h or 30d, or never.")


def _rows(tokens: list[Any]) -> list[list[str]]:
    from datetime import UTC, datetime

    rows = [["ID", "TITLE", "ROLE", "EXPIRES"]]
    for each in tokens:
        end = each["expires_at"]
        told = "never" if end is None else datetime.fromtimestamp(end, UTC).isoformat(timespec="minutes")
        rows.append([each["id"], each["title"] or "-", each["role"], told])
    return rows
