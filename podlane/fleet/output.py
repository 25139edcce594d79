"""How clients of a control plane print: as a table for people, as JSON or YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import click
import yaml

from podlane.console import say
from podlane.options import choice
from podlane.text_output import table


class OutputFormat(StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def output_option(command: Any) -> Any:
    """``-o``."""
    return click.option(
        "-o", "--output", type=choice(OutputFormat), default=OutputFormat.TABLE.value, help="How.  [default: table]"
    )(command)


def context_options(command: Any) -> Any:
    """``--context`` and ``--tenant``."""
    command = click.option("--tenant", metavar="NAME", help="Another tenant than the context's.")(command)
    return click.option("--context", metavar="NAME", help="Another context than the current one.")(command)


def changing_options(command: Any) -> Any:
    """``--reason`` and ``--dry-run``."""
    command = click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")(command)
    return click.option("--reason", metavar="TEXT", default="", help="For the audit log.")(command)


def show_change(
    found: Any, output: str, told: str, rows: Callable[[Any], Sequence[Sequence[str]]] | None = None
) -> None:
    """Print what a change has answered: the document for programs; for people ``told``, and the table if any."""
    if output != OutputFormat.TABLE or found.get("dry_run"):
        show(found, output, event_rows)
        return
    say(told)
    if rows is not None:
        show(found, output, rows)


def event_rows(happened: Any) -> list[list[str]]:
    """The table of what a dry run says."""
    events = [each["kind"] for each in happened["events"]]
    return [["WOULD HAPPEN"], *([kind] for kind in events or ["nothing: it is like this already"])]


def show(document: Any, output: str, rows: Callable[[Any], Sequence[Sequence[str]]]) -> None:
    """Print a document, or the table that ``rows`` makes of it (the first row is its head, all left-aligned)."""
    if output == OutputFormat.JSON:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif output == OutputFormat.YAML:
        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)
    else:
        # What agents and users have written is text, and nothing that a terminal does.
        made = [[_plain(cell) for cell in row] for row in rows(document)]
        for line in table(made, range(len(made[0]))):
            click.echo(line)


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
