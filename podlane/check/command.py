"""``podlane check``: tests kernel and privileges, and prints the remedy for each missing feature."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Final

import click

from podlane.check.findings import Finding, Status, findings
from podlane.console import FAILED, OK, failing_clearly
from podlane.options import iptables_option

_FOR_RUNNING: Final = frozenset({"CAP_SYS_ADMIN", "ip", "nsenter", "address translation"})
"""Required by `podlane run` and `podlane demo`, but not by `podlane sidecar`."""
_COLOURS: Final = {Status.OK: "green", Status.NOTE: "yellow", Status.MISSING: "red"}


@click.command(
    epilog="""\b
Examples:
  sudo podlane check
  sudo podlane check --iptables python
  sudo podlane check --json | jq '.[] | select(.status == "missing")'

Exit code: 0 when everything that is required is there, 1 otherwise. A note is something that works, but
not as well as it could.
"""
)
@iptables_option("Whether rules can be installed this way.  [default: auto, what is there]")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(iptables: str | None, as_json: bool) -> None:
    """Say what this kernel and these privileges allow.

    Features are found out by trying them in a scratch network namespace; nothing stays behind.
    """
    with failing_clearly():
        from traffic_policy.settings import IptablesSetting

        found = list(findings(IptablesSetting(iptables or IptablesSetting.AUTO)))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        for line in report(found):
            click.echo(line)
    raise SystemExit(FAILED if any(f.status is Status.MISSING for f in found) else OK)


def report(found: Iterable[Finding]) -> Iterator[str]:
    """The findings for a terminal (click strips the colours elsewhere), and a concluding sentence."""
    found = list(found)
    width = max(len(finding.name) for finding in found)
    group = ""
    for finding in found:
        if finding.group != group:
            yield click.style(("\n" if group else "") + finding.group, bold=True)
            group = finding.group
        status = click.style(f"{finding.status:<7}", fg=_COLOURS[finding.status])
        yield f"  {status}  {finding.name:<{width}}  {finding.detail}".rstrip()
        if finding.status is not Status.OK and finding.remedy:
            yield f"           {'':<{width}}  -> {finding.remedy}"
    missing = [finding.name for finding in found if finding.status is Status.MISSING]
    yield ""
    if missing and _FOR_RUNNING.issuperset(missing):
        yield click.style(f"Missing for `podlane run` and `podlane demo`: {', '.join(missing)}.", fg="red", bold=True)
        yield click.style("Everything `podlane sidecar` needs is here.", fg="green")
    elif missing:
        yield click.style(f"Missing: {', '.join(missing)}.", fg="red", bold=True)
    else:
        yield click.style("Everything Podlane needs is here.", fg="green")
