"""``podlane inject``: applies the webhook's changes to manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from podlane.console import MISUSED, failing_clearly, stop
from podlane.manifest_files import Manifest, file_options, finish, read_manifests, read_text


@click.command(
    epilog="""\b
Examples:
  podlane inject -f deployment.yaml | kubectl apply -f -
  kubectl get deployment web -o yaml | podlane inject -f - --image registry.example.com/podlane:1.2
  podlane inject -f manifests/ -f extra.yaml --in-place
  podlane inject -f deployment.yaml --policy-file shared-lanes.yaml --in-place
  podlane inject -f namespace.yaml -f trafficpolicy.yaml -f deployment.yaml | kubectl apply -f -

Exit codes: 0 done, 1 a file cannot be read or written, 2 the manifest cannot be injected (every reason is on standard
error, and nothing is written).
"""
)
@file_options
@click.option("--image", default="", metavar="IMAGE", help="The sidecar's image.  [default: podlane:VERSION]")
@click.option("--image-pull-policy", metavar="POLICY", help="Its imagePullPolicy.")
@click.option(
    "--image-pull-secret",
    "image_pull_secrets",
    metavar="NAME",
    multiple=True,
    help="A Secret to add to imagePullSecrets.",
)
@click.option(
    "--trusted-image",
    "trusted_images",
    metavar="NAME",
    multiple=True,
    help="A repository that the annotation podlane.io/image may name.",
)
@click.option(
    "--bpf/--no-bpf", default=True, help="Give it CAP_BPF and CAP_PERFMON where they are of use.  [default: bpf]"
)
@click.option(
    "--policy-file", metavar="FILE", type=Path, help="What a ConfigMap that is not in the manifest has as policy.yaml."
)
def inject(
    sources: tuple[str, ...],
    in_place: bool,
    quiet: bool,
    policy_file: Path | None,
    **options: Any,
) -> None:
    """Put Podlane's sidecar into the Pods of a manifest, with the limits that their annotations declare.

    It is a native sidecar, for Kubernetes 1.29 and later. Understands Pods, Deployments, StatefulSets, DaemonSets,
    ReplicaSets, ReplicationControllers, Jobs, CronJobs, PodTemplates, Argo's Rollouts, OpenShift's DeploymentConfigs,
    and Lists and streams of them; other kinds with containers are named and left alone. All other text stays as it is,
    comments included. Several files become one stream, unless they are written in place. TrafficPolicies and
    ClusterTrafficPolicies among the files count for their Pods, as those of a cluster do. Pods whose label
    podlane.io/inject is "false", or whose namespace in the manifests has that label with another value than enabled,
    are left alone.
    """
    with failing_clearly():
        from injector.errors import DefaultsError
        from injector.manifests.edit import ManifestResult, inject_text
        from injector.pod.defaults import InjectionDefaults

        try:
            defaults = InjectionDefaults(**options)
        except DefaultsError as error:
            stop(str(error), MISUSED)
        manifests = read_manifests(sources, in_place=in_place)
        policy = None if policy_file is None else read_text(policy_file)

        def work(manifest: Manifest) -> ManifestResult:
            others = [other.text for other in manifests if other is not manifest]
            return inject_text(manifest.text, defaults, policy, others)

        finish(manifests, work, in_place=in_place, quiet=quiet)
