"""Log lines as data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from daemon import log


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """What is logged in this block, of every level: its fields, ``event`` and ``log_level``."""
    lines: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            log, "_write", lambda level, event, fields: lines.append({**fields, "event": event, "log_level": level})
        )
        yield lines
