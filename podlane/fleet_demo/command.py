"""``podlane fleet-demo``: a control plane, five agents and real traffic, on this machine alone."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from podlane.console import console, end_by_exception, failing_clearly, say
from podlane.errors import DemoError, NotPermittedError, ResultError

if TYPE_CHECKING:
    from podlane.fleet.contexts import FleetContext
    from podlane.fleet_demo.fleet_topology import FleetTopology

_LOOK: Final = 1.0


@click.command(
    "fleet-demo",
    epilog="""\b
Examples:
  sudo podlane fleet-demo
  sudo podlane fleet-demo --once

Exit codes: 0 everything that was told came true; 1 something did not, or the demo could not run.
""",
)
@click.option("--once", is_flag=True, help="End after the story, instead of staying to be tried until Ctrl-C.")
def fleet_demo(once: bool) -> None:
    """Watch policies reach five nodes: at once, by a canary, and back.

    A control plane with an SQLite database and five agents run on this machine; each agent holds two Pods, which are
    network namespaces (podlane-demo-PID-... in `ip netns`) with curl uploading to nginx. A policy is published to all;
    a canary goes well; another is taken back by a gate. What is told is measured in the kernel.

    Then it stays, with traffic, for you to try. Nothing leaves this machine, and nothing stays behind.
    """
    with failing_clearly():
        check_machine()
        end_by_exception()
        if not _play(once=once):
            raise ResultError("not everything came true")


def check_machine() -> None:
    """Raise what is missing, before anything is made: :class:`NotPermittedError`, :class:`DemoError`."""
    from podlane.demo.programs import require_programs
    from podlane.demo.requirements import missing_for_policies
    from podlane.fleet_demo.parts import CALLS_FIRST, SHOP_FIRST
    from traffic_policy.policy_file import policy_from_document

    if os.geteuid() != 0:
        raise NotPermittedError(
            "The demo makes network namespaces, which needs root. Use sudo: sudo podlane fleet-demo "
            "(or make fleet-demo)."
        )
    require_programs()
    policies = map(policy_from_document, (SHOP_FIRST, CALLS_FIRST))
    if why := missing_for_policies(policies, by_agent=True):
        raise DemoError(why)


def _play(*, once: bool) -> bool:
    """Whether all came true."""
    from podlane.demo import leftovers
    from podlane.fleet_demo.fleet_topology import open_fleet_topology
    from podlane.fleet_demo.story import FleetStory

    for name in leftovers.sweep():
        say(f"removed what a killed demo left behind ({name})")
    say("setting up namespaces, nginx, a control plane and five agents ...")
    with open_fleet_topology() as topology:
        story = FleetStory(topology, console())
        story.play()
        if not once:
            _stay(topology)
        story.end_traffic()
        topology.stop()
    return not story.problems


def _pages(program: str | Path, context: FleetContext) -> str:
    from control_plane.web_pages import FOLDER
    from podlane.fleet_demo.parts import SHOP

    if not (FOLDER / "index.html").exists():
        return "Its pages for browsers are not built: that needs npm and Node.js 20.19 or later, and `make web`."
    return f"""\
To see the lanes and change them, in a browser ({program} ui opens it, too):
  {context.url}/t/{context.tenant}/live?policy={SHOP}
It asks for a token; this one is an administrator's:
  {context.token}"""


def _stay(topology: FleetTopology) -> NoReturn:
    """Until a signal ends us. Raises :class:`DemoError` when something ends by itself."""
    context = topology.client.context
    program = "podlane" if shutil.which("podlane") else Path(sys.executable).with_name("podlane")
    token = topology.folder / "token"
    token.write_text(f"{context.token}\n")
    click.echo(f"""
All of it goes on until Ctrl-C. In another terminal:
  $ export PODLANE_CONFIG=$(mktemp -d)
  $ sudo cat {token} | {program} login {context.url}
  $ {program} agents list
  $ {program} policy get shop -o yaml
  $ {program} rollout status calls
  $ {program} audit list
{_pages(program, context)}""")
    while True:
        time.sleep(_LOOK)
        topology.check()
