"""What the verbs intend and do, on top of :mod:`tc_core.recording`: never against a sidecar, and known by a number.

An intent is made by looking; nothing has been changed yet, so it can be shown, or dropped. :func:`carry_out` makes it
so, and the history has it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Final

from podlane.traffic.guard import refuse_sidecars
from podlane.traffic.records import policy_of
from tc_core import recording
from tc_core.capability import Features
from tc_core.history import History, Standing, this_namespace
from tc_core.history.events import State
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddLink,
    AddQdisc,
    DeleteClass,
    DeleteFilter,
    DeleteLink,
    DeleteQdisc,
    Kernel,
)
from tc_core.lanes import Step
from tc_core.policy import TrafficPolicy
from tc_core.reconcile import ApplyError
from tc_core.recording import Intent

_ADDED: Final = (AddQdisc, AddClass, AddFilter, AddLink)
_REMOVED: Final = (DeleteQdisc, DeleteClass, DeleteFilter, DeleteLink)
_AT_ONCE: Final = 100
"""Among so many of an interface's last changes a process looks for its own: far more than are ever begun at once."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: ``made`` of the intent's steps were taken, ``error`` says why not all.

    ``number`` is that of the change in the history, None where nothing was written down; ``dropped_packets`` were still
    queued in classes that had to go.
    """

    made: int
    number: int | None
    dropped_packets: int = 0
    error: ApplyError | None = None


def sign_of(step: Step) -> str:
    """``+`` for what a step adds, ``-`` for what it takes away, ``~`` for what it alters."""
    change = step[1]
    return "+" if isinstance(change, _ADDED) else "-" if isinstance(change, _REMOVED) else "~"


def command_of(step: Step) -> str:
    """The tc(8) or ip(8) command that does the same as a step."""
    name, change = step
    return change.command(name)


def standing_of(history: History | None, interface: str) -> Standing | None:
    """What the history knows of an interface in this network namespace. Raises :class:`HistoryError`."""
    return None if history is None else history.standing(interface, this_namespace())


def to_policy(
    kernel: Kernel,
    interface: str,
    policy: TrafficPolicy,
    features: Features,
    history: History | None,
    *,
    take_over: bool = False,
) -> Intent:
    """What brings an interface to a policy; ``take_over`` from a root qdisc that somebody else made.

    Raises :class:`SidecarAtWorkError` when a sidecar shapes the interface, :class:`HistoryError`, and what
    :func:`tc_core.recording.to_policy` does.
    """
    refuse_sidecars(kernel.observe(interface))
    standing = standing_of(history, interface)
    return recording.to_policy(kernel, interface, policy, features, standing, replace=take_over)


def to_nothing(kernel: Kernel, interface: str, history: History | None) -> Intent:
    """What takes away all that is Podlane's on an interface. Raises as :func:`to_policy` does."""
    refuse_sidecars(kernel.observe(interface))
    return recording.to_nothing(kernel, interface, standing_of(history, interface))


def to_state(
    kernel: Kernel,
    interface: str,
    state: State | None,
    source: str,
    features: Features,
    history: History | None,
    *,
    take_over: bool = False,
) -> Intent:
    """What brings back an earlier state; ``source`` names it in errors. Raises as :func:`to_policy` does."""
    if state is None:
        intent = to_nothing(kernel, interface, history)
    else:
        policy = policy_of(state, source)
        intent = to_policy(kernel, interface, policy, features, history, take_over=take_over)
    return replace(intent, action="restore")


def carry_out(kernel: Kernel, history: History | None, intent: Intent) -> Outcome:
    """Make it so, and write it down. A refusal of the kernel is in the outcome.

    Raises :class:`HistoryError`, and :class:`InterfaceNotFoundError` when the interface vanishes in the middle.
    """
    namespace = this_namespace() if history is not None else ""
    try:
        report = recording.carry_out(kernel, history, namespace, intent)
    except ApplyError as error:
        return Outcome(len(error.report.done), _own_number(history, intent), error=error)
    return Outcome(len(report.done), _own_number(history, intent), report.dropped_packets)


def _own_number(history: History | None, intent: Intent) -> int | None:
    """The number of the change that this process has just written down; None when it did not."""
    if history is None or (not intent.steps and intent.is_recorded):
        return None
    records = history.changes(interface=intent.interface, namespace=this_namespace(), limit=_AT_ONCE)
    return next((record.number for record in records if record.started.who.pid == os.getpid()), None)
