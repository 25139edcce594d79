"""``podlane audit``: who changed what, and whether the log is what was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from podlane.fleet.output import context_options, output_option

if TYPE_CHECKING:
    from control_plane.store.records import StoredEvent
    from podlane.fleet.client import FleetClient


@click.group(
    epilog="""\b
Examples:
  podlane audit list
  podlane audit list -o json > audit.json
  podlane audit export > audit.ndjson
  podlane audit verify
  podlane audit verify --digest 5f0c...
"""
)
def audit() -> None:
    """Read who changed what in a control plane, what was refused, and check that nothing was altered."""


@audit.command("list")
@context_options
@output_option
def list_entries(context: str | None, tenant: str | None, output: str) -> None:
    """List every change of a tenant and the requests that were refused, the first first."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        show(list(client.items(client.about("audit"))), output, _rows)


@audit.command("export")
@context_options
def export_entries(context: str | None, tenant: str | None) -> None:
    """Print the same for a log system: one JSON object a line, with the fields of the Elastic Common Schema."""
    import json

    from podlane.console import failing_clearly
    from podlane.fleet.ecs import ecs_document
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        for each in client.items(client.about("audit")):
            click.echo(json.dumps(ecs_document(each), ensure_ascii=False))


@audit.command("verify")
@click.option("--digest", metavar="DIGEST", help="What an earlier check printed: it must still be in the log.")
@context_options
@output_option
def verify_log(digest: str | None, context: str | None, tenant: str | None, output: str) -> None:
    """Compute the digests of a tenant's log from its events, and compare.

    Events that were changed, removed, added or moved show. Of events removed at the end only a digest tells that was
    noted elsewhere: keep what this prints.
    """
    from control_plane.store.chain import verify
    from control_plane.store.records import Head
    from podlane.console import failing_clearly
    from podlane.fleet.client import FleetError
    from podlane.fleet.output import OutputFormat, show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, tenant)
        told = client.ask("GET", client.about("events", "head"))
        end = Head(told["position"], told["digest"])
        seen = set()

        def events() -> Iterator[StoredEvent]:
            for event in _events(client):
                # What was appended after the end was asked for is left to the next check.
                if event.position <= end.position:
                    seen.add(event.digest)
                    yield event

        head = verify(client.context.tenant, events(), end)
        if digest is not None and digest not in seen:
            raise FleetError(
                f"The log of {client.context.tenant} has no event with this digest: it was shortened or rewritten. "
                "Restore a backup, and find out who wrote to the database."
            )
        if output != OutputFormat.TABLE:
            show({"position": head.position, "digest": head.digest}, output, lambda _: [])
            return
        click.echo(f"{head.position} events are as they were written; the digest of the last is {head.digest}")


def _events(client: FleetClient) -> Iterator[StoredEvent]:
    from control_plane.store.records import StoredEvent

    for each in client.items(client.about("events")):
        # A newer control plane may tell more.
        yield StoredEvent(**{name: each[name] for name in StoredEvent.__dataclass_fields__})


def _rows(entries: list[Any]) -> list[list[str]]:
    from datetime import UTC, datetime

    rows = [["POSITION", "TIME", "AUTHOR", "ADDRESS", "SUBJECT", "WHAT", "REASON"]]
    for each in entries:
        time = datetime.fromtimestamp(each["at"] / 1000, UTC).isoformat(timespec="milliseconds")
        event, refusal = each["event"], each["refusal"]
        found = event or refusal
        author = found["author"] or "-"
        if event:
            place, subject, what = str(event["position"]), event["subject"], event["kind"]
        else:
            # Whose token it was is only what was claimed, where it was not valid.
            author += "" if refusal["known"] else "?"
            place, subject = "-", refusal["operation"]
            times = f", {refusal['count']} times" if refusal["count"] > 1 else ""
            what = f"refused: {refusal['status']} {refusal['problem']}{times}"
        rows.append([place, time, author, found["address"] or "-", subject, what, found["reason"] or "-"])
    return rows
