"""``podlane mesh``: has a service mesh's own proxy set the marks, so that Podlane only shapes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click

from podlane.console import failing_clearly, say

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""DNS subdomains, as Kubernetes requires (RFC 1123)."""
_LABEL: Final = re.compile(r"(?P<key>[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?)=(?P<value>[-A-Za-z0-9_.]{0,63})")


def _name(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no name. Use small letters, digits, '-' and '.', as Kubernetes does.")
    return value


def _labels(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for value in values:
        match = _LABEL.fullmatch(value)
        if not match:
            raise click.BadParameter(f"{value!r} is no label. Write it as app=web.")
        labels[match["key"]] = match["value"]
    return labels


_policy_option = click.option("--policy", required=True, metavar="FILE", type=Path, help="Policy file (YAML or JSON).")


@click.group(
    epilog="""\b
Examples:
  podlane mesh envoyfilter --policy policy.yaml --namespace shop --label app=web | kubectl apply -f -
  podlane mesh policy --policy policy.yaml > marks.yaml
  sudo podlane tc apply eth0 --file marks.yaml

docs/how-to/envoyfilter.md says what this can and cannot do, and what there is for Linkerd and Consul.
"""
)
def mesh() -> None:
    """Let a mesh's proxy set the marks by name, so that no second proxy is needed.

    `envoyfilter` makes Istio's Envoy mark its sockets, `policy` says what `podlane tc` has to do with the marks.
    """


@mesh.command(
    epilog="""\b
Examples:
  podlane mesh envoyfilter --policy policy.yaml --namespace shop --label app=web
  podlane mesh envoyfilter --policy policy.yaml --external backup.example.com

Exit codes: 0 printed, 2 the policy or an option cannot be used (the reasons are on standard error).
"""
)
@_policy_option
@click.option(
    "--name", default="podlane", show_default=True, callback=_name, metavar="NAME", help="The EnvoyFilter's name."
)
@click.option("--namespace", callback=_name, metavar="NAME", help="Its namespace, which is that of the Pods.")
@click.option(
    "--label", "labels", multiple=True, callback=_labels, metavar="KEY=VALUE", help="A label of the Pods it is for."
)
@click.option(
    "--external",
    multiple=True,
    metavar="NAME",
    help="A name of the policy that the mesh does not know (no Service, no ServiceEntry); or all.",
)
@click.option(
    "--tls-port",
    "tls_ports",
    multiple=True,
    type=click.IntRange(1, 65535),
    default=(443,),
    metavar="PORT",
    help="A port on which TLS to such names is looked for.  [default: 443]",
)
def envoyfilter(
    policy: Path,
    name: str,
    namespace: str | None,
    labels: dict[str, str],
    external: tuple[str, ...],
    tls_ports: tuple[int, ...],
) -> None:
    """Print an EnvoyFilter by which Istio's Envoy marks what it sends, by the policy's names."""
    with failing_clearly():
        import yaml

        from traffic_policy.mesh.istio import envoy_filter
        from traffic_policy.policy_file import load_policy

        made = envoy_filter(
            load_policy(policy),
            name=name,
            namespace=namespace,
            selector=labels,
            external=frozenset(external),
            tls_ports=tuple(dict.fromkeys(tls_ports)),
        )
        click.echo(yaml.dump(made.document, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True), nl=False)
        for note in made.notes:
            say(note)


@mesh.command(
    "policy",
    epilog="""\b
Example:
  podlane mesh policy --policy policy.yaml | sudo podlane tc apply eth0 --file -

Exit codes: 0 printed, 2 the policy cannot be used (the reasons are on standard error).
""",
)
@_policy_option
def policy_command(policy: Path) -> None:
    """Print the policy for `podlane tc` that goes with it: what names decided is found by its mark."""
    with failing_clearly():
        import yaml

        from traffic_policy.mesh.lanes import for_packets
        from traffic_policy.policy_file import load_policy

        document = for_packets(load_policy(policy)).to_document()
        click.echo(yaml.dump(document, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True), nl=False)
