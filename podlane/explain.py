"""``podlane explain``: describes a policy in plain words and as equivalent commands. Needs no root."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from podlane.console import failing_clearly
from podlane.options import datapath_option, exclusion_options, mesh_option, parsed, total_option
from podlane.text_output import bold, heading, prose, table
from traffic_policy.units import Rate

if TYPE_CHECKING:
    from datapath.explain.commands import Commands
    from datapath.explain.policy import ClassWords, Explanation

_SECTIONS: Final = ("classes", "rules", "tc")
_INTERFACE: Final = re.compile(r"[A-Za-z0-9._:@-]{1,15}")
"""Plausible interface names (15: IFNAMSIZ of linux/if.h less the final zero), without shell metacharacters."""


def _interface(value: str) -> str:
    if not _INTERFACE.fullmatch(value):
        raise ValueError(f"{value!r} is not an interface's name. Write one as `ip link` shows it, such as eth0.")
    return value


@click.command(
    epilog="""\b
Examples:
  podlane explain --policy policy.yaml
  podlane explain --policy policy.yaml --total 50Mbit --interface ens3
  podlane explain --policy policy.yaml --only tc
  podlane explain --policy policy.yaml --only rules --datapath step-aside
  podlane explain --policy policy.yaml --mesh istio
  podlane explain --policy policy.yaml --json

Exit codes: 0 explained, 2 the policy or an option cannot be used (the reasons are on standard error).
"""
)
@click.option("--policy", required=True, metavar="FILE", type=Path, help="Policy file (YAML or JSON).")
@total_option
@click.option(
    "--interface",
    callback=parsed(_interface),
    default="eth0",
    show_default=True,
    metavar="NAME",
    help="Interface to name in the commands.",
)
@datapath_option("The datapath whose rules are shown.  [default: relay]")
@mesh_option("The mesh in whose Pod the sidecar would run.  [default: none]")
@exclusion_options("Show rules that leave alone")
@click.option("--only", type=click.Choice(_SECTIONS), help="One section alone; rules and tc are shell input then.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def explain(
    policy: Path,
    total: Rate | None,
    interface: str,
    datapath: str | None,
    mesh: str | None,
    only: str | None,
    as_json: bool,
    **excluded: Any,
) -> None:
    """Say what a policy means, and show the mangle rules and tc commands it equals.

    Touches nothing and needs no privileges: it works on any machine, for any interface.
    """
    with failing_clearly():
        from datapath.explain.commands import commands_for
        from datapath.explain.policy import explain_policy
        from datapath.mesh.types import USUAL
        from datapath.netfilter.ruleset import CaptureSettings
        from traffic_policy.policy_file import load_policy
        from traffic_policy.settings import Datapath, Mesh

        loaded = load_policy(policy, total=total)
        exclusions: dict[str, Any] = {name: value or () for name, value in excluded.items()}
        settings = CaptureSettings(
            datapath=Datapath(datapath or Datapath.RELAY),
            interface=interface,
            mesh=USUAL.get(Mesh(mesh or Mesh.NONE)),
            **exclusions,
        )
        explanation = explain_policy(loaded, settings)
        commands = commands_for(loaded, interface, settings)
        if as_json:
            click.echo(json.dumps(_document(interface, explanation, commands), indent=2, ensure_ascii=False))
            return
        for line in _lines(str(policy), interface, explanation, commands, only):
            click.echo(line)


def _lines(
    source: str, interface: str, explanation: Explanation, commands: Commands, only: str | None
) -> Iterator[str]:
    if only in (None, "classes"):
        yield from class_lines(source, explanation)
    if only is None:
        yield from ("", heading("Rules: which packet belongs to which class (mangle table, as root)"), "")
    if only in (None, "rules"):
        yield from _shell(commands.rules)
    if only is None:
        yield from ("", heading(f"Classes: how fast each may send (traffic control on {interface}, as root)"), "")
    if only in (None, "tc"):
        yield from _shell(commands.tc)


def class_lines(source: str, explanation: Explanation) -> Iterator[str]:
    """The plain words: a table of shares, each class's traffic, and notes."""
    yield heading(f"{source}: {explanation.headline}")
    if explanation.use:
        first, *reasons = explanation.use
        yield ""
        yield from prose(first)
        for reason in reasons:
            yield from prose(reason, first="- ", rest="  ")
    yield ""
    yield from _table(explanation)
    yield ""
    yield from prose(explanation.sharing)
    for each in explanation.classes:
        yield ""
        yield from _class(each, explanation.rest)
    for paragraph in (explanation.captured, explanation.datapath):
        if paragraph:
            yield ""
            yield from prose(paragraph)
    yield ""
    for note in explanation.notes:
        yield from prose(note, first="- ", rest="  ")


def _table(explanation: Explanation) -> Iterator[str]:
    from traffic_policy.describe import percent

    most = "at most" if explanation.unreserved is None else "borrows up to"
    rows = [("class", "guaranteed", "share", most, "priority", "decided by")]
    rows += [
        (
            c.name,
            "–" if c.rate is None else c.rate.human,
            "–" if c.share is None else percent(c.share),
            c.ceil.human if c.rate is None or c.ceil > c.rate else "–",
            str(c.priority),
            c.decided_by,
        )
        for c in explanation.classes
    ]
    free = explanation.unreserved
    if free is not None:
        share = percent(free.bits_per_second / explanation.total.bits_per_second)
        rows.append(("(free)", free.human, share, "", "", ""))
    yield from (f"  {line}" for line in table(rows, {0, 5}))


def _class(each: ClassWords, rest: str) -> Iterator[str]:
    from datapath.explain.policy import BY_PROXY

    first, *more = prose(f"{each.name} {each.sentence}")
    yield bold(each.name) + first.removeprefix(each.name)
    yield from more
    for detail in each.details:
        yield from prose(detail, first="  ", rest="  ")
    if not each.matches:
        yield f"  {rest}"
    for match in each.matches:
        how = "the proxy reads the first bytes" if match.decided_by == BY_PROXY else "the kernel decides alone"
        yield from prose(f"{match.traffic} – {how}", first="  - ", rest="    ")


def _shell(lines: Sequence[str]) -> Iterator[str]:
    """Commands as they are; comments are dimmed on a colour terminal."""
    for line in lines:
        yield click.style(line, dim=True) if line.startswith("#") else line


def _document(interface: str, explanation: Explanation, commands: Commands) -> dict[str, Any]:
    return {
        "interface": interface,
        "total_bits_per_second": explanation.total.bits_per_second,
        "unreserved_bits_per_second": _bits(explanation.unreserved),
        "for_sidecar": explanation.for_sidecar,
        "for_tc": explanation.for_packets,
        "use": list(explanation.use),
        "classes": [
            {
                "name": c.name,
                "rate_bits_per_second": _bits(c.rate),
                "ceil_bits_per_second": c.ceil.bits_per_second,
                "priority": c.priority,
                "share": c.share,
                "decided_by": c.decided_by,
                "words": f"{c.name} {c.sentence}",
                "details": list(c.details),
                "traffic": [{"words": m.traffic, "decided_by": m.decided_by} for m in c.matches],
            }
            for c in explanation.classes
        ],
        "sharing": explanation.sharing,
        "captured": explanation.captured,
        "datapath": explanation.datapath,
        "notes": list(explanation.notes),
        "iptables_restore": {str(family).lower(): text for family, text in commands.restore.items()},
        "rules": list(commands.rules),
        "tc": list(commands.tc),
    }


def _bits(rate: Rate | None) -> int | None:
    return None if rate is None else rate.bits_per_second
