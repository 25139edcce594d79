"""``podlane version``."""

from __future__ import annotations

import click


@click.command(epilog="\b\nExample:\n  podlane version")
def version() -> None:
    """Print Podlane's version."""
    from daemon.version import installed_version

    click.echo(f"podlane {installed_version() or '(not installed, run from its source)'}")
