"""Podlane's own version."""

from __future__ import annotations

from functools import cache


@cache
def installed_version() -> str | None:
    """As installed, as in 0.9.0; None: it runs from its source."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("podlane")
    except PackageNotFoundError:
        return None
