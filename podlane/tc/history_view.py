"""The history as text: a table of changes, one change in full, and the difference between two states."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import click

from podlane.tc.records import text_of
from podlane.tc.report import shortened
from podlane.text_output import bold, heading, prose, table
from tc_core.history import ChangeRecord, Outcome
from tc_core.history.events import State

_COLOURS: Final = {
    Outcome.DONE: "green",
    Outcome.FAILED: "red",
    Outcome.INTERRUPTED: "red",
    Outcome.RUNNING: "yellow",
}
_ELSEWHERE: Final = " *"
"""Marks the interface of a change in another network namespace."""


def table_lines(records: Iterable[ChangeRecord], here: str) -> Iterator[str]:
    """Changes as a table, in the order given; ``here`` is this network namespace."""
    records = list(records)
    rows = [("number", "when", "who", "interface", "action", "result", "changes")]
    rows += [
        (
            str(record.number),
            when(record.started.at),
            str(record.started.who),
            record.started.interface + ("" if record.started.namespace == here else _ELSEWHERE),
            record.started.action,
            record.result.value,
            changes_of(record),
        )
        for record in records
    ]
    yield from table(rows, {1, 2, 3, 4, 5})
    notes = [note for record in records if record.result is Outcome.INTERRUPTED for note in remedy(record)]
    if any(record.started.namespace != here for record in records):
        notes.append("*: in another network namespace, or before the last start of this machine")
    if notes:
        yield ""
    for note in notes:
        yield from prose(note, rest="  ")


def remedy(record: ChangeRecord) -> Iterator[str]:
    """The remedy for a change that was not completed as intended."""
    interface = record.started.interface
    if record.result is Outcome.INTERRUPTED:
        yield (
            f"Change {record.number} was interrupted: some of its commands may have been made. Apply again what you "
            f"want (podlane tc apply {interface} ..., or podlane tc clear {interface}); that completes or replaces it."
        )
    if record.result is Outcome.FAILED and record.touched:
        yield f"Change {record.number} stopped half-way. Mend what it complains of, and apply again."


def when(at: datetime) -> str:
    """A local time, to the second."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def changes_of(record: ChangeRecord) -> str:
    """The number of commands executed, and in total: ``12``, ``3 of 12``, ``? of 12``."""
    planned = len(record.started.commands)
    if record.finished is None:
        return f"? of {planned}"
    made = record.finished.made
    return str(made) if made == planned else f"{made} of {planned}"


def change_lines(record: ChangeRecord, here: str) -> Iterator[str]:
    """One change in full."""
    started, finished = record.started, record.finished
    who = started.who
    yield heading(f"Change {record.number}: {started.action} on {started.interface}")
    place = (
        "this network namespace" if started.namespace == here else f"another network namespace ({started.namespace})"
    )
    facts = [
        ("where", place),
        ("who", f"{who}, uid {who.uid}, process {who.pid}: {who.command}"),
        ("began", when(started.at)),
        ("ended", when(finished.at) if finished else "not"),
        ("result", click.style(record.result.value, fg=_COLOURS[record.result])),
    ]
    if finished is not None and finished.error:
        facts.append(("because", shortened(finished.error)))
    for name, value in facts:
        yield f"  {name:<8} {value}"
    for note in remedy(record):
        yield from prose(note, "  ", "  ")
    yield ""
    yield bold("Commands" if started.commands else "Commands: none; it was so already")
    for number, command in enumerate(started.commands):
        yield f"  {_mark(record, number)} {shortened(command)}"
    for title, state in (("Before", started.before), ("After", started.after)):
        yield ""
        if state is None:
            yield bold(f"{title}: no lanes")
            continue
        yield bold(title)
        yield from (f"  {line}" for line in text_of(state).splitlines())


def _mark(record: ChangeRecord, number: int) -> str:
    """Whether a command was executed: yes, refused, not tried, unknown."""
    if record.finished is None:
        return "?"
    if number < record.finished.made:
        return click.style("✓", fg="green")
    return click.style("✗", fg="red") if number == record.finished.made else "–"


def difference(one: State | None, other: State | None, one_name: str, other_name: str) -> list[str]:
    """The difference between the policies of two states, as from diff(1); empty if they are equal."""
    old, new = text_of(one).splitlines(), text_of(other).splitlines()
    return list(difflib.unified_diff(old, new, one_name, other_name, lineterm=""))


def record_document(record: ChangeRecord) -> dict[str, Any]:
    """A change as JSON data."""
    started, finished = record.started, record.finished
    return {
        "number": record.number,
        "interface": started.interface,
        "namespace": started.namespace,
        "action": started.action,
        "result": record.result.value,
        "began": started.at.isoformat(),
        "ended": finished.at.isoformat() if finished else None,
        "who": {name: getattr(started.who, name) for name in type(started.who).__slots__},
        "commands": list(started.commands),
        "made": finished.made if finished else None,
        "error": (finished.error or None) if finished else None,
        "before": started.before,
        "after": started.after,
    }
