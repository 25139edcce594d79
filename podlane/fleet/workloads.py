"""``podlane workloads``: what a node's workloads are held to and what went through their lanes, as its agent says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from podlane.fleet.output import context_options, output_option

if TYPE_CHECKING:
    from podlane.fleet.client import FleetClient

_MOST_PAGES = 1000
"""An agent says which page is the last: it is not asked for ever."""


def node_options(command: Any) -> Any:
    """``--node`` and ``--cluster``."""
    command = click.option("--cluster", metavar="NAME", help="Its cluster, if several have a node of this name.")(
        command
    )
    return click.option("--node", required=True, metavar="NAME", help="The node whose agent is asked.")(command)


@click.group(
    epilog="""\b
Examples:
  podlane workloads list --node node-1
  podlane workloads list --node node-1 shop/web-1 -o json
  podlane workloads get shop/web-1 --node node-1
  podlane workloads get shop/web-1 --node node-1 -o yaml
  podlane workloads connections shop/web-1 --node node-1 --order newest
"""
)
def workloads() -> None:
    """Ask a node's agent for its workloads. It has to be connected. `podlane agents list` has the nodes."""


@workloads.command("list")
@click.argument("names", nargs=-1, metavar="[WORKLOAD]...")
@node_options
@context_options
@output_option
def list_workloads(
    names: tuple[str, ...], node: str, cluster: str | None, context: str | None, tenant: str | None, output: str
) -> None:
    """List the lanes of a node's workloads (NAMESPACE/POD), with what went through them in the last hour.

    NOW is the mean of the last minute, MOST that of the busiest one. -o json and yaml have each minute.
    """
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(_minutes(client, _agent(client, node, cluster), names), output, _lane_rows)


@workloads.command("get")
@click.argument("workload")
@node_options
@context_options
@output_option
def get_workload(
    workload: str, node: str, cluster: str | None, context: str | None, tenant: str | None, output: str
) -> None:
    """Show what is in force for WORKLOAD (NAMESPACE/POD), and where it comes from. -o yaml has the whole policy."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        place = f"{_agent(client, node, cluster)}/effective-policy"
        show(client.ask("GET", place, query={"workload": workload})["answer"], output, _details)


@workloads.command("connections")
@click.argument("workload")
@node_options
@click.option(
    "--order", type=click.Choice(["largest", "newest"]), default="largest", help="Which first.  [default: largest]"
)
@click.option("--limit", type=click.IntRange(1, 200), default=50, help="How many.  [default: 50]")
@context_options
@output_option
def list_connections(
    workload: str,
    node: str,
    cluster: str | None,
    order: str,
    limit: int,
    context: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """List connections of WORKLOAD (NAMESPACE/POD) that are alive, those that have carried the most bytes first."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        place = f"{_agent(client, node, cluster)}/connections"
        query: dict[str, str | int] = {"workload": workload, "limit": limit, "order": order}
        show(client.ask("GET", place, query=query), output, _connection_rows)


def _agent(client: FleetClient, node: str, cluster: str | None) -> str:
    from podlane.fleet.agents import cluster_of

    return client.about("clusters", cluster or cluster_of(client, node), "agents", node)


def _minutes(client: FleetClient, place: str, names: tuple[str, ...]) -> dict[str, Any]:
    """All pages of what the agent remembers, as one document."""
    found: list[Any] = []
    after = ""
    for _ in range(_MOST_PAGES):
        query = [*(("workload", name) for name in names), *([("after", after)] if after else ())]
        page = client.ask("GET", f"{place}/minutes", query=query)
        found += page["workloads"]
        after = page["after"]
        if not after:
            break
    return {"until": page["until"], "minutes": page["minutes"], "workloads": found}


def _lane_rows(found: Any) -> list[list[str]]:
    from traffic_policy.units import Rate

    rows = [["WORKLOAD", "POLICY", "LANE", "DIRECTION", "NOW", "MOST", "DROPPED", "THROTTLED"]]
    for each in found["workloads"]:
        for lane in each["lanes"]:
            rates = [Rate(bits).human for bits in (lane["rate"][-1:] or [0]) + [max(lane["rate"], default=0)]]
            counts = [str(sum(lane[name])) for name in ("dropped", "throttled")]
            rows.append([each["workload"], each["policy"] or "-", lane["lane"], lane["direction"], *rates, *counts])
    return rows


def _connection_rows(found: Any) -> list[list[str]]:
    from daemon.documents.codec import from_json
    from daemon.documents.connections import Connections
    from podlane.top.connections import TITLES, cells

    shown = from_json(Connections, found)
    return [[title.upper() for title in TITLES], *(list(cells(each)) for each in shown.connections)]


def _details(answer: Any) -> list[list[str]]:
    """What the agent answers is of its version: what it does not say is left out."""
    rows = [["WORKLOAD", str(answer.get("name", "-"))]]
    names = {
        "state": "state", "reason": "reason", "policy of the fleet": "fleet_policy",
        "policy of the cluster": "cluster_policy", "datapath": "datapath", "why not in the kernel": "datapath_reason",
        "interface": "interface", "network namespace": "network_namespace",
    }  # fmt: skip
    rows += [[title, str(answer[name])] for title, name in names.items() if answer.get(name)]
    policy = answer.get("policy") or {}
    if policy.get("total"):
        rows.append(["total", str(policy["total"])])
    for each in policy.get("classes") or ():
        limits = [f"{key} {each[key]}" for key in ("rate", "ceil", "priority") if each.get(key) is not None]
        rows.append([f"class {each.get('name', '-')}", ", ".join(limits)])
    for title, name in (("removed by others", "lost"), ("warning", "warnings")):
        rows += [[title, str(each)] for each in answer.get(name) or ()]
    return rows
