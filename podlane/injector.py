"""``podlane injector``: the admission webhook that puts the sidecar into Pods."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import click


@click.command(
    epilog="""\b
Examples:
  podlane injector --secret podlane-injector --mutating-webhook podlane --validating-webhook podlane
  podlane injector --certificate tls.crt --key tls.key
  podlane injector --certificate tls.crt --key tls.key --kubeconfig ~/.kube/config

Every option can be given as an environment variable, as in PODLANE_INJECTOR_LOG_LEVEL=debug.
SIGTERM makes it unready, takes requests for the linger time, finishes what runs and exits with status 0.
"""
)
@click.option("--address", metavar="ADDRESS", help="Address to listen on.  [default: all]")
@click.option("--port", metavar="PORT", type=int, help="Port of the webhooks (HTTPS); 0: any.  [default: 8443]")
@click.option("--metrics-port", metavar="PORT", type=int, help="Port of metrics and health (HTTP).  [default: 8080]")
@click.option("--tls-version", type=click.Choice(["1.2", "1.3"]), help="Oldest TLS that is spoken.  [default: 1.3]")
@click.option("--certificate", metavar="FILE", help="Certificate chain to serve (PEM); read again when it changes.")
@click.option("--key", metavar="FILE", help="Its private key (PEM).")
@click.option("--client-ca", metavar="FILE", help="Answer only clients with a certificate of this authority (PEM).")
@click.option("--client-names", metavar="NAMES", help="And with one of these common names (CN), with commas.")
@click.option("--secret", metavar="NAME", help="Instead: keep certificates of its own making in this Secret.")
@click.option("--service", metavar="NAME", help="Service they are for.  [default: podlane-injector]")
@click.option("--names", metavar="NAMES", help="Further names and addresses they are for, with commas.")
@click.option("--mutating-webhook", metavar="NAME", help="MutatingWebhookConfiguration that has to trust them.")
@click.option("--validating-webhook", metavar="NAME", help="ValidatingWebhookConfiguration that has to trust them.")
@click.option("--ca-lifetime", metavar="TIME", help="How long its own authority is valid.  [default: 8760h]")
@click.option("--certificate-lifetime", metavar="TIME", help="How long its certificate is valid.  [default: 720h]")
@click.option("--ca-overlap", metavar="TIME", help="How long a new authority is trusted before it signs.")
@click.option("--kubeconfig", metavar="FILE", help="How to reach the API server.  [default: as a Pod does]")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.  [default: its current one]")
@click.option("--namespace", metavar="NAME", help="Namespace of Secret and Service.  [default: the Pod's]")
@click.option("--deadline", metavar="TIME", help="Longest time for an answer.  [default: 9s]")
@click.option("--shared-policy-ttl", metavar="TIME", help="How long a ConfigMap is used before it is read again.")
@click.option("--linger", metavar="TIME", help="How long requests are taken after SIGTERM.  [default: 5s]")
@click.option("--grace", metavar="TIME", help="How long running requests may then go on.  [default: 15s]")
@click.option("--image", metavar="IMAGE", help="Image of the sidecar.  [default: podlane:VERSION]")
@click.option("--image-pull-policy", metavar="POLICY", help="Its imagePullPolicy.")
@click.option("--image-pull-secrets", metavar="NAMES", help="imagePullSecrets that Pods get, with commas.")
@click.option("--cpu-request", metavar="QUANTITY", help="CPU request of the sidecar; empty for none.")
@click.option("--cpu-limit", metavar="QUANTITY", help="CPU limit of the sidecar; empty for none.")
@click.option("--memory-request", metavar="QUANTITY", help="Memory request of the sidecar; empty for none.")
@click.option("--memory-limit", metavar="QUANTITY", help="Memory limit of the sidecar; empty for none.")
@click.option(
    "--bpf/--no-bpf", default=None, help="Give sidecars CAP_BPF and CAP_PERFMON where they are of use.  [default: bpf]"
)
@click.option("--trusted-images", metavar="NAMES", help="Repositories that its image may have, too.")
@click.option(
    "--net-raw",
    type=click.Choice(["warn", "drop", "refuse"]),
    help="About containers with NET_RAW: warn if it is asked for, drop it if not, or refuse the Pod.  [default: warn]",
)
@click.option("--revision", metavar="NAME", help="Name of this installation beside others, for podlane.io/rev.")
@click.option("--sidecar-environment", metavar="NAME=VALUE,...", help="Further settings of the sidecar, PODLANE_...")
@click.option("--log-format", type=click.Choice(["console", "json"]), help="How log lines are written.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="From which severity on.")
@click.option("--ready-fd", type=int, hidden=True, help="Write both ports to this descriptor once requests are taken.")
def injector(ready_fd: int | None, **options: Any) -> None:
    """Answer the API server's admission reviews: put the sidecar into Pods, refuse wrong annotations.

    This is what runs in the injector's Deployment; it needs no capability.
    """
    from podlane.console import end_at_once_on_sigterm, failing_clearly, ignore_late_signals

    end_at_once_on_sigterm()
    with failing_clearly():
        import trio

        from daemon import log
        from injector.server import service
        from injector.server.config import load_settings

        settings = load_settings(options)
        log.configure(settings.log_format, settings.log_level)
        try:
            trio.run(partial(service.serve, settings, on_ready=partial(_tell, ready_fd)))
        finally:
            ignore_late_signals()


def _tell(descriptor: int | None, port: int, metrics_port: int) -> None:
    if descriptor is None:
        return
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{port} {metrics_port}\n")
