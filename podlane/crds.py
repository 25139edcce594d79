"""``podlane crds``."""

from __future__ import annotations

import click


@click.command(epilog="\b\nExample:\n  podlane crds | kubectl apply --server-side --force-conflicts -f -")
def crds() -> None:
    """Print the definitions of TrafficPolicy and ClusterTrafficPolicy.

    These are the CustomResourceDefinitions that this version of Podlane knows, as YAML for kubectl.
    """
    from traffic_policy.cluster.definitions import definitions_text

    click.echo(definitions_text(), nl=False)
