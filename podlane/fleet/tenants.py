"""``podlane tenants``: who shares a control plane."""

from __future__ import annotations

from typing import Any

import click

from podlane.fleet.output import changing_options, output_option, show_change

_CONTEXT = click.option("--context", metavar="NAME", help="Another context than the current one.")


@click.group(
    epilog="""\b
Examples:
  podlane tenants list
  podlane tenants create shop --title "The shop"
  podlane tenants close shop --dry-run

Creating and closing is for administrators of the tenant platform.
"""
)
def tenants() -> None:
    """List, create, rename and close a control plane's tenants. Log in first, by `podlane login`."""


@tenants.command("list")
@_CONTEXT
@output_option
def list_tenants(context: str | None, output: str) -> None:
    """List the tenants that you may see."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        show(list(client_for(context, None).items("tenants")), output, _rows)


@tenants.command("create")
@click.argument("name")
@click.option("--title", metavar="TEXT", default="", help="For people.")
@_CONTEXT
@changing_options
@output_option
def create_tenant(name: str, title: str, context: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Create the tenant NAME."""
    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, name)
        found = client.ask("PUT", client.about(), {"title": title}, reason=reason, dry_run=dry_run, seen=0)
        show_change(found, output, f"the tenant {name} is created", lambda tenant: _rows([tenant]))


@tenants.command("rename")
@click.argument("name")
@click.option("--title", metavar="TEXT", required=True, help="For people; NAME stays, as records have it.")
@_CONTEXT
@changing_options
@output_option
def rename_tenant(name: str, title: str, context: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Change the title of the tenant NAME."""
    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, name)
        # Without this a misspelt name would become a tenant.
        seen = client.ask("GET", client.about())["version"]
        found = client.ask("PUT", client.about(), {"title": title}, reason=reason, dry_run=dry_run, seen=seen)
        show_change(found, output, f"the title of {name} is {title}", lambda tenant: _rows([tenant]))


@tenants.command("close")
@click.argument("name")
@_CONTEXT
@changing_options
@output_option
def close_tenant(name: str, context: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Close the tenant NAME for good: its name cannot be had again, and its log stays."""
    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, name)
        found = client.ask("DELETE", client.about(), reason=reason, dry_run=dry_run)
        show_change(found, output, f"the tenant {name} is closed")


def _rows(tenants: list[Any]) -> list[list[str]]:
    return [["NAME", "TITLE"], *([each["name"], each["title"] or "-"] for each in tenants)]
