"""Structured logging: readable lines on a terminal, JSON for machines.

A line has a time, a level, an event, and fields. Modules make a :class:`Logger` by ``log = Logger()`` and call
``log.info("ready", interface="eth0")``. There is one log per process, which :func:`configure` sets up.

The library structlog is not used, as it imports asyncio, which costs each process memory and start-up time.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LEVEL_CELLS: Final = 9
_EVENT_CELLS: Final = 30
_RESET, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_KEY, _VALUE = "\x1b[36m", "\x1b[35m"
_LEVEL_COLOURS: Final = {"debug": "\x1b[32m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}

_QUOTED: Final = frozenset(" \t=\r\n\"'")
"""Characters that make a text quoted."""

Fields = Mapping[str, Any]


@dataclass(slots=True)
class _Settings:
    """``always``: fields of each line. ``stream`` None: the current standard error."""

    threshold: int = _LEVELS["info"]
    as_json: bool = False
    stream: TextIO | None = None
    always: dict[str, Any] = field(default_factory=dict)


_settings = _Settings()


def configure(log_format: str = "console", level: str = "info", stream: TextIO | None = None, **always: Any) -> None:
    """Write lines of ``level`` and above to ``stream`` (default: standard error), in ``console`` or ``json`` format.

    ``always``: fields of each line.
    """
    _settings.threshold = _LEVELS[level]
    _settings.as_json = log_format == "json"
    _settings.stream = stream
    _settings.always = always


class Logger:
    """A module's logger. ``exc_info``, an exception, adds its traceback.

    ``spacing``: seconds between two lines of the same event, for what others can make happen at any rate. Lines that
    come too soon are left out, and the next one has their number as ``omitted``.
    """

    __slots__ = ("_last", "_spacing")

    def __init__(self, spacing: float = 0.0) -> None:
        self._spacing = spacing
        self._last: dict[str, tuple[float, int]] = {}

    def is_enabled_for(self, level: str) -> bool:
        """Whether lines of this level are written."""
        return _LEVELS[level] >= _settings.threshold

    def debug(self, event: str, **fields: Any) -> None:
        self._log("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log an unwanted condition."""
        self._log("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log an error with the exception being handled."""
        self._log("error", event, {**fields, "exc_info": sys.exception()})

    def _log(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if self._spacing:
            now = time.monotonic()
            before, omitted = self._last.get(event, (-self._spacing, 0))
            if now < before + self._spacing:
                self._last[event] = before, omitted + 1
                return
            self._last[event] = now, 0
            fields = {**fields, "omitted": omitted} if omitted else fields
        _write(level, event, fields)


def _write(level: str, event: str, fields: dict[str, Any]) -> None:
    if _LEVELS[level] < _settings.threshold:
        return
    failure: BaseException | None = fields.pop("exc_info", None)
    trace = "" if failure is None else "".join(traceback.format_exception(failure)).rstrip("\n")
    now = time.time()
    timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
    stream = _settings.stream or sys.stderr
    everything = {**fields, **_settings.always}
    if _settings.as_json:
        line = _json_line(timestamp, level, event, everything, trace)
    else:
        line = _columns(timestamp, level, event, everything, trace, colours=_has_colours(stream))
    # One write per line, even if Python does not buffer: workers write to the same stream.
    stream.write(line + "\n")
    stream.flush()


def _json_line(timestamp: str, level: str, event: str, fields: Fields, trace: str) -> str:
    """A JSON object; values without a JSON form are written by str()."""
    document = {**fields, "event": event, "level": level, "timestamp": timestamp}
    if trace:
        document["exception"] = trace
    return json.dumps(document, default=repr)


def _columns(timestamp: str, level: str, event: str, fields: Fields, trace: str, *, colours: bool) -> str:
    """The fields, sorted by name."""

    def painted(text: str, colour: str) -> str:
        return f"{colour}{text}{_RESET}" if colours else text

    told = [f"{painted(name, _KEY)}={painted(_shown(fields[name]), _VALUE)}" for name in sorted(fields)]
    severity = painted(f"{level:<{_LEVEL_CELLS}}", _LEVEL_COLOURS[level] + _BOLD)
    what = painted(f"{event:<{_EVENT_CELLS}}", _BOLD)
    line = " ".join((painted(timestamp, _DIM), f"[{severity}]", what, *told)).rstrip()
    return f"{line}\n{trace}" if trace else line


def _has_colours(stream: TextIO) -> bool:
    """Whether to use colours, see https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and not _QUOTED.intersection(value) else repr(value)
