"""Structured log lines: for people on a terminal, as JSON for machines.

A line has a time, a level, an event, and fields. Modules take a :class:`Logger` by ``log = Logger()`` and say
``log.info("ready", interface="eth0")``. There is one log per process, which :func:`configure` sets up.

The library for it, structlog, imports asyncio: 10 MiB and a tenth of a second for each process of each sidecar.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TextIO

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LEVEL_CELLS: Final = 9
_EVENT_CELLS: Final = 30
_RESET, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_KEY, _VALUE = "\x1b[36m", "\x1b[35m"
_LEVEL_COLOURS: Final = {"debug": "\x1b[32m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}

_QUOTED: Final = frozenset(" \t=\r\n\"'")
"""Characters for which a text is quoted."""

Fields = Mapping[str, Any]


class Render(Protocol):
    """Makes a line, without its end, of an event."""

    def __call__(self, timestamp: str, level: str, event: str, fields: Fields, trace: str) -> str:
        """``trace``: the traceback of an exception, or nothing."""


@dataclass(slots=True)
class _Settings:
    """``always``: fields of each line. ``stream`` None: standard error, whatever that is by then."""

    threshold: int = _LEVELS["info"]
    as_json: bool = False
    stream: TextIO | None = None
    always: dict[str, Any] = field(default_factory=dict)


_settings = _Settings()


def configure(log_format: str = "console", level: str = "info", stream: TextIO | None = None, **always: Any) -> None:
    """Send lines of ``level`` and above to ``stream`` (standard error), in a format: ``console`` or ``json``.

    ``always``: fields that each line has.
    """
    _settings.threshold = _LEVELS[level]
    _settings.as_json = log_format == "json"
    _settings.stream = stream
    _settings.always = always


class Logger:
    """Where a module sends its lines. ``exc_info``, an exception, adds its traceback."""

    __slots__ = ()

    def is_enabled_for(self, level: str) -> bool:
        """Whether lines of this level are written."""
        return _LEVELS[level] >= _settings.threshold

    def debug(self, event: str, **fields: Any) -> None:
        """For those who look for a fault."""
        _write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What happens."""
        _write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """What is not as it is wanted."""
        _write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """What failed."""
        _write("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the exception that is being handled."""
        _write("error", event, {**fields, "exc_info": sys.exception()})


def _write(level: str, event: str, fields: dict[str, Any]) -> None:
    if _LEVELS[level] < _settings.threshold:
        return
    failure: BaseException | None = fields.pop("exc_info", None)
    trace = "" if failure is None else "".join(traceback.format_exception(failure)).rstrip("\n")
    now = time.time()
    timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
    stream = _settings.stream or sys.stderr
    render = json_line if _settings.as_json else _coloured_line if _has_colours(stream) else plain_line
    # One write per line, even where Python does not buffer: workers write to the same place.
    stream.write(render(timestamp, level, event, {**fields, **_settings.always}, trace) + "\n")
    stream.flush()


def json_line(timestamp: str, level: str, event: str, fields: Fields, trace: str) -> str:
    """A JSON object; values that JSON does not have are written as Python shows them."""
    document = {**fields, "event": event, "level": level, "timestamp": timestamp}
    if trace:
        document["exception"] = trace
    return json.dumps(document, default=repr)


def plain_line(timestamp: str, level: str, event: str, fields: Fields, trace: str) -> str:
    """Columns, and the fields in the order of their names."""
    told = (f"{name}={_shown(fields[name])}" for name in sorted(fields))
    line = " ".join((timestamp, f"[{level:<{_LEVEL_CELLS}}]", f"{event:<{_EVENT_CELLS}}", *told)).rstrip()
    return f"{line}\n{trace}" if trace else line


def _coloured_line(timestamp: str, level: str, event: str, fields: Fields, trace: str) -> str:
    told = (f"{_KEY}{name}{_RESET}={_VALUE}{_shown(fields[name])}{_RESET}" for name in sorted(fields))
    colour = f"{_LEVEL_COLOURS[level]}{_BOLD}"
    line = " ".join(
        (
            f"{_DIM}{timestamp}{_RESET}",
            f"[{colour}{level:<{_LEVEL_CELLS}}{_RESET}]",
            f"{_BOLD}{event:<{_EVENT_CELLS}}{_RESET}",
            *told,
        )
    )
    return f"{line}\n{trace}" if trace else line


def _has_colours(stream: TextIO) -> bool:
    """https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and not _QUOTED.intersection(value) else repr(value)
