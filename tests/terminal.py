"""A program on a real terminal (a pty), and what stands on its screen.

Only what rich writes is understood: text, colours, the cursor's home, lines that are cleared, the other screen. The
terminal's size is fixed.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

_HOME = "\x1b[H"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PATIENCE = 20.0
_SAME_PICTURE = 0.02


@dataclass
class Terminal:
    """The user's side of a terminal on which a program runs."""

    process: subprocess.Popen[bytes]
    descriptor: int
    written: str = ""
    _undecoded: bytes = field(default=b"", repr=False)

    @property
    def screen(self) -> str:
        """The last whole picture, without colours."""
        pictures = self.written.split(_HOME)
        return _ESCAPES.sub("", pictures[-1]) if len(pictures) > 1 else ""

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self.descriptor, keys.encode())

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until the screen shows ``pattern``; fails with the screen when it does not come."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            # What is there to read belongs to the same picture, which may come in pieces.
            while self._read(_SAME_PICTURE):
                pass
            if found := re.search(pattern, self.screen, re.MULTILINE):
                return found
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"waited in vain for {pattern!r} on the screen:\n{self.screen or self.written}")

    def forget(self) -> None:
        """Take what has been written as read."""
        while self._read(_SAME_PICTURE):
            pass
        self.written = ""

    def end(self) -> int:
        """Wait for the program's end, reading what it still writes; gives its exit code."""
        deadline = time.monotonic() + _PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def modes(self) -> list[object]:
        """The terminal's modes (tcgetattr(3))."""
        return list(termios.tcgetattr(self.descriptor))

    def _read(self, seconds: float) -> bool:
        """Read what is written next; False when nothing comes any more."""
        if not select.select([self.descriptor], [], [], max(0.0, seconds))[0]:
            return False
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # EIO: nobody has the other side any more
            return False
        data = self._undecoded + data
        text = data.decode(errors="ignore")
        self._undecoded = data[len(text.encode()) :]
        self.written += text
        return bool(data)


@contextmanager
def on_terminal(
    command: Sequence[str], *, rows: int = 30, columns: int = 180, environment: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Run a program on a terminal of its own; it is killed at the end of the block if it still runs."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **(environment or {})}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        env.pop(name, None)
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=env)
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)
