"""Options that more than one verb has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

_WAYS: Final = ("auto", "restore", "python")
"""The values of :class:`sidecar.netfilter.backend.Way`, which is not imported for the sake of --help."""

_DATAPATHS: Final = ("relay", "step-aside")
"""The values of :class:`sidecar.datapath.Datapath`, likewise."""


def datapath_option(purpose: str) -> Callable[[Any], Any]:
    """``--datapath``: how a connection's first bytes are, or would be, seen; None where nothing is said."""
    return click.option("--datapath", type=click.Choice(_DATAPATHS), envvar="PODLANE_DATAPATH", help=purpose)


def iptables_option(purpose: str) -> Callable[[Any], Any]:
    """``--iptables``: how rules are, or would be, installed; None where nothing is said."""
    return click.option("--iptables", type=click.Choice(_WAYS), envvar="PODLANE_IPTABLES", help=purpose)
