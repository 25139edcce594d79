"""``podlane agents``: which agents a control plane has, and what became of what they were told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from podlane.fleet.output import changing_options, context_options, output_option

if TYPE_CHECKING:
    from podlane.fleet.client import FleetClient

_STATES = ("in-sync", "behind", "failed", "away")


@click.group(
    epilog="""\b
Examples:
  podlane agents list
  podlane agents list --state failed
  podlane agents get node-1
  podlane agents diagnose node-1
  podlane agents revoke node-1 --reason "the machine was sold"
"""
)
def agents() -> None:
    """See a control plane's agents, and revoke them. They join by a token of `podlane join-token`."""


@agents.command("list")
@click.option("--cluster", metavar="NAME", help="Only those of this cluster.")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@context_options
@output_option
def list_agents(cluster: str | None, state: str | None, context: str | None, tenant: str | None, output: str) -> None:
    """List the agents of a tenant, and whether what is desired is in force there.

    \b
    in-sync  it has what is desired in force
    behind   it is connected, and has not said yet that it has
    failed   it could not put it in force, as a whole or for some workloads
    away     it is not connected; what it has in force stays
    """
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        query = {name: value for name, value in (("cluster", cluster), ("state", state)) if value}
        show(list(client.items(client.about("agents"), query)), output, _rows)


@agents.command("get")
@click.argument("node")
@click.option("--cluster", metavar="NAME", help="Its cluster, if several have a node of this name.")
@context_options
@output_option
def get_agent(node: str, cluster: str | None, context: str | None, tenant: str | None, output: str) -> None:
    """Show all that is known of the agent of NODE."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        place = client.about("clusters", cluster or cluster_of(client, node), "agents", node)
        show(client.ask("GET", place), output, _details)


@agents.command("diagnose")
@click.argument("node")
@click.option("--cluster", metavar="NAME", help="Its cluster, if several have a node of this name.")
@context_options
@output_option
def diagnose_agent(node: str, cluster: str | None, context: str | None, tenant: str | None, output: str) -> None:
    """Ask the agent of NODE what it knows of itself: what troubles it, and what its kernel cannot do."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        place = client.about("clusters", cluster or cluster_of(client, node), "agents", node, "diagnosis")
        show(client.ask("GET", place)["answer"], output, lambda answer: _diagnosis(node, answer))


@agents.command("revoke")
@click.argument("node")
@click.option("--cluster", metavar="NAME", help="Its cluster, if several have a node of this name.")
@context_options
@changing_options
@output_option
def revoke_agent(
    node: str, cluster: str | None, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str
) -> None:
    """Cut off the agent of NODE, at once and for good. What it has in force stays so."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        cluster = cluster or cluster_of(client, node)
        place = client.about("clusters", cluster, "agents", node)
        found = client.ask("DELETE", place, reason=reason, dry_run=dry_run)
        show_change(
            found, output, f"the agent of {node} is revoked; it can join again by: podlane join-token {cluster}"
        )


def cluster_of(client: FleetClient, node: str) -> str:
    """The only cluster that has an agent of this node. Raises :class:`~podlane.fleet.client.FleetError`."""
    from podlane.fleet.client import FleetError

    clusters = [each["cluster"] for each in client.items(client.about("agents")) if each["node"] == node]
    if not clusters:
        raise FleetError(f"No agent of {node} has joined. `podlane agents list` has those that have.")
    if len(clusters) > 1:
        raise FleetError(f"{', '.join(clusters)} have a node {node}. Say which by --cluster.")
    return str(clusters[0])


def _rows(found: list[Any]) -> list[list[str]]:
    rows = [["NODE", "CLUSTER", "STATE", "REVISION", "PROGRAMMED", "FAILED", "WAITING", "SINCE", "VERSION"]]
    for each in found:
        numbers = [str(each[name]) for name in ("revision", "programmed", "failed", "waiting")]
        rows.append(
            [each["node"], each["cluster"], each["state"], *numbers, _time(each["since"]), each["version"] or "-"]
        )
    return rows


def _details(agent: Any) -> list[list[str]]:
    told = f"{agent['revision']} of {agent['desired']}"
    certificate = f"{agent['serial']}, until {_time(agent['expires'])}"
    rows = [
        ["NODE", agent["node"]],
        ["cluster", agent["cluster"]],
        ["state", agent["state"]],
        ["away since" if agent["state"] == "away" else "connected since", _time(agent["since"])],
        ["revision", told],
        ["workloads", f"{agent['programmed']} programmed, {agent['failed']} failed, {agent['waiting']} waiting"],
        ["version", f"{agent['version'] or '-'} on {agent['kernel'] or '-'}"],
        ["address", agent["address"] or "-"],
        ["joined", _time(agent["joined"])],
        ["certificate", certificate],
        ["memory", f"{agent['memory'] / 2**20:.0f} MiB" if agent["memory"] else "-"],
        ["abilities", ", ".join(agent["abilities"]) or "-"],
        ["labels", ", ".join(f"{key}={value}" for key, value in sorted(agent["labels"].items())) or "-"],
    ]
    for name, text in (("refused", agent["refusal"]), ("ended", agent["ended"])):
        rows += [[name, text]] if text else []
    rows += [["trouble", each] for each in agent["troubles"]]
    rows += [["failure", f"{each['workload']}: {each['reason']}"] for each in agent["failures"]]
    return rows


def _diagnosis(node: str, answer: Any) -> list[list[str]]:
    """What the agent answers is of its version: what it does not say is left out."""
    rows = [["NODE", node]]
    rows += [[key, str(answer[key])] for key in ("version", "kernel") if answer.get(key)]
    for title, key, factor, unit in (
        ("up for", "uptime_seconds", 1, "s"), ("processor time", "cpu_seconds", 1, "s"),
        ("memory", "memory_bytes", 2**20, "MiB"),
    ):  # fmt: skip
        if isinstance(answer.get(key), int | float):
            rows.append([title, f"{answer[key] / factor:.0f} {unit}"])
    states = answer.get("workloads") or {}
    rows.append(["workloads", ", ".join(f"{count} {state}" for state, count in states.items() if count) or "-"])
    rows += [["trouble", str(each)] for each in answer.get("troubles") or ()]
    rows += [[f"without {name}", str(reason)] for name, reason in (answer.get("missing") or {}).items()]
    return rows


def _time(seconds: float | None) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else "-"
