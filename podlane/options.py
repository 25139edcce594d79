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


def exclusion_options(purpose: str) -> Callable[[Any], Any]:
    """``--exclude-outbound-ports`` and ``--exclude-outbound-cidrs``: ports and networks; None where nothing is said."""
    ports = click.option(
        "--exclude-outbound-ports",
        metavar="PORTS",
        callback=_excluded,
        help=f"{purpose} what goes to these ports, as in 25,9000-9100.",
    )
    networks = click.option(
        "--exclude-outbound-cidrs",
        metavar="NETWORKS",
        callback=_excluded,
        help=f"{purpose} what goes to these networks, as in 10.0.0.0/8,fd00::/8.",
    )
    return lambda command: ports(networks(command))


def _excluded(_ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[object, ...] | None:
    from tc_core.policy_fields import parse_networks
    from tc_core.ports import PortRange

    if value is None:
        return None
    try:
        return PortRange.parse_list(value) if param.name == "exclude_outbound_ports" else parse_networks(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def workers_option() -> Callable[[Any], Any]:
    """``--workers``: how many processes relay; None where nothing is said."""
    text = "Processes that relay; auto for one per CPU, at most 8.  [default: 1]"
    return click.option("--workers", metavar="N", envvar="PODLANE_WORKERS", help=text)


def iptables_option(purpose: str) -> Callable[[Any], Any]:
    """``--iptables``: how rules are, or would be, installed; None where nothing is said."""
    return click.option("--iptables", type=click.Choice(_WAYS), envvar="PODLANE_IPTABLES", help=purpose)
