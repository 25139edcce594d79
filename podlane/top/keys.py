"""Reads single keys of a terminal, without the Enter key."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SEQUENCES: Final = {
    "[A": "up", "OA": "up", "[B": "down", "OB": "down", "[C": "right", "OC": "right", "[D": "left", "OD": "left",
    "[5~": "pageup", "[6~": "pagedown", "[H": "home", "OH": "home", "[1~": "home",
}  # fmt: skip
"""The sequences after the escape character: the cursor and editing keys of ECMA-48 and of the VT220."""
_CHUNK: Final = 64
_CONTROL_CHARACTERS: Final = 6
"""Indices into the result of tcgetattr()."""
_DISABLED: Final = b"\0"
"""_POSIX_VDISABLE (termios(3))."""


def read_keys(data: str) -> Iterator[str]:
    """The keys in the bytes that a terminal sent at once; unknown sequences are skipped. Pure."""
    while data:
        if data[0] != "\x1b":
            yield data[0]
            data = data[1:]
            continue
        known = next((s for s in _SEQUENCES if data.startswith(s, 1)), None)
        if known is not None:
            yield _SEQUENCES[known]
            data = data[1 + len(known) :]
        elif len(data) == 1:
            yield "escape"
            return
        else:
            # An unknown sequence ends with a letter or a tilde (ECMA-48, 5.4), after its introducer.
            data = data[2:] if data[1] in "[O" else data[1:]
            while data and not (data[0].isalpha() or data[0] == "~"):
                data = data[1:]
            data = data[1:]


@contextmanager
def single_keys(descriptor: int) -> Iterator[None]:
    """Switch a terminal to single keys without echo, for the block.

    Ctrl-C keeps its meaning; Ctrl-Z is a key like others, so that the terminal can be restored before the stop.
    """
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)  # keeps keys typed already
        mode = termios.tcgetattr(descriptor)
        mode[_CONTROL_CHARACTERS][termios.VSUSP] = _DISABLED
        termios.tcsetattr(descriptor, termios.TCSANOW, mode)
        yield
    finally:
        # TCSANOW, without draining output: a stopped terminal (Ctrl-S) would block here.
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def wait_for_keys(descriptor: int, seconds: float) -> list[str] | None:
    """The next keys pressed; empty after the timeout, None if the terminal was closed."""
    if not select.select([descriptor], [], [], max(0.0, seconds))[0]:
        return []
    try:
        data = os.read(descriptor, _CHUNK)
    except OSError:
        return None
    return list(read_keys(data.decode(sys.getfilesystemencoding(), "replace"))) if data else None
