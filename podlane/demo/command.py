"""``podlane demo``: real programs held to their lanes, on this machine alone."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from podlane.console import console, end_by_exception, failing_clearly, say, stop
from podlane.demo.parts import AGENT, PARTS, UPLOADS
from podlane.demo.scenario import MAX_SECONDS, MIN_SECONDS, Part
from podlane.errors import DemoError, NotPermittedError, ResultError

if TYPE_CHECKING:
    from podlane.demo.recording import Recording
    from podlane.demo.view import DemoView

_FORMATS: Final = (".svg", ".png")
_ALL: Final = "all"
_MIN_SCALE: Final = MIN_SECONDS / UPLOADS.seconds


@click.command(
    epilog="""\b
Examples:
  sudo podlane demo
  sudo podlane demo --output out/demo.svg
  sudo podlane demo --part both-ways
  sudo podlane demo --agent
  sudo podlane demo --part uploads --seconds 15 --plain

Exit codes: 0 every lane kept its guarantee and stayed within its ceil; 1 one did not, or the demo
could not run; 2 the command line cannot be used.
"""
)
@click.option(
    "--part",
    default=_ALL,
    show_default=True,
    type=click.Choice([_ALL, *PARTS]),
    help="What to show: five uploads from the Pod; or answers to clients, downloads, QUIC and single requests.",
)
@click.option(
    "--output",
    metavar="FILE",
    default="out/demo.svg",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the plot goes. SVG and PNG are both written, side by side; that of both-ways has it in its name.",
)
@click.option(
    "--seconds",
    metavar="N",
    type=click.FloatRange(MIN_SECONDS, MAX_SECONDS),
    help=f"How long traffic runs in all.  [default: {', '.join(f'{n} {p.seconds:g}' for n, p in PARTS.items())}]",
)
@click.option(
    "--agent", is_flag=True, help="Instead: three Pods held by one node agent, each to a policy of its own, no sidecar."
)
@click.option("--plain", is_flag=True, help="Plain lines instead of the live table, also on a terminal.")
def demo(part: str, output: Path, seconds: float | None, agent: bool, plain: bool) -> None:
    """Watch unmodified programs being held to the lanes of a policy.

    First a Pod uploads to one server address in five lanes, told apart by TLS server name, HTTP Host, HTTP/2 :authority
    and port. Lanes join, fill up, borrow, and keep their guarantees; limits change while traffic runs. Then it answers
    clients, downloads, uploads by QUIC, and makes requests on one connection, all in lanes as well. A plot follows each
    part. With --agent three Pods are held by one process of their node, and nothing runs in them but curl and cat.

    Servers are nginx, clients are curl and cat, and both are aioquic for QUIC; everything runs in network namespaces of
    its own (podlane-demo-PID-pod, -node, -server in `ip netns`), nothing leaves this machine, and nothing stays behind.
    """
    if agent and part != _ALL:
        raise click.UsageError("--agent and --part: The agent's demo has one part. Leave --part out.")
    parts = [AGENT] if agent else [chosen for name, chosen in PARTS.items() if part in (_ALL, name)]
    with failing_clearly():
        scale = _scale(parts, seconds)
        _check_output(output)
        _check_machine()
        parts = _possible(parts)
        end_by_exception()
        kept = [_play(each, scale, _plot_of(each, output), plain=plain) for each in parts]
        if not all(kept):
            raise ResultError("the lanes were not kept")


def _scale(parts: Sequence[Part], seconds: float | None) -> float:
    """How much longer than written the stories are."""
    written = sum(part.seconds for part in parts)
    scale = 1.0 if seconds is None else seconds / written
    if scale < _MIN_SCALE:
        stop(
            f"--seconds {seconds:g}: too short to measure in. Give at least {math.ceil(written * _MIN_SCALE)} "
            "for what --part chooses, or choose one part.",
            2,
        )
    return scale


def _plot_of(part: Part, output: Path) -> Path:
    return output if part is UPLOADS else output.with_stem(f"{output.stem}-{part.name}")


def _play(part: Part, scale: float, output: Path, *, plain: bool) -> bool:
    """Show one part; whether all that it shows was kept."""
    from podlane.demo import leftovers
    from podlane.demo.agent_topology import open_agent_topology
    from podlane.demo.recording import assess
    from podlane.demo.report import print_report
    from podlane.demo.scenario import make_scenario
    from podlane.demo.show import play
    from podlane.demo.topology import open_topology
    from podlane.demo.view import LiveView, PlainView

    out = console()
    scenario = make_scenario(part, scale)
    for name in leftovers.sweep():
        say(f"removed what a killed demo left behind ({name})")
    say(f"{part.name}: setting up namespaces, nginx and the {'agent' if part.pods else 'sidecar'} ...")
    with open_agent_topology(scenario) if part.pods else open_topology(scenario) as topology:
        view: DemoView = LiveView(out, scenario) if out.is_terminal and not plain else PlainView(out, scenario)
        try:
            recording = play(topology, view)
        finally:
            view.close()
        say("waiting for the last bytes to arrive ...")
        protocols = topology.protocols()
        transfers = topology.finish()
        clients_known = topology.clients_known()
        more = topology.remarks()
        topology.stop()
    end_by_exception()
    verdict = assess(recording)
    print_report(out, recording, verdict, transfers, protocols, clients_known, more)
    _draw(recording, output)
    kept = not verdict.problems and all(transfer.complete for transfer in transfers)
    return kept and clients_known and all(good for good, _ in more)


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in _FORMATS:
        stop(f"--output {output}: the plot is drawn as SVG and PNG. Name a file that ends in .svg or .png.", 2)
    # Said now rather than when the demo is over. The folder and its parents may still have to be made.
    nearest = next(path for path in (output.absolute().parent, *output.absolute().parents) if path.exists())
    if not nearest.is_dir():
        stop(f"--output {output}: {nearest} is not a folder. Choose another place.", 2)
    if not os.access(nearest, os.W_OK):
        stop(f"--output {output}: nothing can be written to {nearest}. Choose another place.", 2)


def _check_machine() -> None:
    """Raise what is missing, before anything is made: root, programs. matplotlib is only worth a word."""
    from podlane.demo.programs import require_programs

    if os.geteuid() != 0:
        raise NotPermittedError(
            "The demo makes network namespaces, which needs root. Use sudo: sudo podlane demo (or make demo)."
        )
    require_programs()
    if not _can_draw():
        say("matplotlib is not installed, so there will be no plot. To have one: pip install 'podlane[demo]'")


def _possible(parts: Sequence[Part]) -> list[Part]:
    """The parts that this kernel has the pieces for; the others get a word. Raises :class:`DemoError` when none is."""
    from podlane.demo.requirements import missing_for, quic_lanes, quic_missing

    missing = {part.name: why for part in parts if (why := missing_for(part))}
    left = [part for part in parts if part.name not in missing]
    if not left:
        raise DemoError(" ".join(dict.fromkeys(missing.values())))
    for name, why in missing.items():
        say(f"the part {name} is left out. {why}")
    for number, part in enumerate(left):
        names = quic_lanes(part)
        if names and (why := quic_missing()):
            say(f"{part.name}: QUIC is left out (the lane {', '.join(names)}). {why}")
            left[number] = part.without(names)
    return left


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _draw(recording: Recording, output: Path) -> None:
    if not _can_draw():
        return
    from podlane.demo.plot import draw

    paths = [output.with_suffix(suffix) for suffix in _FORMATS]
    try:
        made = _make_folder(output.parent)
        draw(recording, paths)
    except OSError as error:
        raise DemoError(
            f"The plot cannot be written to {error.filename}: {error.strerror}. Choose another --output."
        ) from None
    _give_to_user([*made, *paths])
    say(f"plot: {' and '.join(str(path) for path in paths)}")


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder with its parents; gives those that were not there."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _give_to_user(paths: list[Path]) -> None:
    """Under sudo the plot belongs to who called it, who must be able to delete it."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if uid and gid and uid.isdecimal() and gid.isdecimal():
        for path in paths:
            os.chown(path, int(uid), int(gid), follow_symlinks=False)
