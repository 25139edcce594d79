"""What ``podlane tc`` says of a plan and of what came of it: commands on standard output, one sentence beside them."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from podlane.console import FAILED, say

if TYPE_CHECKING:
    from podlane.tc.changes import Outcome
    from tc_core.lanes import Step
    from tc_core.recording import Intent

_COLOURS: Final = {"+": "green", "-": "red", "~": "yellow", "@": "cyan"}
"""By the first character of a line: what comes, what goes, what is altered, where."""

DIFFERENT: Final = 1
"""The exit code for states that differ, as diff(1) has it."""

_BYTECODE: Final = re.compile(r"bytecode '([0-9]+),[^']{80,}'")
"""A program of classic BPF: the number of its instructions, then these (tc-bpf(8))."""


def shortened(command: str) -> str:
    """A command with the program of a filter cut short, for people: some thousand numbers say nothing to them."""
    return _BYTECODE.sub(r"bytecode '\1,…'", command)


def coloured(line: str) -> str:
    """A line of a plan or of a difference, in the colour of its sign."""
    colour = _COLOURS.get(line[:1])
    return click.style(line, fg=colour) if colour else line


def print_json(document: object) -> None:
    """Data as indented JSON on standard output."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_plan(intent: Intent, as_json: bool) -> None:
    """What would be done."""
    if as_json:
        print_json(_plan_document(intent))
        return
    _print_steps(intent, len(intent.steps))
    count = len(intent.steps)
    say(f"{intent.interface}: {_count(count)} would be made." if count else f"{intent.interface}: nothing to change.")


def report(intent: Intent, outcome: Outcome, as_json: bool, state: str, *, nothing: str = "nothing to change") -> None:
    """What was done, and one sentence; ends with 1 when the kernel refused something.

    ``state`` is what the interface has come to, ``nothing`` what is said when it was so already.
    """
    made = outcome.made
    if as_json:
        print_json(_result_document(intent, outcome))
    else:
        _print_steps(intent, made)
    recorded = "" if outcome.number is None else f" (change {outcome.number} of the history)"
    if outcome.error is not None:
        say(f"{shortened(str(outcome.error))}{recorded}", error=True)
        sys.exit(FAILED)
    if not made:
        say(f"{state}: {nothing}{', now written down' + recorded if recorded else ''}.")
        return
    say(f"{state}: {_count(made)} made{recorded}.")
    if outcome.dropped_packets:
        say(f"{outcome.dropped_packets} packets that waited in classes which had to go were dropped.")


def _print_steps(intent: Intent, count: int) -> None:
    """The first steps of an intent."""
    for step, command in list(zip(intent.steps, intent.commands, strict=True))[:count]:
        click.echo(coloured(f"{sign_of(step)} {shortened(command)}"))


def sign_of(step: Step) -> str:
    """``+`` for what a step adds, ``-`` for what it takes away, ``~`` for what it alters."""
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


def _result_document(intent: Intent, outcome: Outcome) -> dict[str, Any]:
    return {
        **_plan_document(intent),
        "result": "failed" if outcome.error else "done" if intent.steps else "nothing to change",
        "made": outcome.made,
        "change": outcome.number,
        "dropped_packets": outcome.dropped_packets,
        "error": str(outcome.error) if outcome.error else None,
    }
