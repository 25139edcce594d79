"""How clients of a control plane print: as a table for people, as JSON or YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import click
import yaml

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


def show(document: Any, output: str, rows: Callable[[Any], Sequence[Sequence[str]]]) -> None:
    """Print a document, or the table that ``rows`` makes of it (the first row is its head, all left-aligned)."""
    if output == OutputFormat.JSON:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif output == OutputFormat.YAML:
        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)
    else:
        made = rows(document)
        for line in table(made, range(len(made[0]))):
            click.echo(line)
