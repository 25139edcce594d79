"""``kubectl podlane``: kubectl runs any program in PATH that is named kubectl-podlane."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from podlane.console import end_by_exception, failing_clearly
from podlane.options import parsed
from podlane.top.command import SORTS, interval_of, show
from traffic_policy.units import Duration

if TYPE_CHECKING:
    from podlane.kubectl.cluster import Cluster


def _of_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """kubectl's options, by which it finds a cluster."""
    for option in (
        click.option("--kubeconfig", metavar="FILE", help="As for kubectl."),
        click.option("--context", metavar="NAME", help="As for kubectl."),
        click.option("-n", "--namespace", metavar="NAME", help="As for kubectl."),
    ):
        command = option(command)
    return command


def _cluster(kubeconfig: str | None, context: str | None) -> Cluster:
    from podlane.kubectl.cluster import Cluster

    given = {"kubeconfig": kubeconfig, "context": context}
    # kubectl tells its plugins by nothing but the environment, which its child here has too.
    return Cluster(tuple(f"--{name}={value}" for name, value in given.items() if value is not None))


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="VERB ...",
    epilog="""\b
Examples:
  kubectl podlane status
  kubectl podlane explain web-0 -n shop
  kubectl podlane top web-0
  kubectl podlane top -A --once --sort throttled

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 the command line cannot be used.
""",
)
@click.version_option(package_name="podlane", message="podlane %(version)s")
def main() -> None:
    """Who holds Pods to their limits, by what, and what they do now.

    All is asked through kubectl: objects by `kubectl get`, agents and sidecars by `kubectl port-forward`. Nothing is
    changed.
    """
    if os.environ.get("NO_COLOR"):
        click.get_current_context().color = False


@main.command(
    epilog="""\b
Rights: get the Pod, its Namespace and the ConfigMap that it names, list Pods in all namespaces (to find agents);
create pods/portforward where the agents are, or in the Pod's namespace for a sidecar. What may not be asked is said,
and the rest is shown: without the agent its last Event tells of its state.
"""
)
@click.argument("pod")
@_of_cluster
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def explain(pod: str, namespace: str | None, context: str | None, kubeconfig: str | None, as_json: bool) -> None:
    """Say who holds a Pod and why, its limits, where each comes from, and how they are enforced."""
    with failing_clearly():
        from podlane.kubectl.explain import explained, explanation_document, explanation_lines
        from podlane.kubectl.reach import find

        cluster = _cluster(kubeconfig, context)
        said = explained(cluster, find(cluster, _name(pod), namespace))
        _write(explanation_document(said) if as_json else None, explanation_lines(said))


@main.command(
    epilog="""\b
Rights: list Pods in all namespaces and Nodes, create pods/portforward where the agents are.
"""
)
@_of_cluster
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(namespace: str | None, context: str | None, kubeconfig: str | None, as_json: bool) -> None:
    """Say which nodes have agents, of which versions, how many Pods are in lanes, and which are not and why.

    With --namespace only its Pods count.
    """
    with failing_clearly():
        from podlane.kubectl.status import cluster_status, status_document, status_lines

        told = cluster_status(_cluster(kubeconfig, context))
        _write(status_document(told, namespace) if as_json else None, status_lines(told, namespace))


@main.command(
    epilog="""\b
Keys: q quit, s and < > sort, r reverse, p pause, c connections of one Pod, ? help.
"""
)
@click.argument("pod", required=False)
@_of_cluster
@click.option("-A", "--all-namespaces", is_flag=True, help="Pods of all namespaces.")
@click.option("--node", metavar="NAME", help="Only Pods of this node.")
@click.option("--connections", is_flag=True, help="Live connections of a Pod instead of its classes.")
@click.option("--sort", type=click.Choice(SORTS), help="Sort classes by a column.", metavar="COLUMN")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--interval", callback=parsed(interval_of), default="1s", show_default=True, metavar="TIME",
              help="What a rate is the mean of.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N intervals.")
@click.option("--once", is_flag=True, help="Print one table, after one interval, and end.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON per interval.")
def top(
    pod: str | None,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    all_namespaces: bool,
    node: str | None,
    connections: bool,
    sort: str | None,
    reverse: bool,
    interval: Duration,
    count: int | None,
    once: bool,
    as_json: bool,
) -> None:
    """Watch what each class does: of one Pod, or of all that agents hold in a namespace.

    A Pod with a sidecar is shown by its name alone.
    """
    if pod is not None and (all_namespaces or node is not None):
        raise click.UsageError("POD, --all-namespaces and --node: A Pod is one. Leave the others out.")
    if all_namespaces and namespace is not None:
        raise click.UsageError("--all-namespaces and --namespace: Choose one of them.")
    if connections and pod is None:
        raise click.UsageError("--connections: They are listed for one Pod. Name it.")
    if once and count is not None:
        raise click.UsageError("--once and --count: Once is a count of 1. Leave one of them out.")
    with failing_clearly():
        from podlane.kubectl.top import source_of_agents, source_of_pod
        from podlane.top.view import View

        end_by_exception()  # kubectl must not go on forwarding a port when this is ended by a signal
        cluster = _cluster(kubeconfig, context)
        order = sort or ("now" if pod is None else "policy")
        view = View(sort=order, reverse=reverse, shows_connections=connections, of_node=pod is None)
        opened = (
            source_of_agents(cluster, namespace, everywhere=all_namespaces or node is not None, node=node)
            if pod is None
            else source_of_pod(cluster, _name(pod), namespace)
        )
        with opened as source:
            show(source, view, interval.seconds, 1 if once else count, 200, prints=once, as_json=as_json)


def _name(pod: str) -> str:
    """kubectl takes pod/NAME, too."""
    return pod.removeprefix("pods/").removeprefix("pod/")


def _write(document: dict[str, Any] | None, lines: Any) -> None:
    if document is not None:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    main()
