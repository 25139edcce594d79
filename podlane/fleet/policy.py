"""``podlane policy``: look at a control plane's policies, and change them."""

from __future__ import annotations

from typing import Any

import click

from podlane.fleet.output import context_options, output_option


@click.group(
    epilog="""\b
Examples:
  podlane policy list
  podlane policy apply web --file web.yaml --selector team=shop --reason "more room for Friday"
  podlane policy apply web --file web.yaml --dry-run
  podlane policy get web -o yaml
"""
)
def policy() -> None:
    """Look at a control plane's policies, and change them. Log in first, by `podlane login`."""


@policy.command("list")
@context_options
@output_option
def list_policies(context: str | None, tenant: str | None, output: str) -> None:
    """List the policies of a tenant."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(list(client.items(client.about("policies"))), output, _rows)


@policy.command("get")
@click.argument("name")
@context_options
@output_option
def get_policy(name: str, context: str | None, tenant: str | None, output: str) -> None:
    """Show one policy: what is in force, and the draft."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(client.ask("GET", client.about("policies", name)), output, lambda found: _rows([found]))


@policy.command("apply")
@click.argument("name")
@click.option(
    "--file", "-f", "path", required=True, metavar="FILE", help="The policy (YAML or JSON); - for standard input."
)
@click.option("--selector", "-l", metavar="LABELS", default="", help="Its workloads, as in team=shop,tier=web.")
@click.option("--reason", metavar="TEXT", default="", help="For the audit log.")
@click.option("--draft", is_flag=True, help="Keep it as a draft, and put nothing in force.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
@context_options
@output_option
def apply_policy(
    name: str,
    path: str,
    selector: str,
    reason: str,
    draft: bool,
    dry_run: bool,
    context: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Draft the policy in FILE as NAME, and publish it as its next revision."""
    import sys
    from pathlib import Path

    from podlane.console import failing_clearly, say
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for
    from traffic_policy.errors import ConfigError
    from traffic_policy.policy_file import parse_document

    with failing_clearly():
        client = client_for(context, tenant)
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}. Name another by --file.") from None
        document = parse_document(text, source=path)
        wish = {"document": document, "selector": _labels(selector)}
        place = client.about("policies", name)
        if dry_run:
            query = {"dry-run": "true"}
            found = client.ask("PUT", f"{place}/draft", wish, query, source=path)
            show(found, output, _event_rows)
            return
        found = client.ask("PUT", f"{place}/draft", wish, reason=reason, source=path)
        if found["draft"] is None:
            say(f"{name} is in force like this already: revision {found['revision']}")
        elif not draft:
            found = client.ask("POST", f"{place}/publish", reason=reason)
            say(f"{name} is published: revision {found['revision']}")
        show(found, output, lambda document: _rows([document]))


def _labels(text: str) -> dict[str, str]:
    from traffic_policy.errors import ConfigError

    labels = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"--selector: {part} is no label. Write KEY=VALUE, with commas between several.")
        labels[key.strip()] = value.strip()
    return labels


def _rows(policies: list[Any]) -> list[list[str]]:
    rows = [["NAME", "REVISION", "IN FORCE", "DRAFT", "TOTAL", "CLASSES", "SELECTOR"]]
    for each in policies:
        content = each["in_force"] or each["draft"] or {"document": {}, "selector": {}}
        names = [traffic_class["name"] for traffic_class in content["document"].get("classes", ())]
        rows.append(
            [
                each["name"],
                str(each["revision"]),
                "yes" if each["in_force"] else "no",
                "yes" if each["draft"] else "no",
                str(content["document"].get("total", "-")),
                ",".join(names) or "-",
                ",".join(f"{key}={value}" for key, value in content["selector"].items()) or "all",
            ]
        )
    return rows


def _event_rows(happened: Any) -> list[list[str]]:
    events = [each["kind"] for each in happened["events"]]
    return [["WOULD HAPPEN"], *([kind] for kind in events or ["nothing: it is like this already"])]
