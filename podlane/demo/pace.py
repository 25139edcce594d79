"""A feeder that writes at a steady rate, where dd would write all that fits: a program that wants so much and no more.

(``curl --limit-rate`` sends a hundred kilobytes at once and then pauses: some of each burst has to wait in any class.)

On SIGINT it ends and says on standard error, as dd does, how many bytes it has written.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, Final

_PIECE: Final = bytes(16 * 1024)


def main(rate: str) -> None:
    """Write so many bytes a second to standard output, until SIGINT."""
    interval, written, ending = len(_PIECE) / int(rate), 0, False

    def end(*_: Any) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGINT, end)
    due = time.monotonic()
    while not ending:
        written += os.write(1, _PIECE)
        # Who was kept waiting does not make up for it.
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    sys.stderr.write(f"{written} bytes\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
