"""``podlane clusters`` and ``podlane join-token``: who may join a control plane."""

from __future__ import annotations

from typing import Any

import click

from podlane.fleet.labels import labels_text
from podlane.fleet.output import changing_options, context_options, output_option


@click.group(
    epilog="""\b
Examples:
  podlane clusters add east
  podlane clusters list
  podlane clusters label east region=eu stage-
  podlane clusters ca > ca.crt
  podlane clusters trust east --url https://10.0.0.1:6443 --ca ca.crt --service-account podlane/podlane-agent
"""
)
def clusters() -> None:
    """See and change the clusters whose nodes' agents belong to a tenant."""


@clusters.command("list")
@context_options
@output_option
def list_clusters(context: str | None, tenant: str | None, output: str) -> None:
    """List the clusters of a tenant."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(list(client.items(client.about("clusters"))), output, _rows)


@clusters.command("add")
@click.argument("name")
@context_options
@changing_options
@output_option
def add_cluster(name: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Add the cluster NAME: any number of nodes, with Kubernetes or without."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        done = client.ask("PUT", client.about("clusters", name), reason=reason, dry_run=dry_run)
        show_change(done, output, f"{name} is added" if done["events"] else f"{name} is there already")


@clusters.command("remove")
@click.argument("name")
@context_options
@changing_options
@output_option
def remove_cluster(name: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Remove the cluster NAME, which has no agents any more."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        found = client.ask("DELETE", client.about("clusters", name), reason=reason, dry_run=dry_run)
        show_change(found, output, f"{name} is removed")


@clusters.command("label")
@click.argument("name")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@click.option("--reason", metavar="TEXT", default="", help="For the audit log.")
@context_options
@output_option
def label_cluster(
    name: str, changes: tuple[str, ...], reason: str, context: str | None, tenant: str | None, output: str
) -> None:
    """Give all nodes of the cluster NAME labels, or take some away (KEY-): policies and steps of rollouts are for
    nodes with labels."""
    from podlane.console import failing_clearly
    from podlane.fleet.labels import parse_labels
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        there = client.ask("GET", client.about("clusters", name))
        labels = dict(there["labels"])
        for change in changes:
            if change.endswith("-") and "=" not in change:
                labels.pop(change[:-1], None)
            else:
                labels |= parse_labels(change, "KEY=VALUE")
        wish = {"labels": labels}
        place = client.about("clusters", name, "labels")
        found = client.ask("PUT", place, wish, reason=reason, seen=there["version"])
        show(found, output, lambda document: _rows([document]))


@clusters.command("trust")
@click.argument("name")
@click.option("--url", metavar="URL", default="", help="Of the cluster's API server, as the control plane reaches it.")
@click.option("--ca", metavar="FILE", help="Of the API server (PEM).")
@click.option("--service-account", metavar="NAMESPACE/NAME", default="", help="Of the agents' Pods.")
@click.option("--nobody", is_flag=True, help="Have no agent join by a ServiceAccount any more.")
@context_options
@changing_options
@output_option
def trust_cluster(
    name: str,
    url: str,
    ca: str | None,
    service_account: str,
    nobody: bool,
    context: str | None,
    tenant: str | None,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Have agents of the cluster NAME join by the token of their ServiceAccount, without join tokens.

    The control plane asks the cluster's API server whether a token is valid, and of which node its Pod is. For that it
    needs a token of its own (ClusterRole system:auth-delegator), in its --reviewers folder.
    """
    from pathlib import Path

    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for
    from traffic_policy.errors import ConfigError

    with failing_clearly():
        client = client_for(context, tenant)
        if nobody == bool(url and ca and service_account):
            raise ConfigError("Give --url, --ca and --service-account, or --nobody.")
        try:
            text = Path(ca).read_text("utf-8") if ca and not nobody else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{ca} cannot be read: {error}. Name another by --ca.") from None
        wish = {"url": url, "ca": text, "service_account": service_account}
        place = client.about("clusters", name, "trust")
        found = client.ask("PUT", place, {} if nobody else wish, reason=reason, dry_run=dry_run)
        told = f"agents with the ServiceAccount {service_account} may join {client.context.tenant}/{name}"
        show_change(found, output, f"no agent joins {name} by a ServiceAccount any more" if nobody else told)


@clusters.command("ca")
@context_options
def show_ca(context: str | None, tenant: str | None) -> None:
    """Print the CA of the agents' port (PEM), for agents that join by a ServiceAccount."""
    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        click.echo(client.ask("GET", client.about("roots"))["roots"], nl=False)


@click.command(
    "join-token",
    epilog="""\b
Examples:
  podlane join-token east > token
  podlane join-token east --node node-1 --expires-in 600
""",
)
@click.argument("cluster")
@click.option("--node", metavar="NAME", default="", help="The only node that may use it.  [default: any without agent]")
@click.option("--expires-in", metavar="SECONDS", type=int, default=3600, help="[default: 3600; at most a week]")
@click.option("--reason", metavar="TEXT", default="", help="For the audit log.")
@context_options
@output_option
def join_token(
    cluster: str, node: str, expires_in: int, reason: str, context: str | None, tenant: str | None, output: str
) -> None:
    """Issue a token with which one agent joins CLUSTER, once, and say how.

    The token has the digest of the control plane's CA, so that the agent knows whom to trust.
    """
    from podlane.console import failing_clearly, say
    from podlane.fleet.output import OutputFormat, show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        wish = {"expires_in": expires_in, "node": node}
        issued = client.ask("POST", client.about("clusters", cluster, "join-tokens"), wish, reason=reason)
        if output != OutputFormat.TABLE:
            show(issued, output, _rows)
            return
        host, _, port = issued["control_plane"].rpartition(":")
        place, named = f"{host or client.host}:{port}", f" --name {node}" if node else ""
        command = f"podlane agent --control-plane {place} --join-token TOKEN{named}"
        say(f"on {node or 'the node'}, besides other options: {command}")
        say("the token, which is for one agent, and shown once:")
        click.echo(issued["token"])


def _rows(found: list[Any]) -> list[list[str]]:
    rows = [["NAME", "AGENTS", "JOIN TOKENS", "LABELS"]]
    return rows + [
        [each["name"], str(each["agents"]), str(each["join_tokens"]), labels_text(each["labels"]) or "-"]
        for each in found
    ]
