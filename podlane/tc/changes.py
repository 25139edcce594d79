"""What the verbs intend and do, on top of :mod:`tc_core.recording`: never against a sidecar, and known by a number.

An intent is made by looking; nothing has been changed yet, so it can be shown, or dropped. :func:`carry_out` makes it
so, and the history has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from podlane.tc.records import policy_of
from podlane.tc.sidecar_check import refuse_sidecars
from tc_core import recording
from tc_core.history import History, Standing, this_namespace
from tc_core.history.events import State
from tc_core.kernel import Kernel
from tc_core.probe.capability import Features
from tc_core.reconcile import ApplyError
from tc_core.recording import Intent
from traffic_policy.policy import TrafficPolicy


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


def to_policy(
    kernel: Kernel,
    interface: str,
    policy: TrafficPolicy,
    features: Features,
    standing: Standing | None,
    *,
    take_over: bool = False,
) -> Intent:
    """What brings an interface to a policy; ``take_over`` from a root qdisc that somebody else made.

    ``standing`` is what the history knows, None without one. Raises :class:`SidecarAtWorkError` when a sidecar shapes
    the interface, and what :func:`tc_core.recording.to_policy` does.
    """
    refuse_sidecars(kernel.observe(interface), standing)
    return recording.to_policy(kernel, interface, policy, features, standing, replace=take_over)


def to_nothing(kernel: Kernel, interface: str, standing: Standing | None) -> Intent:
    """What takes away all that is Podlane's on an interface. Raises as :func:`to_policy` does."""
    refuse_sidecars(kernel.observe(interface), standing)
    return recording.to_nothing(kernel, interface, standing)


def to_state(
    kernel: Kernel,
    interface: str,
    state: State | None,
    source: str,
    features: Features,
    standing: Standing | None,
    *,
    take_over: bool = False,
) -> Intent:
    """What brings back an earlier state; ``source`` names it in errors. Raises as :func:`to_policy` does."""
    if state is None:
        intent = to_nothing(kernel, interface, standing)
    else:
        policy = policy_of(state, source)
        intent = to_policy(kernel, interface, policy, features, standing, take_over=take_over)
    return replace(intent, action="restore")


def carry_out(kernel: Kernel, history: History | None, intent: Intent) -> Outcome:
    """Make it so, and write it down. A refusal of the kernel is in the outcome.

    Raises :class:`HistoryError`, and :class:`InterfaceNotFoundError` when the interface vanishes in the middle.
    """
    namespace = this_namespace() if history is not None else ""
    try:
        report = recording.carry_out(kernel, history, namespace, intent)
    except ApplyError as error:
        return Outcome(len(error.report.done), error.number, error=error)
    return Outcome(len(report.done), report.number, report.dropped_packets)
