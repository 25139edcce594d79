"""Log lines in the proxy's format, without its library, to keep the supervisor small."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress

from traffic_policy.settings import LogFormat, variable


class StderrLog:
    """Writes to standard error. ``format``: ``console`` or ``json``, which the proxy's settings determine."""

    def __init__(self) -> None:
        self.format = os.environ.get(variable("log_format"), LogFormat.CONSOLE)

    def info(self, event: str, **fields: object) -> None:
        """Log for information."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log a condition that needs attention."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log a failure."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        if self.format == "json":
            line = json.dumps({**fields, "event": event, "level": level, "timestamp": stamp})
        else:
            said = " ".join(f"{key}={value}" for key, value in fields.items())
            line = f"{stamp} [{level:<9}] {event:<30} {said}".rstrip()
        with suppress(OSError):  # the reader has exited; that is no reason to end
            os.write(2, f"{line}\n".encode())


def reason_of(error: OSError) -> str:
    """The operation that failed, and the reason."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def end_of(code: int) -> str:
    """How a process ended, by :func:`os.waitstatus_to_exitcode`."""
    return f"was killed by {_name(-code)}" if code < 0 else f"ended with exit code {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
