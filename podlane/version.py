"""``podlane version``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

import click


@click.command(epilog="\b\nExample:\n  podlane version")
def version() -> None:
    """Print Podlane's version."""
    try:
        number = installed_version("podlane")
    except PackageNotFoundError:
        number = "(not installed, run from its source)"
    click.echo(f"podlane {number}")
