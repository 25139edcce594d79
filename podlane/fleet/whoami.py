"""``podlane whoami``."""

from __future__ import annotations

import click

from podlane.fleet.output import output_option


@click.command(
    epilog="""\b
Examples:
  podlane whoami
  podlane whoami --context ci -o json
"""
)
@click.option("--context", metavar="NAME", help="Another context than the current one.")
@output_option
def whoami(context: str | None, output: str) -> None:
    """Say as whom you are logged in to a control plane, and with which roles."""
    from podlane.console import failing_clearly
    from podlane.fleet.output import show
    from podlane.fleet.session import client_for

    with failing_clearly():
        client = client_for(context, None)
        show(
            client.ask("GET", "whoami"),
            output,
            lambda caller: [
                ["AUTHOR", "TENANT", "ROLE"],
                *([caller["author"], tenant, role] for tenant, role in caller["roles"].items() or [("-", "none")]),
            ],
        )
