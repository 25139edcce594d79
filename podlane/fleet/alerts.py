"""``podlane alerts``: rules over a fleet's figures, what has come of them, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import click

from podlane.fleet.output import changing_options, context_options, output_option
from podlane.options import parsed
from traffic_policy.units import Duration

_TIMES: Final = ("rollout-stuck", "certificate-expiry")
"""Kinds whose thresholds are times."""


@click.group(
    epilog="""\b
Examples:
  podlane alerts channel ops --webhook https://alerts.example.com/podlane
  podlane alerts test ops
  podlane alerts apply --file alerts.yaml --dry-run
  podlane alerts apply --file alerts.yaml --reason "the shop was slow"
  podlane alerts list
  podlane alerts silence policy=web severity!=critical --for 2h --comment "we move the database"
"""
)
def alerts() -> None:
    """Say what is an alert, see what fires, and who is told. Log in first, by `podlane login`."""


@alerts.command("list")
@click.option("--state", type=click.Choice(["firing", "resolved"]), help="Only those that are so.")
@context_options
@output_option
def list_alerts(state: str | None, context: str | None, tenant: str | None, output: str) -> None:
    """List alerts that fire, and the last ones that are over."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        chosen = {"state": state} if state else {}
        show(list(client.items(client.about("alerts"), chosen)), output, _alert_rows)


@alerts.command("rules")
@context_options
@output_option
def list_rules(context: str | None, tenant: str | None, output: str) -> None:
    """List rules, with what they see now."""
    _list("rules", _rule_rows, context, tenant, output)


@alerts.command("apply")
@click.option(
    "--file",
    "-f",
    "path",
    required=True,
    metavar="FILE",
    help="Rules by their names (YAML or JSON); - for standard input.",
)
@context_options
@changing_options
@output_option
def apply_rules(path: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Put the rules in FILE in force. With --dry-run: how often each would have fired in the last fifteen minutes."""
    from podlane.console import failing_clearly, say
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        rules = _rules(path)
        done = []
        for name, rule in rules.items():
            place = client.about("alerts", "rules", name)
            found = client.ask("PUT", place, rule, reason=reason, dry_run=dry_run)
            if dry_run:
                trial = client.ask("POST", client.about("alerts", "trial"), {"name": name, "rule": rule})
                found = {"name": name, **found, "trial": trial}
            done.append(found)
        if dry_run:
            show(done, output, _trial_rows)
            return
        say(f"{len(done)} rule{'s are' if len(done) != 1 else ' is'} in force in {client.context.tenant}")
        show(done, output, _rule_rows)


@alerts.command("remove")
@click.argument("rule")
@context_options
@changing_options
@output_option
def remove_rule(rule: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str) -> None:
    """Remove RULE. Its alerts are over."""
    _delete(("alerts", "rules", rule), f"there is no rule {rule} any more", context, tenant, reason, dry_run, output)


@alerts.command("silences")
@context_options
@output_option
def list_silences(context: str | None, tenant: str | None, output: str) -> None:
    """List silences, with how many of the alerts that fire they are about."""
    _list("silences", _silence_rows, context, tenant, output)


@alerts.command("silence")
@click.argument("matchers", nargs=-1, required=True, metavar="LABEL=VALUE...")
@click.option(
    "--for", "duration", required=True, callback=parsed(Duration.parse), metavar="TIME", help="How long, as in 2h."
)
@click.option(
    "--in", "start", callback=parsed(Duration.parse), metavar="TIME", help="From then on.  [default: at once]"
)
@click.option("--comment", required=True, metavar="TEXT", help="Why, for those who wonder.")
@context_options
@changing_options
@output_option
def add_silence(
    matchers: tuple[str, ...],
    duration: Duration,
    start: Duration | None,
    comment: str,
    context: str | None,
    tenant: str | None,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Tell nobody of alerts that have all these labels. VALUE may have * for any text; != is for others."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        begins = int(time.time() + (start.seconds if start else 0))
        wish = {
            "matchers": [_matcher(text) for text in matchers],
            "starts_at": begins,
            "ends_at": begins + int(duration.seconds),
            "comment": comment,
        }
        place = client.about("alerts", "silences")
        found = client.ask("POST", place, wish, reason=reason, dry_run=dry_run)
        told = "" if dry_run else f"silence {found['id']}; podlane alerts unsilence {found['id']} ends it"
        show_change(found, output, told, lambda silence: _silence_rows([silence]))


@alerts.command("unsilence")
@click.argument("silence")
@context_options
@changing_options
@output_option
def end_silence(silence: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str) -> None:
    """End SILENCE."""
    _delete(("alerts", "silences", silence), "the silence has ended", context, tenant, reason, dry_run, output)


@alerts.command("channels")
@context_options
@output_option
def list_channels(context: str | None, tenant: str | None, output: str) -> None:
    """List channels that are told of alerts."""
    _list("channels", _channel_rows, context, tenant, output)


@alerts.command("channel")
@click.argument("name")
@click.option("--alertmanager", metavar="URL", help="An Alertmanager, as http://alertmanager:9093")
@click.option("--webhook", metavar="URL", help="What takes a POST of JSON.")
@click.option("--mail-to", metavar="ADDRESSES", help="Mailboxes, with commas.")
@click.option("--mail-from", metavar="ADDRESS", default="", help="Who writes.")
@click.option("--mail-server", metavar="HOST:PORT", default="", help="By which server.")
@click.option("--mail-user", metavar="NAME", default="", help="As whom to log in there.")
@click.option(
    "--mail-security",
    type=click.Choice(["starttls", "tls", "none"]),
    default="starttls",
    show_default=True,
    help="How mail is encrypted on its way there.",
)
@click.option("--ca", metavar="FILE", help="Whom to trust instead of public CAs (PEM).")
@context_options
@changing_options
@output_option
def set_channel(
    name: str,
    alertmanager: str | None,
    webhook: str | None,
    mail_to: str | None,
    mail_from: str,
    mail_server: str,
    mail_user: str,
    mail_security: str,
    ca: str | None,
    context: str | None,
    tenant: str | None,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Tell NAME of alerts: an Alertmanager, a webhook, or mailboxes.

    The secret (key of signatures, bearer token, password) is in the file TENANT.NAME of the control plane's
    --channel-secrets, and cannot be sent from here.
    """
    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for

    given = {"alertmanager": alertmanager, "webhook": webhook, "email": mail_to}
    kinds = [kind for kind, value in given.items() if value is not None]
    if len(kinds) != 1:
        raise click.UsageError("Give exactly one of --alertmanager, --webhook and --mail-to.")
    with failing_clearly():
        wish: dict[str, Any] = {"kind": kinds[0], "ca": _pem(ca)}
        if mail_to is not None:
            mailboxes = [each.strip() for each in mail_to.split(",") if each.strip()]
            wish |= {
                "to": mailboxes, "sender": mail_from, "server": mail_server, "user": mail_user,
                "security": mail_security,
            }  # fmt: skip
        else:
            wish["url"] = given[kinds[0]]
        client = client_for(context, tenant)
        place = client.about("alerts", "channels", name)
        found = client.ask("PUT", place, wish, reason=reason, dry_run=dry_run)
        told = f"{name} is told of alerts; podlane alerts test {name} tries it"
        show_change(found, output, told, lambda channel: _channel_rows([channel]))


@alerts.command("remove-channel")
@click.argument("channel")
@context_options
@changing_options
@output_option
def remove_channel(
    channel: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str
) -> None:
    """Tell CHANNEL of nothing any more."""
    told = f"{channel} is told of nothing any more"
    _delete(("alerts", "channels", channel), told, context, tenant, reason, dry_run, output)


@alerts.command("test")
@click.argument("channel")
@context_options
@output_option
def try_channel(channel: str, context: str | None, tenant: str | None, output: str) -> None:
    """Tell CHANNEL of an alert that is none, and say what happened. Exit code 1 if it did not take it."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        found = client.ask("POST", client.about("alerts", "channels", channel, "test"))
        show(found, output, lambda test: [["SENT", "WHAT HAPPENED"], ["yes" if test["sent"] else "no", test["says"]]])
    if not found["sent"]:
        raise SystemExit(1)


def _list(
    what: str, rows: Callable[[list[Any]], list[list[str]]], context: str | None, tenant: str | None, output: str
) -> None:
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(list(client.items(client.about("alerts", what))), output, rows)


def _delete(
    parts: tuple[str, ...], told: str, context: str | None, tenant: str | None, reason: str, dry_run: bool, output: str
) -> None:
    from podlane.console import failing_clearly
    from podlane.fleet.output import show_change
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        found = client.ask("DELETE", client.about(*parts), reason=reason, dry_run=dry_run)
        show_change(found, output, told)


def _rules(path: str) -> dict[str, dict[str, Any]]:
    """Raises :class:`ConfigError`."""
    import sys
    from pathlib import Path

    import yaml

    from traffic_policy.errors import ConfigError

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Name another by --file.") from None
    if not isinstance(found, dict) or not all(isinstance(rule, dict) for rule in found.values()):
        raise ConfigError(f"{path} has no rules by their names. Write it as in docs/how-to/alerts.md.")
    return {str(name): _plain(str(name), rule) for name, rule in found.items()}


def _plain(name: str, rule: dict[str, Any]) -> dict[str, Any]:
    """Percentages as shares, and times as seconds. Raises :class:`ConfigError`."""
    from traffic_policy.errors import ConfigError

    plain = dict(rule)
    try:
        for key in ("over", "for"):
            if isinstance(plain.get(key), str):
                plain[key] = int(Duration.parse(plain[key]).seconds)
        threshold = plain.get("threshold")
        if isinstance(threshold, str) and threshold.endswith("%"):
            plain["threshold"] = float(threshold.removesuffix("%")) / 100
        elif isinstance(threshold, str) and plain.get("kind") in _TIMES:
            plain["threshold"] = Duration.parse(threshold).seconds
    except ValueError as error:
        raise ConfigError(f"{name}: {error} Write times as 5m, shares as 20%.") from None
    return plain


def _pem(path: str | None) -> str:
    from pathlib import Path

    from traffic_policy.errors import ConfigError

    if path is None:
        return ""
    try:
        return Path(path).read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Name a CA's certificate by --ca.") from None


def _matcher(text: str) -> dict[str, Any]:
    from traffic_policy.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals or not name.strip("!"):
        raise ConfigError(f"{text} is no matcher. Write LABEL=VALUE or LABEL!=VALUE.")
    return {"name": name.removesuffix("!").strip(), "value": value.strip(), "differs": name.endswith("!")}


def _when(seconds: int | None) -> str:
    return "-" if not seconds else time.strftime("%F %T", time.localtime(seconds))


def _alert_rows(found: list[Any]) -> list[list[str]]:
    rows = [["STATE", "SEVERITY", "RULE", "SINCE", "UNTIL", "TOLD", "WHAT"]]
    for each in found:
        told = [f"{t['channel']} ({t['trouble']})" if t["trouble"] else t["channel"] for t in each["told"]]
        state = "silenced" if each["silenced_by"] and each["state"] == "firing" else each["state"]
        summary = each["annotations"].get("summary", "-")
        rows.append(
            [
                state,
                each["severity"],
                each["rule"],
                _when(each["at"]),
                _when(each["ended"]),
                ", ".join(told) or "-",
                summary,
            ]
        )
    return rows


def _rule_rows(rules: list[Any]) -> list[list[str]]:
    rows = [["RULE", "KIND", "SCOPE", "THRESHOLD", "OVER", "FOR", "SEVERITY", "STATE", "WORST NOW"]]
    for each in rules:
        scope = ",".join(f"{key}={value}" for key, value in each["scope"].items())
        worst = each["values"][0] if each["values"] else None
        place = "/".join(worst["labels"].values()) if worst else ""
        rows.append(
            [
                each["name"],
                each["kind"],
                scope or "all",
                f"{each['threshold']:g}",
                f"{each['over']}s",
                f"{each['for']}s",
                each["severity"],
                each["state"] or "-",
                f"{worst['says']} ({place})" if worst else "-",
            ]
        )
    return rows


def _trial_rows(done: list[Any]) -> list[list[str]]:
    rows = [["RULE", "WOULD HAPPEN", "WOULD HAVE FIRED"]]
    for each in done:
        kinds = ", ".join(event["kind"] for event in each["events"]) or "nothing: it is like this already"
        rows.append([each["name"], kinds, each["trial"]["says"]])
        rows += [
            ["", "", f"  {_when(alert['at'])} for {alert['seconds']} s: {alert['summary']}"]
            for alert in each["trial"]["alerts"]
        ]
    return rows


def _silence_rows(silences: list[Any]) -> list[list[str]]:
    rows = [["ID", "STATE", "MATCHERS", "FROM", "UNTIL", "MATCHES", "AUTHOR", "COMMENT"]]
    for each in silences:
        matchers = [f"{m['name']}{'!=' if m['differs'] else '='}{m['value']}" for m in each["matchers"]]
        rows.append(
            [
                each["id"],
                each["state"],
                " ".join(matchers),
                _when(each["starts_at"]),
                _when(each["ends_at"]),
                str(each["matches"]),
                each["author"],
                each["comment"],
            ]
        )
    return rows


def _channel_rows(channels: list[Any]) -> list[list[str]]:
    rows = [["CHANNEL", "KIND", "WHERE", "TROUBLE"]]
    for each in channels:
        where = each["url"] or f"{', '.join(each['to'])} by {each['server']}"
        rows.append([each["name"], each["kind"], where, each["trouble"] or "-"])
    return rows
