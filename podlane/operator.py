"""``podlane operator``: the status of policies in a cluster."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from podlane.options import choice
from traffic_policy.settings import ADMIN_ADDRESS, LogFormat, LogLevel


@click.command(
    epilog="""\b
Examples:
  podlane operator --kubeconfig ~/.kube/config --namespace podlane-system
  podlane operator --control-plane https://podlane.example.com:15180 --token-file token --cluster east

Every option can be given as an environment variable, as in PODLANE_OPERATOR_LOG_LEVEL=debug.
"""
)
@click.option("--kubeconfig", metavar="FILE", help="How to reach the API server.  [default: as a Pod does]")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.  [default: its current one]")
@click.option("--namespace", metavar="NAME", help="Namespace of the Lease.  [default: the Pod's]")
@click.option("--lease", metavar="NAME", help="The Lease that the working operator holds.  [default: podlane-operator]")
@click.option(
    "--control-plane",
    metavar="URL",
    help="Record policies in this control plane, as in https://podlane.example.com:15180.  [default: none]",
)
@click.option("--token-file", metavar="FILE", help="Has a token of it, of the role operator.")
@click.option("--control-plane-ca", metavar="FILE", help="Its certificate authority.  [default: the system's]")
@click.option("--cluster", metavar="NAME", help="The name that this cluster has there.")
@click.option("--admin-address", metavar="ADDRESS", help=f"Where /healthz is served.  [default: {ADMIN_ADDRESS}]")
@click.option("--admin-port", type=int, help="Port of it; 0: none.  [default: 15111]")
@click.option("--log-format", type=choice(LogFormat), help="How log lines are written.  [default: console]")
@click.option("--log-level", type=choice(LogLevel), help="From which severity on.  [default: info]")
def operator(**options: Any) -> None:
    """Write what became of TrafficPolicies and ClusterTrafficPolicies into their status, and tell it by Events.

    Agents follow policies without it; sidecars that run learn of changes by it. Of several operators one works, and
    another takes over within 15 s.
    """
    from podlane.console import end_at_once_on_sigterm, failing_clearly, ignore_late_signals

    end_at_once_on_sigterm()
    with failing_clearly():
        import trio

        from cluster_operator import service
        from cluster_operator.settings import load_settings
        from daemon import log

        settings = load_settings(options)
        log.configure(settings.log_format, settings.log_level)
        try:
            trio.run(partial(service.serve, settings))
        finally:
            ignore_late_signals()
