"""Changes with a history: the intent is recorded before the kernel is changed, the outcome after.

Creating an :class:`Intent` only reads, so it can be shown or discarded; :func:`carry_out` executes it. If a process
dies in between, the history shows the change as interrupted, and the next change, which begins by reading the kernel,
settles it. A state in the history is ``{"policy": document, "ids": {class name: class id}}``, None when nothing of ours
is in force.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tc_core.apply.execute import ApplyError, Report, execute
from tc_core.apply.plan import ObservedInterface, Steps, plan
from tc_core.compile.mark_tree import leaf_handle
from tc_core.compile.packet_tree import lanes_of
from tc_core.diff import is_ours
from tc_core.errors import HistoryError
from tc_core.history import History, Result, Standing
from tc_core.history.events import Started, State
from tc_core.kernel import Kernel
from tc_core.model import Observed
from tc_core.probe.capability import Features
from tc_core.trees import Lanes
from traffic_policy.errors import PolicyError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import policy_from_document


@dataclass(frozen=True, slots=True)
class Intent:
    """A planned change of an interface, with the states before and after it.

    ``is_recorded``: the history already has ``after`` as the state in force, or there is no history.
    """

    interface: str
    action: str
    before: State | None
    after: State | None
    steps: Steps
    is_recorded: bool

    @property
    def commands(self) -> tuple[str, ...]:
        """The steps as tc(8) and ip(8) commands."""
        return tuple(change.command(name) for name, change in self.steps)


def lanes_for(seen: ObservedInterface, policy: TrafficPolicy, features: Features, standing: Standing | None) -> Lanes:
    """Compile a policy for an interface. Classes that stay keep their ids of the history, and with them handles and
    counters, if the interface has a class for each.

    Raises what :func:`tc_core.compile.packet_tree.lanes_of` does.
    """
    ids = None
    if standing is not None and standing.state is not None:
        ids = _ids_in_force(standing.state, seen.leaving)
    return lanes_of(policy, seen.interface, features, ids)


def _ids_in_force(state: State, observed: Observed) -> ClassIds | None:
    ids = ClassIds(state["ids"])
    present = {c.handle for c in observed.classes}
    return ids if is_ours(observed) and {leaf_handle(number) for number in ids.values()} <= present else None


def recorded_lanes(interface: str, features: Features, standing: Standing | None) -> Lanes | None:
    """The state in force by the history, compiled for an interface; None if there is none.

    None also for a policy that this version cannot read. Raises :class:`MissingFeatureError`.
    """
    if standing is None or standing.state is None:
        return None
    try:
        policy = policy_from_document(standing.state["policy"])
    except PolicyError:
        return None
    return lanes_of(policy, interface, features, ClassIds(standing.state["ids"]))


def to_policy(
    seen: ObservedInterface,
    policy: TrafficPolicy,
    features: Features,
    standing: Standing | None,
    *,
    replace: bool = False,
    action: str = "apply",
) -> Intent:
    """The intent to bring an interface to a policy. ``standing`` is the history's state, None without a history.

    Raises what :func:`tc_core.compile.packet_tree.lanes_of` and :func:`tc_core.apply.plan.plan` do.
    """
    wanted = lanes_for(seen, policy, features, standing)
    after = {"policy": policy.to_document(), "ids": dict(wanted.ids)}
    return _intent(seen.interface, action, standing, after, plan(seen, wanted, replace=replace))


def to_nothing(seen: ObservedInterface, standing: Standing | None, *, action: str = "clear") -> Intent:
    """The intent to remove everything of ours from an interface."""
    return _intent(seen.interface, action, standing, None, plan(seen, None))


def _intent(interface: str, action: str, standing: Standing | None, after: State | None, steps: Steps) -> Intent:
    before = standing.state if standing else None
    is_recorded = standing is None or (standing.certain and before == after)
    return Intent(interface, action, before, after, steps, is_recorded)


def carry_out(kernel: Kernel, history: History | None, namespace: str, intent: Intent) -> Report:
    """Record the intent, execute it, record the outcome. Without changes nothing is recorded.

    The report, also that of an error, has the change's number. Raises :class:`ApplyError` when the kernel refuses a
    step; :class:`HistoryError` before any change when the intent cannot be recorded, or after it when the outcome
    cannot. If the interface is removed meanwhile, raises :class:`InterfaceNotFoundError` and leaves a change without
    outcome.
    """
    if history is None or (not intent.steps and intent.is_recorded):
        return execute(kernel, intent.interface, intent.steps)
    try:
        started = history.start(
            interface=intent.interface,
            action=intent.action,
            before=intent.before,
            after=intent.after,
            commands=intent.commands,
            namespace=namespace,
        )
    except HistoryError as error:
        raise HistoryError(f"{error} Nothing has been changed.") from error
    try:
        report = execute(kernel, intent.interface, intent.steps)
    except ApplyError as error:
        error.report = replace(error.report, number=started.number)
        _finish(history, started, Result.FAILED, len(error.report.done), str(error))
        raise
    _finish(history, started, Result.DONE, len(report.done))
    return replace(report, number=started.number)


def _finish(history: History, started: Started, result: Result, made: int, error: str = "") -> None:
    try:
        history.finish(started, result, made=made, error=error)
    except HistoryError as failure:
        raise HistoryError(
            f"{failure} {error or 'All changes were made.'} The history will show change {started.number} as "
            "interrupted; applying again settles it."
        ) from failure
