"""Edits of the proxy's command line by its supervisor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress


def without_options(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """The command line without these options and their values."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in options:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept


def open_descriptors(argv: Sequence[str], options: Sequence[str]) -> list[int]:
    """The descriptors passed by these options that are open, except the standard ones."""
    named: set[str] = set()
    for word, following in zip(argv, (*argv[1:], ""), strict=True):
        option, equals, value = word.partition("=")
        if option in options:
            named.add(value if equals else following)
    found = []
    for number in sorted(int(each) for each in named if each.isdecimal()):
        with suppress(OSError):
            os.fstat(number)
            if number > 2:
                found.append(number)
    return found
