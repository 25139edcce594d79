"""A package without its ``__init__``: for libraries that import far more than what is used of them.

A start is nearly all imports, and until it is over new connections go without the proxy.
``tests/unit/test_imports.py`` has the modules that a sidecar does without.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

_IN_PARTS: Final = ("pyroute2",)
"""40 libraries for all there is to netlink; used are encoders of routes, links and classes."""


def only_what_is_used() -> None:
    """To be called before anything else of a sidecar is imported. Afterwards only modules of these packages are there.

    ``import pyroute2.netlink`` works as ever, ``from pyroute2 import IPRoute`` does not.
    """
    for package in _IN_PARTS:
        if package not in sys.modules and (spec := importlib.util.find_spec(package)) is not None:
            sys.modules[package] = importlib.util.module_from_spec(spec)
