"""``podlane grants``: which groups of the identity provider have which role."""

from __future__ import annotations

from typing import Any

import click

from control_plane.domain.access import Role
from podlane.fleet.output import changing_options, context_options, output_option, show_change
from podlane.options import choice


@click.group(
    epilog="""\b
Examples:
  podlane grants list
  podlane grants set shop-developers --role editor
  podlane grants revoke shop-developers
"""
)
def grants() -> None:
    """Say which groups of the identity provider have which role in a tenant. Log in first, by `podlane login`."""


@grants.command("list")
@context_options
@output_option
def list_grants(context: str | None, tenant: str | None, output: str) -> None:
    """List groups and their roles."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(list(client.items(client.about("grants"))), output, _rows)


@grants.command("set")
@click.argument("group")
@click.option("--role", type=choice(Role), required=True, help="What its members may do in the tenant.")
@context_options
@changing_options
@output_option
def set_grant(
    group: str, role: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str
) -> None:
    """Give GROUP a role, instead of the one that it has."""
    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        found = client.ask("PUT", client.about("grants", group), {"role": role}, reason=reason, dry_run=dry_run)
        show_change(found, output, f"{group} has the role {role} in {client.context.tenant}")


@grants.command("revoke")
@click.argument("group")
@context_options
@changing_options
@output_option
def revoke_grant(group: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Take GROUP its role."""
    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        found = client.ask("DELETE", client.about("grants", group), reason=reason, dry_run=dry_run)
        show_change(found, output, f"{group} has no role in {client.context.tenant} any more")


def _rows(grants: list[Any]) -> list[list[str]]:
    return [["GROUP", "ROLE"], *([each["group"], each["role"]] for each in grants)]
