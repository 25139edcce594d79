"""The output of ``podlane tc`` for a plan and its result: commands on standard output, one sentence on standard
error."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from podlane.console import FAILED, say

if TYPE_CHECKING:
    from tc_core.apply.execute import Report
    from tc_core.apply.journal import Intent
    from tc_core.apply.plan import Step
    from tc_core.history import History
    from tc_core.kernel import Kernel
    from traffic_policy.errors import PodlaneError

_COLOURS: Final = {"+": "green", "-": "red", "~": "yellow", "@": "cyan"}
"""By the first character of a line: added, removed, changed, position."""

DIFFERENT: Final = 1
"""The exit code for different states, as of diff(1)."""

_BYTECODE: Final = re.compile(r"bytecode '([0-9]+),[^']{80,}'")
"""A program of classic BPF: the number of its instructions, then these (tc-bpf(8))."""


def shortened(command: str) -> str:
    """A command with the program of a filter shortened, for readability."""
    return _BYTECODE.sub(r"bytecode '\1,…'", command)


def coloured(line: str) -> str:
    """A line of a plan or of a difference, in the colour of its sign."""
    colour = _COLOURS.get(line[:1])
    return click.style(line, fg=colour) if colour else line


def print_json(document: object) -> None:
    """Data as indented JSON on standard output."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_plan(intent: Intent, as_json: bool) -> None:
    """Print what would be done."""
    if as_json:
        print_json(_plan_document(intent))
        return
    _print_steps(intent, len(intent.steps))
    count = len(intent.steps)
    say(f"{intent.interface}: {_count(count)} would be made." if count else f"{intent.interface}: nothing to change.")


def carry_out(kernel: Kernel, history: History | None, intent: Intent) -> tuple[Report, PodlaneError | None]:
    """Execute and record a plan; the second value is the kernel's refusal, if any.

    Raises :class:`HistoryError`, and :class:`InterfaceNotFoundError` if the interface disappears meanwhile.
    """
    from tc_core.apply import journal
    from tc_core.apply.execute import ApplyError
    from tc_core.history import this_namespace

    try:
        return journal.carry_out(kernel, history, this_namespace() if history is not None else "", intent), None
    except ApplyError as error:
        return error.report, error


def report(
    intent: Intent,
    outcome: tuple[Report, PodlaneError | None],
    as_json: bool,
    state: str,
    *,
    nothing: str = "nothing to change",
) -> None:
    """Print what was done, and one sentence; exits with 1 if the kernel refused a command.

    ``state`` describes the new state of the interface, ``nothing`` is printed if it was in that state already.
    """
    done, error = outcome
    made = len(done.done)
    if as_json:
        print_json(_result_document(intent, done, error))
    else:
        _print_steps(intent, made)
    recorded = "" if done.number is None else f" (change {done.number} of the history)"
    if error is not None:
        say(f"{shortened(str(error))}{recorded}", error=True)
        sys.exit(FAILED)
    if not made:
        say(f"{state}: {nothing}{', now written down' + recorded if recorded else ''}.")
        return
    say(f"{state}: {_count(made)} made{recorded}.")
    if done.dropped_packets:
        say(f"{done.dropped_packets} packets that waited in classes which had to go were dropped.")


def _print_steps(intent: Intent, count: int) -> None:
    """The first steps of an intent."""
    for step, command in list(zip(intent.steps, intent.commands, strict=True))[:count]:
        click.echo(coloured(f"{sign_of(step)} {shortened(command)}"))


def sign_of(step: Step) -> str:
    """``+`` for a step that adds, ``-`` for one that removes, ``~`` for one that changes in place."""
    from tc_core import kernel

    match step[1]:
        case kernel.AddQdisc() | kernel.AddClass() | kernel.AddFilter() | kernel.AddLink():
            return "+"
        case kernel.DeleteQdisc() | kernel.DeleteClass() | kernel.DeleteFilter() | kernel.DeleteLink():
            return "-"
        case _:
            return "~"


def _count(number: int) -> str:
    return "1 change" if number == 1 else f"{number} changes"


def _plan_document(intent: Intent) -> dict[str, Any]:
    steps = zip(intent.steps, intent.commands, strict=True)
    return {
        "interface": intent.interface,
        "action": intent.action,
        "commands": [{"device": step[0], "sign": sign_of(step), "command": command} for step, command in steps],
    }


def _result_document(intent: Intent, done: Report, error: PodlaneError | None) -> dict[str, Any]:
    return {
        **_plan_document(intent),
        "result": "failed" if error else "done" if intent.steps else "nothing to change",
        "made": len(done.done),
        "change": done.number,
        "dropped_packets": done.dropped_packets,
        "error": str(error) if error else None,
    }
