"""Imports of a sidecar that are to be quick: libraries whose packages import far more than what is used of them.

A start is nearly all imports, and until it is over new connections go without the proxy. What cannot be imported later,
or not at all, is here; ``tests/unit/test_imports.py`` has the modules that a sidecar does without.
"""

from __future__ import annotations

import importlib
import sys


def only_what_is_used() -> None:
    """To be called before anything else of a sidecar is imported."""
    _without("structlog", "rich")  # which it would draw tracebacks with; pygments comes along


def _without(module: str, other: str) -> None:
    """Import a module that does without another one where that is not installed, as if it were not."""
    if module in sys.modules or other in sys.modules:
        return
    sys.modules[other] = None  # type: ignore[assignment]  # "not there": docs.python.org, The import system
    try:
        importlib.import_module(module)
    finally:
        del sys.modules[other]
