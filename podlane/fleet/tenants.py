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
  podlane tenants caps shop --total 1Gbit --priority 3 --beyond clamp
  podlane tenants close shop --dry-run

Creating, capping and closing is for administrators of the tenant platform.
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


@tenants.command("caps")
@click.argument("name")
@click.option("--total", metavar="RATE", help="The greatest total, as in 1Gbit.")
@click.option("--ingress", metavar="RATE", help="The greatest total of what arrives.")
@click.option("--ceil", metavar="RATE", help="The greatest ceil of a class.")
@click.option("--priority", metavar="N", type=int, help="The most urgent priority: with 3, there is no 0, 1 and 2.")
@click.option(
    "--beyond",
    type=click.Choice(["refuse", "clamp"]),
    help="What happens to a policy that says more.  [default: refuse]",
)
@click.option("--none", is_flag=True, help="Take the caps away.")
@_CONTEXT
@changing_options
@output_option
def cap_tenant(
    name: str, none: bool, context: str | None, reason: str, dry_run: bool, output: str, **limits: str | int | None
) -> None:
    """Show the most that policies of the tenant NAME may say, or set it. What is not named is not capped then.

    It counts for what is written from then on; policies in force stay as they are.
    """
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    wish = {key: value for key, value in limits.items() if value is not None}
    if none and wish:
        raise click.UsageError("--none takes all caps away: leave out the others.")
    if wish.keys() == {"beyond"}:
        raise click.UsageError("Say also what is capped, as by --total.")
    with failing_clearly():
        client = client_for(context, name)
        if not wish and not none:
            show(client.ask("GET", client.about("caps")), output, _caps)
            return
        found = client.ask("PUT", client.about("caps"), wish, reason=reason, dry_run=dry_run)
        show_change(found, output, f"the caps of {name} count from now on", _caps)


@tenants.command("quota")
@click.argument("name")
@click.option("--agents", metavar="N", type=click.IntRange(0), help="How many agents may join.")
@click.option("--policies", metavar="N", type=click.IntRange(0), help="How many policies it may have.")
@click.option("--none", is_flag=True, help="Take the quota away.")
@_CONTEXT
@changing_options
@output_option
def limit_tenant(
    name: str,
    agents: int | None,
    policies: int | None,
    none: bool,
    context: str | None,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Say how many agents and policies the tenant NAME may have at most. What is not named is not limited then.

    What is there already stays.
    """
    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    if none == (agents is not None or policies is not None):
        raise click.UsageError("Give --agents, --policies or both; or --none.")
    with failing_clearly():
        client = client_for(context, name)
        wish = {"agents": agents, "policies": policies}
        found = client.ask("PUT", client.about("quota"), wish, reason=reason, dry_run=dry_run)
        show_change(found, output, f"the quota of {name} counts from now on")


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


def _caps(caps: Any) -> list[list[str]]:
    values = [caps[key] for key in ("total", "ingress", "ceil", "priority")]
    said = ["-" if value is None else str(value) for value in values]
    return [
        ["TOTAL", "INGRESS", "CEIL", "PRIORITY", "BEYOND"],
        [*said, caps["beyond"] if set(values) != {None} else "-"],
    ]
