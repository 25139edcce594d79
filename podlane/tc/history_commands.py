"""``podlane tc history``: lists changes and restores earlier states."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from podlane.console import MISUSED, OK, failing_clearly, say
from podlane.tc.report import DIFFERENT, carry_out, coloured, print_json, print_plan, report

if TYPE_CHECKING:
    from podlane.tc.history_file import HistoryFile
    from tc_core.history import ChangeRecord, History
    from tc_core.history.events import State


class _ListByDefault(click.Group):
    """A group whose default command is ``list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_ListByDefault,
    epilog="""\b
Examples:
  podlane tc history
  podlane tc history eth0 --limit 5
  podlane tc history show 12
  podlane tc history diff 12
  podlane tc history diff 9 12
  sudo podlane tc history restore 9
  podlane tc --history /tmp/mine.db history --json

Exit codes: 0 done, 1 failed, 2 the command line or a recorded policy cannot be used; `diff` has those of diff(1).
""",
)
def history() -> None:
    """Show what was changed, by whom, and bring an earlier state back.

    Without a command: the changes of all interfaces, or of one ([list] IFACE), newest first. A number names a change
    and the state that it left.
    """


@history.command("list", short_help="List the changes, newest first.")
@click.argument("interface", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many changes.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with states and commands.")
@click.pass_obj
def list_changes(store: HistoryFile, interface: str | None, limit: int, as_json: bool) -> None:
    """List the changes, of INTERFACE or of all, newest first."""
    with failing_clearly():
        from podlane.tc.history_view import record_document, table_lines
        from tc_core.history import this_namespace

        with store.reading() as log:
            records = log.changes(interface=interface, limit=limit)
        if as_json:
            print_json([record_document(record) for record in records])
        elif not records:
            say(f"Nothing was recorded{f' for {interface}' if interface else ''} in {store.path} yet.{store.elsewhere}")
        else:
            for line in table_lines(records, this_namespace()):
                click.echo(line)


@history.command(short_help="Show one change in full.")
@click.argument("number", type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def show(store: HistoryFile, number: int, as_json: bool) -> None:
    """Show change NUMBER in full: who, when, the commands, the states before and after, how it ended."""
    with failing_clearly():
        from podlane.tc.history_view import change_lines, record_document
        from tc_core.history import this_namespace

        with store.reading() as log:
            record = log.change(number)
        if as_json:
            print_json(record_document(record))
            return
        for line in change_lines(record, this_namespace()):
            click.echo(line)


@history.command(short_help="Print how two states differ.")
@click.argument("number", type=click.IntRange(min=1))
@click.argument("other", type=click.IntRange(min=1), required=False)
@click.pass_obj
def diff(store: HistoryFile, number: int, other: int | None) -> None:
    """Print how the policy after change NUMBER differs from that after change OTHER, or from the one in force now.

    Exit codes, as those of diff(1): 0 the same, 1 different, 2 it cannot be told.
    """
    with failing_clearly(MISUSED):
        from podlane.tc.history_view import difference

        with store.reading() as log:
            one = log.state_after(number)
            two, name = (log.state_after(other), f"after change {other}") if other else _in_force(log, number)
        lines = difference(one, two, f"after change {number}", name)
        for line in lines:
            click.echo(coloured(line))
        sys.exit(DIFFERENT if lines else OK)


def _in_force(log: History, number: int) -> tuple[State | None, str]:
    """The recorded state of a change's interface, and its description."""
    from tc_core.history import this_namespace

    interface = log.change(number).started.interface
    standing = log.standing(interface, this_namespace())
    for record in standing.unsettled:
        say(f"Change {record.number} is {record.result}: what is in force on {interface} now is not certain.")
    return standing.state, f"{interface} now"


@history.command(
    short_help="Bring an earlier state back.",
    epilog="""\b
Examples:
  sudo podlane tc history restore 9 --dry-run
  sudo podlane tc history restore 9
""",
)
@click.argument("number", type=click.IntRange(min=1))
@click.option("--replace", is_flag=True, help="Take over from a root qdisc that Podlane did not make.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@click.pass_obj
def restore(store: HistoryFile, number: int, replace: bool, dry_run: bool, as_json: bool) -> None:
    """Bring the interface of change NUMBER back to the state that this change left. That, too, is written down.

    A state from another network namespace, or from before the last start of this machine, is applied to the interface
    of that name here.
    """
    with failing_clearly():
        from podlane.tc import kernel_access
        from podlane.tc.records import policy_of
        from podlane.tc.sidecar_check import observe_for_change
        from tc_core.apply.journal import to_nothing, to_policy

        with store.reading() as log:
            state, record = log.state_after(number), log.change(number)
        interface = record.started.interface
        _note_other_place(record)
        with kernel_access.open_kernel(to_change=True) as kernel, store.writing(interface) as (log, standing):
            features = kernel_access.probe_features()
            seen = observe_for_change(kernel, interface, standing)
            if state is None:
                intent = to_nothing(seen, standing, action="restore")
            else:
                policy = policy_of(state, f"the policy of change {number}")
                intent = to_policy(seen, policy, features, standing, replace=replace, action="restore")
            if dry_run:
                print_plan(intent, as_json)
                return
            outcome = carry_out(kernel, log, intent)
        report(intent, outcome, as_json, f"{interface} is as change {number} left it")


def _note_other_place(record: ChangeRecord) -> None:
    from tc_core.history import this_namespace

    if record.started.namespace != this_namespace():
        say(
            f"Change {record.number} was made in another network namespace, or before the last start of this machine; "
            f"its state is for the interface {record.started.interface} here."
        )
