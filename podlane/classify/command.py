"""``podlane classify``: applies a policy to the traffic in a capture file. Needs no root."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

import click

from podlane.console import console, failing_clearly, say, signalled
from podlane.options import mesh_option, parsed
from podlane.text_output import address_words, bold
from traffic_policy.units import ByteCount, Duration

if TYPE_CHECKING:
    from podlane.classify.files import CaptureFile
    from podlane.classify.flow import CaptureSummary
    from podlane.classify.flows import FlowTable
    from podlane.classify.totals import Totals
    from podlane.classify.verdicts import Verdict

_PROGRESS_EVERY: Final = 4096
"""Packets between two updates of the progress bar: some hundredths of a second."""
_NARROW: Final = 100
"""Width in columns if it is not known."""


@click.command(
    epilog="""\b
Examples:
  podlane classify --policy policy.yaml capture.pcap
  podlane classify --policy policy.yaml --summary capture.pcapng.gz
  podlane classify --policy policy.yaml --json capture.pcap | jq 'select(.class == "default")'
  podlane classify --policy policy.yaml --mesh istio capture.pcap
  sudo tcpdump -i eth0 -w - | podlane classify --policy policy.yaml -

\b
Every flow is judged as if its client ran under the policy. docs/how-to/classify.md has the keys of
the JSON objects and says how the client is told from the server.

Exit codes: 0 classified (also when the capture is cut off; standard error says so), 1 the capture cannot
be read, 2 the policy or an option cannot be used, 130 classified up to Ctrl-C.
"""
)
@click.option("--policy", "policy_file", required=True, metavar="FILE", help="Policy file (YAML or JSON).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per flow and line; with --summary per class.")
@click.option("--summary", is_flag=True, help="Traffic per class and a bar chart, instead of the flows.")
@click.option(
    "--detection-timeout",
    callback=parsed(Duration.parse),
    default="1s",
    show_default=True,
    metavar="TIME",
    help="How long the proxy would wait for a client's first bytes.",
)
@mesh_option("The mesh in whose Pod CAPTURE was taken, behind its proxy.  [default: none]")
@click.argument("capture")
def classify(
    policy_file: str, as_json: bool, summary: bool, detection_timeout: Duration, mesh: str | None, capture: str
) -> None:
    """Say which class each flow of CAPTURE would be in, and why.

    CAPTURE is a pcap or pcapng file, gzipped or not; - is standard input. The first bytes of each connection are read
    by the proxy's own detection and routing, so the verdict is the one that live traffic would get.
    """
    with failing_clearly():
        from datapath.mesh.types import USUAL
        from podlane.classify.files import CaptureFile
        from podlane.classify.flow import Flow
        from podlane.classify.flows import FlowTable
        from podlane.classify.totals import Totals
        from podlane.classify.verdicts import FlowClassifier
        from traffic_policy.policy_file import load_sidecar_policy
        from traffic_policy.settings import Mesh

        policy = load_sidecar_policy(policy_file)
        proxy = USUAL.get(Mesh(mesh or Mesh.NONE))
        classifier = FlowClassifier(policy, detection_timeout=detection_timeout.nanoseconds / 1e9, mesh=proxy)
        totals = Totals(policy)

        def give(flow: Flow) -> None:
            verdict = classifier.verdict(flow)
            totals.add(verdict)
            if not summary:
                click.echo(json.dumps(verdict.document()) if as_json else _line(verdict))

        table = FlowTable(give)
        with closing(CaptureFile(capture)) as file:
            seconds, interrupted = _read(file, table)
        if summary:
            _print_summary(totals, as_json=as_json)
        _print_notes(file, table.seen, totals, seconds)
        if interrupted:
            sys.exit(signalled(signal.SIGINT))


def _read(file: CaptureFile, table: FlowTable) -> tuple[float, bool]:
    """Classify the capture; return the seconds it took, and whether Ctrl-C ended it.

    Packets read until then are classified: Ctrl-C is the way to end ``tcpdump | podlane classify``.
    """
    add = table.add
    interrupted = False
    started = time.perf_counter()
    with _progress(file) as advance:
        try:
            for number, (link_type, data, wire_bytes, when) in enumerate(file):
                add(link_type, data, wire_bytes, when)
                if not number % _PROGRESS_EVERY:
                    advance()
        except KeyboardInterrupt:
            interrupted = True
        table.finish()
    return time.perf_counter() - started, interrupted


@contextmanager
def _progress(file: CaptureFile) -> Iterator[Callable[[], None]]:
    """The function that updates a progress bar, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich import progress

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TimeRemainingColumn(),
        console=console(error=True),
        transient=True,
    ) as live:
        task = live.add_task(f"reading {file.name}", total=file.size)
        yield lambda: live.update(task, completed=file.position)


def _line(verdict: Verdict) -> str:
    """A flow as text: names before numbers, the reason last since it is the longest."""
    name = verdict.sni or verdict.host or "–"
    client, server = address_words(verdict.src, verdict.sport), address_words(verdict.dst, verdict.dport)
    sent, received = ByteCount(verdict.bytes_up).human, ByteCount(verdict.bytes_down).human
    kind = verdict.protocol if verdict.detected == "unknown" else f"{verdict.protocol} {verdict.detected}"
    head = bold(f"{verdict.class_name:<12}")
    return f"{head} {kind:<9} {name:<28} {client} > {server}  {sent} > < {received}  {verdict.why}"


def _print_summary(totals: Totals, *, as_json: bool) -> None:
    from podlane.classify.totals import chart

    if as_json:
        for each in totals.classes:
            click.echo(json.dumps(each.document()))
        return
    width = shutil.get_terminal_size((_NARROW, 0)).columns
    for index, line in enumerate(chart(totals.classes, width)):
        click.echo(bold(line) if index == 0 else line)


def _print_notes(file: CaptureFile, seen: CaptureSummary, totals: Totals, seconds: float) -> None:
    """On standard error: irregularities, and the speed."""
    from podlane.classify.notes import count, notes

    for note in notes(file.name, file.damage, seen):
        say(note)
    rate = f"{seen.packets / seconds:,.0f} packets/s" if seconds else "at once"
    size = ByteCount(seen.bytes).human
    say(f"{count(seen.packets, 'packet')} ({size}), {count(totals.flows, 'flow')} in {seconds:.1f} s: {rate}")
