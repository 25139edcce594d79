"""``podlane policy``: look at a control plane's policies, and change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from podlane.fleet.labels import labels_text, parse_labels
from podlane.fleet.output import OutputFormat, context_options, output_option

if TYPE_CHECKING:
    from podlane.fleet.client import FleetClient


@click.group(
    epilog="""\b
Examples:
  podlane policy list
  podlane policy apply web --file web.yaml --selector team=shop --reason "more room for Friday"
  podlane policy apply web --file web.yaml --nodes podlane.io/cluster=east,zone=a
  podlane policy apply web --file web.yaml --dry-run
  podlane policy apply --file traffic-policies.yaml
  podlane policy get web -o yaml
  podlane policy diff web --file web.yaml
  podlane policy history web
  podlane policy names web --no-lane
  podlane policy restore web --revision 3 --reason "Friday is over"
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
        if output == OutputFormat.TABLE:
            click.echo(_progress(client.ask("GET", client.about("policies", name, "progress"))))


@policy.command("names")
@click.argument("name", required=False)
@click.option("--no-lane", is_flag=True, help="Only those that no match has put into a lane.")
@click.option("--namespace", metavar="NAME", help="Only those of this namespace's workloads.")
@context_options
@output_option
def list_names(
    name: str | None, no_lane: bool, namespace: str | None, context: str | None, tenant: str | None, output: str
) -> None:
    """List names (SNI, host) that connections had in the last hour, and in which lane they were; with NAME, only those
    of workloads with this policy."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        asked = {"policy": name, "namespace": namespace, "decided": "default" if no_lane else None}
        query = {key: value for key, value in asked.items() if value is not None}
        show(list(client.items(client.about("names"), query)), output, _name_rows)


@policy.command("apply")
@click.argument("name", required=False)
@click.option(
    "--file", "-f", "path", required=True, metavar="FILE", help="The policy (YAML or JSON); - for standard input."
)
@click.option("--selector", "-l", metavar="LABELS", default="", help="Its workloads, as in team=shop,tier=web.")
@click.option("--nodes", metavar="LABELS", default="", help="Its nodes, as in podlane.io/cluster=east,zone=a.")
@click.option("--reason", metavar="TEXT", default="", help="For the audit log.")
@click.option("--draft", is_flag=True, help="Keep it as a draft, and put nothing in force.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
@context_options
@output_option
def apply_policy(
    name: str | None,
    path: str,
    selector: str,
    nodes: str,
    reason: str,
    draft: bool,
    dry_run: bool,
    context: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Draft the policy in FILE as NAME, and publish it as its next revision.

    FILE may have TrafficPolicies, as a cluster has them, instead: each becomes the policy of its name, for the Pods of
    its namespace that its selector takes. NAME and --selector are left out then. A selector that a control plane cannot
    express is refused, and nothing is changed.
    """
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for
    from podlane.fleet.traffic_policies import fleet_policies, refuse_other_namespaces
    from traffic_policy.errors import ConfigError
    from traffic_policy.policy_file import parse_document

    with failing_clearly():
        text = _text_of(path)
        found = fleet_policies(text, path)
        chosen = {"nodes": parse_labels(nodes, "--nodes")}
        if found is None and name is None:
            raise ConfigError(f"{path} is a policy without a name. Say by which it is to be known, as in web.")
        if found is not None and (name is not None or selector):
            raise ConfigError(f"{path} has TrafficPolicies, which say their names and selectors. Leave out yours.")
        client = client_for(context, tenant)
        if found is None:
            assert name is not None
            document = parse_document(text, source=path)
            wishes = {name: {"document": document, "selector": parse_labels(selector, "--selector"), **chosen}}
        else:
            refuse_other_namespaces(found, client.items(client.about("policies")))
            wishes = {each.name: {"document": each.document, "selector": each.selector, **chosen} for each in found}
        if dry_run:
            for each, wish in wishes.items():
                _preview(client, each, wish, path, output)
            return
        if len(wishes) > 1:  # none, where one of them is wrong
            for each, wish in wishes.items():
                client.ask("PUT", client.about("policies", each, "draft"), wish, dry_run=True, source=path)
        done = [_apply(client, each, wish, path, reason, draft=draft) for each, wish in wishes.items()]
        show(done[0] if found is None else done, output, lambda _: _rows(done))


def _preview(client: FleetClient, name: str, wish: Mapping[str, Any], source: str, output: str) -> None:
    from podlane.fleet.output import event_rows, show

    place = client.about("policies", name)
    found = client.ask("PUT", f"{place}/draft", wish, dry_run=True, source=source)
    seen = client.ask("POST", f"{place}/preview", wish, source=source)
    show({**found, "preview": seen}, output, event_rows)
    if output == OutputFormat.TABLE:
        for event in found["events"]:
            _say_clamps(event["data"].get("clamped", ()))
        show(seen, output, _preview_rows)
        for line in _preview_notes(seen):
            click.echo(line)


def _apply(client: FleetClient, name: str, wish: Mapping[str, Any], source: str, reason: str, *, draft: bool) -> Any:
    """Draft it, and publish it unless it is to stay a draft."""
    from podlane.console import say

    place = client.about("policies", name)
    found = client.ask("PUT", f"{place}/draft", wish, reason=reason, source=source)
    _say_clamps(found.get("clamped") or ())
    if found["draft"] is None:
        say(f"{name} is in force like this already: revision {found['revision']}")
    elif not draft:
        found = client.ask("POST", f"{place}/publish", reason=reason)
        say(f"{name} is published: revision {found['revision']}")
    return found


@policy.command("history")
@click.argument("name")
@context_options
@output_option
def policy_history(name: str, context: str | None, tenant: str | None, output: str) -> None:
    """List the revisions of a policy, the first first."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(list(client.items(client.about("policies", name, "revisions"))), output, _revision_rows)


@policy.command("diff")
@click.argument("name")
@click.option("--from", "old", metavar="N", type=click.IntRange(1), help="A revision.  [default: what is in force]")
@click.option("--to", "new", metavar="N", type=click.IntRange(1), help="A revision.  [default: the draft]")
@click.option("--file", "-f", "path", metavar="FILE", help="A policy instead of the draft; - for standard input.")
@context_options
def diff_policy(
    name: str, old: int | None, new: int | None, path: str | None, context: str | None, tenant: str | None
) -> None:
    """Show what a draft, a revision or a file would change. Exit code 1 if they differ."""
    import difflib

    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for
    from traffic_policy.errors import ConfigError

    if new is not None and path is not None:
        raise click.UsageError("--to and --file say two things. Leave one out.")
    with failing_clearly():
        client = client_for(context, tenant)
        place = client.about("policies", name)
        current = client.ask("GET", place)
        revisions = {each["revision"]: each for each in client.items(f"{place}/revisions")}
        for number in filter(None, (old, new)):
            if number not in revisions:
                raise ConfigError(f"{name} has no revision {number}. `podlane policy history {name}` lists them.")
        before = current["in_force"] if old is None else revisions[old]
        if path is not None:
            checked = client.ask("POST", "validate", {"document": _document(path)}, source=path)
            after = {"selector": {}, "nodes": {}, **(before or {}), "document": checked["document"]}
        else:
            after = current["draft"] if new is None else revisions[new]
        if after is None:
            raise ConfigError(f"{name} has no draft. Name a revision by --to, or a file by --file.")
        names = (f"revision {old}" if old else "in force", path or (f"revision {new}" if new else "draft"))
        lines = list(difflib.unified_diff(_text(before), _text(after), *names, lineterm=""))
    for line in lines:
        colour = {"+": "green", "-": "red"}.get(line[0])
        click.secho(line, fg=colour)
    if lines:
        raise SystemExit(1)


@policy.command("restore")
@click.argument("name")
@click.option("--revision", required=True, type=click.IntRange(1), metavar="N", help="The one to have again.")
@click.option("--reason", metavar="TEXT", default="", help="For the audit log.")
@click.option("--draft", is_flag=True, help="Keep it as a draft, and put nothing in force.")
@context_options
@output_option
def restore_policy(
    name: str, revision: int, reason: str, draft: bool, context: str | None, tenant: str | None, output: str
) -> None:
    """Publish an earlier revision of NAME again, as its next one."""
    from podlane.console import failing_clearly, say
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for
    from traffic_policy.errors import ConfigError

    with failing_clearly():
        client = client_for(context, tenant)
        place = client.about("policies", name)
        there = {each["revision"]: each for each in client.items(f"{place}/revisions")}
        if revision not in there:
            raise ConfigError(f"{name} has no revision {revision}. `podlane policy history {name}` lists them.")
        wish = {key: there[revision][key] for key in ("document", "selector", "nodes")}
        found = client.ask("PUT", f"{place}/draft", wish, reason=reason)
        if found["draft"] is None:
            say(f"{name} is in force like this already: revision {found['revision']}")
        elif not draft:
            found = client.ask("POST", f"{place}/publish", reason=reason or f"revision {revision} again")
            say(f"{name} is published: revision {found['revision']}")
        show(found, output, lambda document: _rows([document]))


def _text(content: Any) -> list[str]:
    """A policy as lines that can be compared: keys come back in any order."""
    import yaml

    from traffic_policy.policy_file import policy_from_document

    if content is None:
        return []
    nodes = {"nodes": content["nodes"]} if content["nodes"] else {}
    said = {"selector": content["selector"], **nodes, **policy_from_document(content["document"]).to_document()}
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True).splitlines()


def _document(path: str) -> object:
    """Raises :class:`ConfigError`, :class:`~traffic_policy.errors.PolicyError`."""
    from traffic_policy.policy_file import parse_document

    return parse_document(_text_of(path), source=path)


def _text_of(path: str) -> str:
    """Raises :class:`ConfigError`."""
    import sys
    from pathlib import Path

    from traffic_policy.errors import ConfigError

    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Name another by --file.") from None


def _rows(policies: list[Any]) -> list[list[str]]:
    rows = [["NAME", "REVISION", "IN FORCE", "DRAFT", "TOTAL", "CLASSES", "SELECTOR", "NODES"]]
    for each in policies:
        content = each["in_force"] or each["draft"] or {"document": {}, "selector": {}, "nodes": {}}
        names = [traffic_class["name"] for traffic_class in content["document"].get("classes", ())]
        rows.append(
            [
                each["name"],
                str(each["revision"]),
                "yes" if each["in_force"] else "no",
                "yes" if each["draft"] else "no",
                str(content["document"].get("total", "-")),
                ",".join(names) or "-",
                labels_text(content["selector"]) or "all",
                labels_text(content["nodes"]) or "all",
            ]
        )
    return rows


def _name_rows(names: list[Any]) -> list[list[str]]:
    rows = [["NAME", "PROTOCOL", "PORT", "LANE", "DECIDED BY", "CONNECTIONS", "POLICY", "WORKLOAD"]]
    for each in names:
        by = {"name": "name", "port": "port", "default": "no match"}[each["decided"]]
        numbers = str(each["port"]), each["lane"], by, str(each["connections"])
        rows.append([each["name"], each["protocol"], *numbers, each["policy"] or "-", each["workload"] or "-"])
    return rows


def _say_clamps(clamps: Sequence[str]) -> None:
    from podlane.console import say

    for each in clamps:
        say(each)


def _preview_rows(seen: Any) -> list[list[str]]:
    rows = [["LANE", "DIRECTION", "", "RATE", "CEIL", "PRIORITY", "WOULD HAVE WAITED, AT LEAST"]]
    for each in seen["lanes"]:
        before, after = each["before"] or {}, each["after"] or {}
        waited = f"{each['beyond']:.1%} of it, in {each['waited']} s" if each["waited"] else "-"
        fate = f"{each['fate']}{', other matches' if each['other_matches'] else ''}"
        rates = [_change(before.get(key), after.get(key)) for key in ("rate", "ceil")]
        priority = _change(before.get("priority"), after.get("priority"), str)
        lane = each["lane"] or "(all)"
        rows.append([lane, each["direction"], fate, *(rates if each["lane"] else ["", rates[1]]), priority, waited])
    return rows


def _change(before: int | None, after: int | None, say: Callable[[int], str] | None = None) -> str:
    from traffic_policy.units import Rate

    say = say or (lambda bits: str(Rate(bits)))
    told = ["-" if value is None else say(value) for value in (before, after)]
    return told[0] if before == after else " -> ".join(told)


def _preview_notes(seen: Any) -> list[str]:
    notes = [f"{seen['workloads']} workloads have it now; {seen['seconds']} s of their traffic were looked at"]
    if seen["selector_before"] is not None and seen["selector_before"] != seen["selector_after"]:
        notes.append("the selector is another one: agents will choose the workloads anew")
    for each in seen["rivals"]:
        who = each["policy"] if each["wins"] else seen["policy"]
        notes.append(f"workloads that {each['policy']} selects, too, have {who}")
    return notes


def _revision_rows(revisions: list[Any]) -> list[list[str]]:
    rows = [["REVISION", "TOTAL", "CLASSES", "SELECTOR", "NODES"]]
    for each in revisions:
        names = [traffic_class["name"] for traffic_class in each["document"].get("classes", ())]
        selectors = [labels_text(each[key]) or "all" for key in ("selector", "nodes")]
        total = str(each["document"].get("total", "-"))
        rows.append([str(each["revision"]), total, ",".join(names) or "-", *selectors])
    return rows


def _progress(told: Any) -> str:
    others = [f"{told[name]} {name}" for name in ("failed", "behind", "away") if told[name]]
    return f"revision {told['revision']} is in force on {told['in_force']} of {told['agents']} agents" + (
        f" ({', '.join(others)})" if others else ""
    )
