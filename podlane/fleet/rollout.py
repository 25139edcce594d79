"""``podlane rollout``: put a policy in force in steps, and take it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from podlane.fleet.output import context_options, output_option
from podlane.options import parsed
from traffic_policy.units import Duration

_LOOK: Final = 0.5
"""Seconds between two looks at a rollout that is waited for."""


@click.group(
    epilog="""\b
Examples:
  podlane policy apply web --file web.yaml --draft
  podlane rollout start web
  podlane rollout start web --stages "1, 5%, zone=a, 50%" --soak 10m --max-failed 2
  podlane rollout status web --wait
  podlane rollout abort web --reason "shops were slow"
"""
)
def rollout() -> None:
    """Put a policy in force in steps, and take it back. Log in first, by `podlane login`."""


@rollout.command("start")
@click.argument("policy")
@click.option(
    "--stages",
    default="1, 1%, 10%, 50%",
    show_default=True,
    metavar="LIST",
    help="Agents by number, by percentage, or by their nodes' label (KEY=VALUE); all agents come last.",
)
@click.option(
    "--soak",
    callback=parsed(Duration.parse),
    default="1m",
    show_default=True,
    metavar="TIME",
    help="How long a step stays good first.",
)
@click.option(
    "--max-failed", default=0, show_default=True, type=click.IntRange(0), help="Agents on which workloads may fail."
)
@click.option(
    "--max-away",
    default=10,
    show_default=True,
    type=click.IntRange(0, 100),
    help="Percent of agents that may go away, or be away.",
)
@click.option(
    "--max-dropped", type=click.FloatRange(1), metavar="FACTOR", help="Dropped packets' share, against before."
)
@click.option(
    "--max-throttled", type=click.FloatRange(1), metavar="FACTOR", help="Share of packets that wait, against before."
)
@click.option(
    "--prometheus", "queries", multiple=True, metavar="'QUERY <= N'", help="A PromQL query and what it may be at most."
)
@click.option("--refuse-others", is_flag=True, help="Refuse another revision until this one has ended.")
@click.option("--reason", metavar="TEXT", default="", help="For the audit log.")
@context_options
@output_option
def start_rollout(
    policy: str,
    stages: str,
    soak: Duration,
    max_failed: int,
    max_away: int,
    max_dropped: float | None,
    max_throttled: float | None,
    queries: tuple[str, ...],
    refuse_others: bool,
    reason: str,
    context: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Publish the draft of POLICY, step by step. Each step is watched; what a gate forbids is taken back from all."""
    from podlane.console import failing_clearly, say
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        wish = {
            "stages": [_stage(part.strip()) for part in stages.split(",") if part.strip()],
            "soak": int(soak.seconds),
            "gates": {
                "failed": max_failed,
                "away": max_away / 100,
                "dropped": max_dropped,
                "throttled": max_throttled,
                "prometheus": [_gate(query) for query in queries],
            },
            "on_new_revision": "refuse" if refuse_others else "supersede",
        }
        client = client_for(context, tenant)
        published = client.ask("POST", client.about("policies", policy, "publish"), {"rollout": wish}, reason=reason)
        say(f"revision {published['revision']} of {policy} is on its way; podlane rollout status {policy}")
        show(client.ask("GET", client.about("policies", policy, "rollout")), output, _rows)


@rollout.command("status")
@click.argument("policy")
@click.option("--wait", is_flag=True, help="Until it has ended, telling what happens; exit code 1 if not all have it.")
@context_options
@output_option
def rollout_status(policy: str, wait: bool, context: str | None, tenant: str | None, output: str) -> None:
    """Show how far the last rollout of POLICY is, and why it stands as it does."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        place = client.about("policies", policy, "rollout")
        found = client.ask("GET", place)
        if wait:
            found = _followed(found, lambda: client.ask("GET", place))
        show(found, output, _rows)
    if wait and found["state"] != "done":
        raise SystemExit(1)


def _followed(found: Any, again: Callable[[], Any]) -> Any:
    """Tell each change on standard error, as a bar on a terminal, until the rollout has ended."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[step]}"), BarColumn(), TextColumn("{task.description}"))
    last = ""
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", step="", total=None)
        while True:
            seen = found["progress"] or {"agents": None, "having": 0, "reached": 0, "says": ""}
            step = f"step {found['stage'] + 1} of {len(found['stages'])} ({found['stages'][found['stage']]['says']})"
            have = f"{seen['having']} of {seen['reached']} agents have it"
            text = f"{have}; {seen['says']}" if seen["says"] else have
            progress.update(task, total=seen["agents"], completed=seen["having"], description=text, step=step)
            told = f"{found['state']}, {step}: {have}"
            if told != last and not console.is_terminal:
                click.echo(told, err=True)
            last = told
            if found["state"] not in ("running", "paused"):
                return found
            time.sleep(_LOOK)
            found = again()


def _says(verb: str, help: str) -> None:
    """A verb that is said to a rollout under way."""

    @rollout.command(verb, help=help)
    @click.argument("policy")
    @click.option("--reason", metavar="TEXT", default="", help="For the audit log.")
    @context_options
    @output_option
    def say_it(policy: str, reason: str, context: str | None, tenant: str | None, output: str) -> None:
        from podlane.console import failing_clearly
        from podlane.fleet.output import show
        from podlane.fleet.session import client_for

        with failing_clearly():
            client = client_for(context, tenant)
            place = client.about("policies", policy, "rollout", verb)
            show(client.ask("POST", place, reason=reason), output, _rows)


_says("pause", "Let the rollout of POLICY reach nobody else. Who has the revision keeps it.")
_says("resume", "Go on with the rollout of POLICY. Its step begins to soak again.")
_says("abort", "Take the rollout of POLICY back: all agents get what was before.")


def _stage(text: str) -> dict[str, object]:
    from traffic_policy.errors import ConfigError

    try:
        if "=" in text:
            key, _, value = text.partition("=")
            return {"labels": {key.strip(): value.strip()}}
        return {"percent": float(text.removesuffix("%"))} if text.endswith("%") else {"count": int(text)}
    except ValueError:
        raise ConfigError(f"--stages: {text} is no step. Write a number, 10% or KEY=VALUE.") from None


def _gate(text: str) -> dict[str, object]:
    from traffic_policy.errors import ConfigError

    query, found, limit = text.rpartition("<=")
    try:
        if found and query.strip():
            return {"query": query.strip(), "at_most": float(limit)}
    except ValueError:
        pass
    raise ConfigError(f"--prometheus: {text!r} has no limit. Write it as 'sum(rate(errors[1m])) <= 5'.")


def _rows(document: Any) -> list[list[str]]:
    steps, seen = document["stages"], document["progress"]
    return [
        ["POLICY", "REVISION", "BEFORE", "STATE", "STEP", "REACHES", "REACHED", "HAVE IT", "AWAY", "FAILED", "WHY"],
        [
            document["policy"],
            str(document["revision"]),
            str(document["before"] or "-"),
            document["state"],
            f"{document['stage'] + 1} of {len(steps)}",
            steps[document["stage"]]["says"],
            f"{seen['reached']} of {seen['agents']}" if seen else "-",
            *(str(seen[key]) if seen else "-" for key in ("having", "away", "failed")),
            document["reason"] or (seen["says"] if seen and document["state"] == "running" else "") or "-",
        ],
    ]
