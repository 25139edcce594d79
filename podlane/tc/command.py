"""``podlane tc``: traffic control of an interface by a policy file, with undo. Changes need root."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podlane.console import MISUSED, OK, failing_clearly, say
from podlane.options import HISTORY_VARIABLE, total_option
from podlane.tc.history_commands import history
from podlane.tc.policies import PolicySource
from podlane.tc.report import DIFFERENT, carry_out, print_json, print_plan, report
from traffic_policy.units import Rate

if TYPE_CHECKING:
    from podlane.tc.history_file import HistoryFile


def _takes_a_policy(command: Callable[..., None]) -> Callable[..., None]:
    """The options that select a policy, in the order of the help text; ``command`` gets them as ``source``."""

    @functools.wraps(command)
    def with_source(*, file: str | None, profile: str | None, total: Rate | None, **others: object) -> None:
        if (file is None) == (profile is None):
            raise click.UsageError("Name one policy: --file FILE, or --profile NAME with --total RATE.")
        if profile is not None and total is None:
            raise click.UsageError("A profile needs the bandwidth of the interface: add --total RATE, as in 50Mbit.")
        command(source=PolicySource(file, profile, total), **others)

    for option in (
        click.option("--replace", is_flag=True, help="Take over from a root qdisc that Podlane did not make."),
        total_option,
        click.option("--profile", metavar="NAME", help="A profile instead of a file (podlane tc profiles)."),
        click.option("--file", "-f", metavar="FILE", help="Policy file (YAML or JSON); - is standard input."),
    ):
        with_source = option(with_source)
    return with_source


@click.group(
    epilog="""\b
Examples:
  podlane tc show eth0
  sudo podlane tc diff eth0 --file policy.yaml
  sudo podlane tc apply eth0 --file policy.yaml
  sudo podlane tc apply eth0 --profile web-server --total 100Mbit
  sudo podlane tc history eth0
  sudo podlane tc clear eth0

Exit codes: 0 done, 1 failed, 2 the command line or the policy cannot be used; `diff` has those of diff(1).
"""
)
@click.option(
    "--history",
    "history_file",
    metavar="FILE",
    envvar=HISTORY_VARIABLE,
    type=click.Path(readable=False, path_type=Path),
    help=f"Where changes are written down.  [env {HISTORY_VARIABLE}; default: /var/lib/podlane/history.db for root]",
)
@click.option("--no-history", is_flag=True, help="Write nothing down, and look nothing up.")
@click.pass_context
def tc(ctx: click.Context, history_file: Path | None, no_history: bool) -> None:
    """Show, change and undo the traffic control of an interface.

    The same policies as for the sidecar, with the kernel alone: classes by port, network, protocol, application or
    mark, on any interface, without a proxy. Every change is written down and can be undone.
    """
    from podlane.tc.history_file import HistoryFile

    ctx.obj = HistoryFile(history_file, is_kept=not no_history)


tc.add_command(history)


@tc.command(
    short_help="Show what an interface has.",
    epilog="""\b
Examples:
  podlane tc show eth0
  podlane tc show eth0 --rates
  podlane tc show eth0 --json | jq .sends.tree

Exit codes: 0 shown, 1 there is no such interface.
""",
)
@click.argument("interface")
@click.option("--rates", is_flag=True, help="Look twice, a second apart, and show what each class sends now.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
@click.pass_obj
def show(store: HistoryFile, interface: str, rates: bool, as_json: bool) -> None:
    """Show what INTERFACE has: the tree of classes, its limits and counters, and which traffic goes where.

    Works on any tree, also on one that Podlane did not make, and changes nothing. Class names and matches are those
    that the history has for the interface. Needs no root.
    """
    with failing_clearly():
        from podlane.tc import kernel_access
        from podlane.tc.records import knowledge
        from podlane.tc.show import document, lines, read_interface

        with kernel_access.open_kernel() as kernel:
            shown = read_interface(kernel, interface, knowledge(store.standing(interface), interface), with_rates=rates)
        if as_json:
            print_json(document(shown))
            return
        for line in lines(shown):
            click.echo(line)
        if shown.lacks_policy and store.elsewhere:
            say(f"Class names and matches are not known here.{store.elsewhere}")


@tc.command(
    short_help="Bring an interface to a policy.",
    epilog="""\b
Examples:
  sudo podlane tc apply eth0 --file policy.yaml
  sudo podlane tc apply eth0 --file policy.yaml --dry-run
  sudo podlane tc apply eth0 --profile home-fair --total 50Mbit
  jq .spec policy.json | sudo podlane tc apply eth0 --file -

Exit codes: 0 INTERFACE follows the policy; 1 the kernel refused, or there is no such interface; 2 the policy
or an option cannot be used, and nothing has been touched.
""",
)
@click.argument("interface")
@_takes_a_policy
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@click.pass_obj
def apply(
    store: HistoryFile,
    interface: str,
    source: PolicySource,
    replace: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring INTERFACE to a policy, and print the commands that this took.

    Only what differs is changed, and what can be altered in place keeps its queue and its connections. A second time
    nothing is left to do. Other programs' qdiscs at the root are left alone unless --replace says otherwise. Programs
    of filters are cut short; --json has them whole.
    """
    with failing_clearly():
        from podlane.tc import kernel_access
        from podlane.tc.sidecar_check import observe_for_change
        from tc_core.apply.journal import to_policy

        policy = source.read()
        with kernel_access.open_kernel(to_change=True) as kernel:
            features = kernel_access.probe_features()
            if dry_run:
                known = store.standing(interface)
                seen = observe_for_change(kernel, interface, known)
                print_plan(to_policy(seen, policy, features, known, replace=replace), as_json)
                return
            with store.writing(interface) as (log, known):
                seen = observe_for_change(kernel, interface, known)
                intent = to_policy(seen, policy, features, known, replace=replace)
                outcome = carry_out(kernel, log, intent)
        report(intent, outcome, as_json, f"{interface} follows {source}")


@tc.command(
    short_help="Print what apply would do.",
    epilog="""\b
Examples:
  sudo podlane tc diff eth0 --file policy.yaml
  sudo podlane tc diff eth0 --file policy.yaml >/dev/null && echo up to date

Exit codes, as those of diff(1): 0 nothing would change, 1 something would, 2 it cannot be told.
""",
)
@click.argument("interface")
@_takes_a_policy
@click.option("--json", "as_json", is_flag=True, help="The plan as JSON.")
@click.pass_obj
def diff(
    store: HistoryFile,
    interface: str,
    source: PolicySource,
    replace: bool,
    as_json: bool,
) -> None:
    """Print what `apply` would do to INTERFACE: + what it adds, - what it takes away, ~ what it alters in place.

    Changes nothing. Needs CAP_NET_ADMIN all the same, since which queues and filters this kernel has is found out by
    trying, in a network namespace made for that.
    """
    with failing_clearly(MISUSED):
        from podlane.tc import kernel_access
        from podlane.tc.sidecar_check import observe_for_change
        from tc_core.apply.journal import to_policy

        policy = source.read()
        with kernel_access.open_kernel(to_change=True) as kernel:
            features, known = kernel_access.probe_features(), store.standing(interface)
            seen = observe_for_change(kernel, interface, known)
        intent = to_policy(seen, policy, features, known, replace=replace)
        print_plan(intent, as_json)
        sys.exit(DIFFERENT if intent.steps else OK)


@tc.command(
    short_help="Take away what Podlane made on an interface.",
    epilog="""\b
Example:
  sudo podlane tc clear eth0

Exit codes: 0 nothing of Podlane's is left; 1 the kernel refused, or there is no such interface.
""",
)
@click.argument("interface")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@click.pass_obj
def clear(store: HistoryFile, interface: str, as_json: bool) -> None:
    """Take away what Podlane made on INTERFACE: the tree, the redirection of what arrives, the ifb behind it.

    What others made is left alone.
    """
    with failing_clearly():
        from podlane.tc import kernel_access
        from podlane.tc.sidecar_check import observe_for_change
        from tc_core.apply.journal import to_nothing

        with kernel_access.open_kernel(to_change=True) as kernel, store.writing(interface) as (log, known):
            intent = to_nothing(observe_for_change(kernel, interface, known), known)
            outcome = carry_out(kernel, log, intent)
        report(intent, outcome, as_json, f"{interface} has no lanes", nothing="nothing of Podlane's was there")


@tc.command(
    short_help="Print the JSON schema of policies.",
    epilog="""\b
Example:
  podlane tc schema > policy.schema.json
""",
)
def schema() -> None:
    """Print the JSON schema of policies, for editors."""
    with failing_clearly():
        from traffic_policy.schema import policy_schema_text

        click.echo(policy_schema_text(), nl=False)


@tc.command(
    short_help="List or print ready-made policies.",
    epilog="""\b
Examples:
  podlane tc profiles
  podlane tc profiles voip
  sudo podlane tc apply eth0 --profile voip --total 20Mbit
""",
)
@click.argument("name", required=False)
def profiles(name: str | None) -> None:
    """List the profiles, policies made ready for common needs; with NAME, print that one to start from."""
    with failing_clearly():
        from traffic_policy import profiles as shelf

        if name is not None:
            click.echo(shelf.profile_named(name).text, nl=False)
            return
        width = max(len(profile.name) for profile in shelf.profiles())
        for profile in shelf.profiles():
            click.echo(f"{click.style(f'{profile.name:<{width}}', bold=True)}  {profile.summary}")
