"""Invalid settings as an error for people: which setting, by its option or its variable, and the remedy."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from pydantic import ValidationError

from traffic_policy.errors import ConfigError
from traffic_policy.settings import service_link


def settings_error(error: ValidationError, given: Container[str], prefix: str) -> ConfigError:
    """``given`` are the settings of the command line; others come from variables that begin with ``prefix``."""
    return ConfigError("\n".join(_line(each, given, prefix) for each in error.errors(include_url=False)))


def _line(error: Any, given: Container[str], prefix: str) -> str:
    reason = error["ctx"]["error"] if error["type"] == "value_error" else f"{error['msg']} (got {error['input']!r})."
    if not error["loc"]:
        return str(reason)  # of several settings together, which the message names
    key = str(error["loc"][0])
    where = f"--{key.replace('_', '-')}" if key in given else f"{prefix}{key.upper()}"
    return f"{where}: {service_link(where, error['input']) or reason}"
