"""Prints the page of the command line, made from the command line itself.

python tools/cli_reference.py > docs/reference/cli.md
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from podlane.main import main

HEADING = """\
# Command line

<!-- Made by `python tools/cli_reference.py > docs/reference/cli.md`; a test compares. -->

This is what `podlane --help` and `podlane VERB --help` print.
"""
WIDTH = 100
"""Columns of the help texts."""


def commands(command: click.Command, above: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    """The path of a command and of each below it, with their help."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent=above, info_name=name, **settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from commands(found, context, child)


def page() -> str:
    """The whole page."""
    sections = (f"## {path}\n\n```text\n{text}\n```\n" for path, text in commands(main, None, "podlane"))
    return "\n".join((HEADING, *sections))


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
