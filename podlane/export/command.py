"""``podlane export``: what Pods have by annotations and ConfigMaps, as TrafficPolicies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from podlane.console import failing_clearly, say

if TYPE_CHECKING:
    from podlane.export.limits import NamespaceLimits

_KINDS: Final = (
    "deployments.apps,statefulsets.apps,daemonsets.apps,replicasets.apps,replicationcontrollers,jobs.batch,"
    "cronjobs.batch,pods"
)
_PARTLY: Final = 1


@click.command(
    epilog="""\b
Examples:
  podlane export --namespace shop > policies.yaml
  podlane export --filename manifests/ --namespace shop | kubectl apply --dry-run=server -f -
  podlane export --namespace shop | podlane policy apply --file - --dry-run

Exit codes: 0 done, 1 something is left out or cannot be read, 2 the command line is wrong (every reason is on standard
error).
"""
)
@click.option("-n", "--namespace", metavar="NAME", default="", help="The namespace; of manifests that name none.")
@click.option(
    "-f",
    "--filename",
    "sources",
    multiple=True,
    metavar="FILE",
    help="Manifests instead of a cluster: a file, a directory, or - for standard input; may be repeated.",
)
@click.option("--kubeconfig", metavar="FILE", help="As for kubectl.")
@click.option("--context", metavar="NAME", help="As for kubectl.")
def export(namespace: str, sources: tuple[str, ...], kubeconfig: str | None, context: str | None) -> None:
    """Print the limits that Pods have by annotations and ConfigMaps as TrafficPolicies.

    Workloads with the same limits become one policy, whose selector is what their labels have in common and others
    have not. What no policy can say is told on standard error, and stays in the annotations. Changes nothing: apply the
    policies, wait until they are in force, then take the annotations away, which win over policies.
    """
    if not sources and not namespace:
        raise click.UsageError("Name the namespace by --namespace, or manifests by --filename.")
    if sources and (kubeconfig or context):
        raise click.UsageError("Manifests need no cluster. Leave out --kubeconfig and --context, or --filename.")
    with failing_clearly():
        from podlane.export.documents import exported

        found = _of_manifests(sources, namespace) if sources else _of_cluster(namespace, kubeconfig, context)
        made = exported(found)
    click.echo(made.text, nl=False)
    for line in (*made.notes, *made.problems):
        say(line)
    if not made.policies and not made.problems:
        say("There are no limits in annotations, so there is no policy.")
    if made.problems:
        raise SystemExit(_PARTLY)


def _of_manifests(sources: Sequence[str], namespace: str) -> list[NamespaceLimits]:
    from podlane.export.limits import by_namespace, limits_in
    from podlane.manifest_files import read_manifests

    documents = [document for each in read_manifests(sources, in_place=False) for document in _documents(each)]
    return [limits_in(objects, objects.shared.get) for objects in by_namespace(documents, namespace).values()]


def _documents(manifest: Any) -> list[Any]:
    import yaml

    from injector.manifests.yaml_tree import LOADER
    from podlane.errors import ManifestFileError

    try:
        return list(yaml.load_all(manifest.text, LOADER))
    except yaml.YAMLError as error:
        raise ManifestFileError(f"{manifest.name} is no YAML: {' '.join(str(error).split())}. Mend it.") from None


def _of_cluster(namespace: str, kubeconfig: str | None, context: str | None) -> list[NamespaceLimits]:
    from podlane.export.limits import by_namespace, limits_in
    from podlane.kubectl.cluster import Cluster
    from podlane.kubectl.errors import NotThereError
    from traffic_policy.pod.annotations import SHARED_POLICY_KEY

    given = (("--kubeconfig", kubeconfig), ("--context", context))
    cluster = Cluster(tuple(f"{option}={value}" for option, value in given if value))
    above = cluster.get("namespace", namespace)
    found = by_namespace([above, cluster.get(_KINDS, namespace=namespace)], namespace)

    def shared(name: str) -> str | None:
        try:
            data = cluster.get("configmap", name, namespace=namespace).get("data") or {}
        except NotThereError:
            return None
        text = data.get(SHARED_POLICY_KEY)
        return text if isinstance(text, str) else None

    return [limits_in(objects, shared) for objects in found.values()]
