"""Structured logs: for people on a terminal, as JSON for machines."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog

from pod_policy.settings import LogFormat, LogLevel


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send all log lines to ``stream`` (standard error), each with time, level, event and its fields."""
    out = stream or sys.stderr
    renderer: structlog.typing.Processor
    if log_format is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty() and not os.environ.get("NO_COLOR"))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if log_format is LogFormat.JSON else _keep,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # One write(2) per line, even where Python does not buffer: workers write to the same place.
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )


def _keep(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The console renderer formats exceptions itself."""
    return event
