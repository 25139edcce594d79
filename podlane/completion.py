"""``podlane completion``: what a shell needs to complete verbs and options."""

from __future__ import annotations

import click

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  source <(podlane completion bash)
  podlane completion zsh > "${fpath[1]}/_podlane"
  podlane completion fish > ~/.config/fish/completions/podlane.fish
"""
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes verbs and options of podlane.

    In ~/.bashrc the first example makes it last.
    """
    from click.shell_completion import get_completion_class

    from podlane.main import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "podlane", "_PODLANE_COMPLETE").source())
