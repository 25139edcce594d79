"""``podlane ui``."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Examples:
  podlane ui
  podlane ui --no-browser
"""
)
@click.option("--context", metavar="NAME", help="Another context than the current one.")
@click.option("--no-browser", is_flag=True, help="Only say where it is.")
def ui(context: str | None, no_browser: bool) -> None:
    """Open the pages of the control plane that you are logged in to.

    The pages ask you to sign in: a token never gets into an address.
    """
    import webbrowser

    from podlane.console import failing_clearly
    from podlane.fleet.session import client_for

    with failing_clearly():
        address = client_for(context, None).context.url
        click.echo(address)
        if not no_browser and not webbrowser.open(address):
            click.echo("There is no browser here: open this address in one.", err=True)
