"""Tables and prose for a terminal, shared by the verbs that print once. Pure, except for click's styles."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import click

_WIDTH: Final = 100
"""Width of prose. Commands are never wrapped, so that they can be pasted."""


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> Iterator[str]:
    """Lines of aligned columns; ``left`` are the indices of left-aligned columns, the others hold numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        padded = (cell.ljust(w) if column in left else cell.rjust(w) for column, (cell, w) in enumerate(cells))
        yield "  ".join(padded).rstrip()


def table(rows: Sequence[Sequence[str]], left: Collection[int]) -> Iterator[str]:
    """The same, with the first row in bold."""
    heading, *lines = aligned(rows, left)
    yield bold(heading)
    yield from lines


def prose(text: str, first: str = "", rest: str = "") -> list[str]:
    """A sentence as lines of at most 100 columns, each with its indent."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def bold(text: str) -> str:
    """In bold."""
    return click.style(text, bold=True)


def heading(text: str) -> str:
    """As a heading."""
    return click.style(text, bold=True, fg="cyan")


def address_words(address: str, port: int) -> str:
    """``192.0.2.1:443``, ``[2001:db8::1]:443``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
