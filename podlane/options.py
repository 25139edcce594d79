"""Options that more than one verb has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

_WAYS: Final = ("auto", "restore", "python")
"""The values of :class:`datapath.netfilter.backend.Way`, which is not imported for the sake of --help."""

_DATAPATHS: Final = ("relay", "step-aside")
"""The values of :class:`datapath.kinds.Datapath`, likewise."""


_MESHES: Final = ("auto", "istio", "linkerd", "none")
"""The values of :class:`datapath.mesh.types.Mesh`, likewise."""


def datapath_option(purpose: str) -> Callable[[Any], Any]:
    """``--datapath``: how a connection's first bytes are, or would be, seen; None where nothing is said."""
    return click.option("--datapath", type=click.Choice(_DATAPATHS), envvar="PODLANE_DATAPATH", help=purpose)


def exclusion_options(purpose: str) -> Callable[[Any], Any]:
    """``--exclude-{outbound,inbound}-{ports,cidrs}``: ports and networks; None where nothing is said."""

    def add(command: Any) -> Any:
        for name, metavar, what in reversed(_EXCLUSIONS):
            command = click.option(f"--exclude-{name}", metavar=metavar, callback=_excluded, help=f"{purpose} {what}")(
                command
            )
        return command

    return add


_EXCLUSIONS: Final = (
    ("outbound-ports", "PORTS", "what goes to these ports, as in 25,9000-9100."),
    ("outbound-cidrs", "NETWORKS", "what goes to these networks, as in 10.0.0.0/8,fd00::/8."),
    ("inbound-ports", "PORTS", "what clients open to these ports."),
    ("inbound-cidrs", "NETWORKS", "what clients in these networks open."),
)


def _excluded(_ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[object, ...] | None:
    from traffic_policy.fields import parse_networks
    from traffic_policy.ports import PortRange

    if value is None:
        return None
    try:
        return PortRange.parse_list(value) if str(param.name).endswith("ports") else parse_networks(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def mesh_option(purpose: str, *, auto: bool = False) -> Callable[[Any], Any]:
    """``--mesh``: behind whose proxy the sidecar sits, or would; None where nothing is said.

    ``auto``: where that can be found out, by looking.
    """
    return click.option("--mesh", type=click.Choice(_MESHES if auto else _MESHES[1:]), help=purpose)


def workers_option() -> Callable[[Any], Any]:
    """``--workers``: how many processes relay; None where nothing is said."""
    text = "Processes that relay; auto for one per CPU, at most 8.  [default: 1]"
    return click.option("--workers", metavar="N", envvar="PODLANE_WORKERS", help=text)


def iptables_option(purpose: str) -> Callable[[Any], Any]:
    """``--iptables``: how rules are, or would be, installed; None where nothing is said."""
    return click.option("--iptables", type=click.Choice(_WAYS), envvar="PODLANE_IPTABLES", help=purpose)
