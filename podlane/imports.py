"""Imports of a sidecar that are to be quick: libraries whose packages import far more than what is used of them.

A start is nearly all imports, and until it is over new connections go without the proxy. What cannot be imported later,
or not at all, is here; ``tests/unit/test_imports.py`` has the modules that a sidecar does without.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any


class _InParts(ModuleType):
    """A package whose modules can be imported without its ``__init__``.

    That runs as soon as somebody asks for a name which is no module of the package: then it is as it always is.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        with suppress(ModuleNotFoundError):
            return importlib.import_module(f"{self.__name__}.{name}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(self)
        return getattr(self, name)


def only_what_is_used() -> None:
    """To be called before anything else of a sidecar is imported."""
    _in_parts("pyroute2")  # 40 libraries for all there is to netlink; used are encoders of routes, links and classes
    _without("structlog", "rich")  # which it would draw tracebacks with; pygments comes along


def _in_parts(package: str) -> None:
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _InParts
        sys.modules[package] = module


def _without(module: str, other: str) -> None:
    """Import a module that does without another one where that is not installed, as if it were not."""
    if module in sys.modules or other in sys.modules:
        return
    sys.modules[other] = None  # type: ignore[assignment]  # "not there": docs.python.org, The import system
    try:
        importlib.import_module(module)
    finally:
        del sys.modules[other]
