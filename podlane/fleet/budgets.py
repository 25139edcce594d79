"""``podlane budgets``: how many bytes may go through lanes in a day or a month, and how many have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from podlane.fleet.output import changing_options, context_options, output_option
from podlane.options import parsed
from traffic_policy.units import ByteCount


@click.group(
    epilog="""\b
Examples:
  podlane budgets list
  podlane budgets set backup --bytes 500GiB --per month --policy web --class backup
  podlane budgets set all --bytes 20GiB --per day --direction egress
  podlane budgets remove backup

Alerts of the kind volume-budget tell when a share of one is used. A budget changes no lane.
"""
)
def budgets() -> None:
    """Say how many bytes may go through lanes, and see how many have. Log in first, by `podlane login`."""


@budgets.command("list")
@context_options
@output_option
def list_budgets(context: str | None, tenant: str | None, output: str) -> None:
    """List budgets, with what is used of each in its day or month (by UTC).

    USED UP is when all of a budget will be used if bytes go on as in its period so far; - if that is not before UNTIL,
    or it is already.
    """
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(client.ask("GET", client.about("budgets"))["items"], output, _rows)


@budgets.command("set")
@click.argument("name")
@click.option(
    "--bytes", "size", required=True, callback=parsed(ByteCount.parse), metavar="SIZE", help="How many, as in 500GiB."
)
@click.option("--per", type=click.Choice(["day", "month"]), default="month", help="In which time.  [default: month]")
@click.option("--policy", metavar="NAME", default="", help="Only through lanes of this policy.")
@click.option("--class", "lane", metavar="NAME", default="", help="Only through lanes of this class.")
@click.option("--direction", type=click.Choice(["egress", "ingress"]), help="Only in this direction.")
@context_options
@changing_options
@output_option
def set_budget(
    name: str,
    size: ByteCount,
    per: str,
    policy: str,
    lane: str,
    direction: str | None,
    context: str | None,
    tenant: str | None,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Make the budget NAME, or replace it. What went through lanes in its period before counts, too."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for

    wish = {"bytes": size.count, "period": per, "policy": policy, "class": lane, "direction": direction or ""}
    with failing_clearly():
        client = client_for(context, tenant)
        found = client.ask("PUT", client.about("budgets", name), wish, reason=reason, dry_run=dry_run)
        show_change(found, output, f"the budget {name} counts", lambda budget: _rows([budget]))


@budgets.command("remove")
@click.argument("name")
@context_options
@changing_options
@output_option
def remove_budget(name: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Remove the budget NAME. What went through lanes is still counted, for another."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        found = client.ask("DELETE", client.about("budgets", name), reason=reason, dry_run=dry_run)
        show_change(found, output, f"there is no budget {name} any more")


def _rows(budgets: list[Any]) -> list[list[str]]:
    rows = [["NAME", "OF", "PER", "USED", "BYTES", "SHARE", "UNTIL", "USED UP"]]
    for each in budgets:
        named = [each["policy"], each["class"], each["direction"]]
        until, used_up = (_time(each.get(key)) for key in ("until", "used_up"))
        sizes = [ByteCount(each[key]).human for key in ("used", "bytes")]
        of = " ".join(filter(None, named)) or "all lanes"
        rows.append([each["name"], of, each["period"], *sizes, f"{each['share']:.1%}", until, used_up])
    return rows


def _time(seconds: int | None) -> str:
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}Z"
