"""Options shared by several verbs."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import click

from traffic_policy.settings import Datapath, IptablesSetting, Mesh, variable
from traffic_policy.units import Rate

HISTORY_VARIABLE: Final = "PODLANE_HISTORY"
"""The history file of ``podlane tc``."""


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback for an option: its value by ``parse``, whose ValueError becomes the error message; None if not
    given."""

    def callback(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def total_option(command: Any) -> Any:
    """``--total``; None if not given."""
    help_text = "Replaces the policy's total, as in 50Mbit."
    return click.option("--total", callback=parsed(Rate.parse), metavar="RATE", help=help_text)(command)


def choice(kind: type[StrEnum]) -> click.Choice[str]:
    """One of the values of an enumeration."""
    return click.Choice([each.value for each in kind])


def datapath_option(purpose: str) -> Callable[[Any], Any]:
    """``--datapath``: how the first bytes of connections are, or would be, read; None if not given."""
    return click.option("--datapath", type=choice(Datapath), envvar=variable("datapath"), help=purpose)


def exclusion_options(purpose: str) -> Callable[[Any], Any]:
    """``--exclude-{outbound,inbound}-{ports,cidrs}``: ports and networks; None if not given."""

    def add(command: Any) -> Any:
        for name, metavar, what in reversed(_EXCLUSIONS):
            callback = parsed(_ports if metavar == "PORTS" else _networks)
            command = click.option(f"--exclude-{name}", metavar=metavar, callback=callback, help=f"{purpose} {what}")(
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


def _ports(value: str) -> tuple[object, ...]:
    from traffic_policy.ports import PortRange

    return PortRange.parse_list(value)


def _networks(value: str) -> tuple[object, ...]:
    from traffic_policy.fields import parse_networks

    return parse_networks(value)


def mesh_option(purpose: str, *, auto: bool = False) -> Callable[[Any], Any]:
    """``--mesh``: the service mesh of the sidecar; None if not given.

    ``auto``: detect it, where possible.
    """
    kinds = click.Choice([each.value for each in Mesh if auto or each is not Mesh.AUTO])
    return click.option("--mesh", type=kinds, help=purpose)


def workers_option() -> Callable[[Any], Any]:
    """``--workers``: the number of relaying processes; None if not given."""
    text = "Processes that relay; auto for one per CPU, at most 8.  [default: 1]"
    return click.option("--workers", metavar="N", envvar=variable("workers"), help=text)


def iptables_option(purpose: str) -> Callable[[Any], Any]:
    """``--iptables``: how rules are, or would be, installed; None if not given."""
    return click.option("--iptables", type=choice(IptablesSetting), envvar=variable("iptables"), help=purpose)
