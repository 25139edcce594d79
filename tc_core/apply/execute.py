"""Executes the steps of a plan in the kernel and reports what was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tc_core.apply.plan import Step, Steps, observe_ifb, observe_interface, plan
from tc_core.compile.packet_tree import is_our_ifb
from tc_core.errors import InterfaceNotFoundError, KernelError
from tc_core.handles import Handle
from tc_core.kernel import DeleteClass, DeleteLink, Kernel
from tc_core.trees import Lanes, Tree
from traffic_policy.errors import PodlaneError
from traffic_policy.units import Duration

DRAIN: Final = Duration(1_000_000_000)
"""Maximum time for a class without filter to send its queue before it is removed. A usual queue holds some tens of
milliseconds; a slower class must not delay the new policy."""
_POLL: Final = 0.01
"""Interval in seconds at which the queues of classes to be removed are polled."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one call, for an interface and its ifb.

    ``dropped_packets`` were still queued in removed classes after their time to drain. ``number`` is that of the change
    in the history, None without an entry.
    """

    interface: str
    done: Steps = ()
    failed: tuple[Step, KernelError] | None = None
    remaining: Steps = ()
    dropped_packets: int = 0
    number: int | None = None

    def __str__(self) -> str:
        lines = [f"{len(self.done)} changes on {self.interface}"]
        lines += [f"  done: {change.command(name)}" for name, change in self.done]
        if self.failed:
            (name, change), error = self.failed
            lines.append(f"  failed: {change.command(name)}: {error.detail}")
        lines += [f"  not tried: {change.command(name)}" for name, change in self.remaining]
        return "\n".join(lines)


class ApplyError(PodlaneError):
    """The kernel refused a step of a plan. ``report`` has the completed, the failed and the remaining steps."""

    def __init__(self, report: Report, error: KernelError) -> None:
        self.report = report
        self.error = error
        total = len(report.done) + 1 + len(report.remaining)
        super().__init__(
            f"Change {len(report.done) + 1} of {total} on {report.interface} was refused. {error} "
            f"{len(report.done)} were made and stay in force; the next attempt goes on from there."
        )

    @property
    def number(self) -> int | None:
        """The number of the change in the history, if any."""
        return self.report.number


def apply(
    kernel: Kernel,
    interface: str,
    wanted: Lanes | Tree,
    *,
    replace: bool = False,
    drain: Duration = DRAIN,
    pause: Callable[[float], None] = time.sleep,
) -> Report:
    """Bring the interface and its ifb to the wanted state; sends only what differs.

    With a tree alone the ifb is unchanged. ``replace`` allows replacing a foreign root qdisc. ``pause`` sleeps for the
    given seconds while classes drain. Raises :class:`InterfaceNotFoundError`, :class:`ForeignQdiscError`,
    :class:`ForeignLinkError`, and :class:`ApplyError` when the kernel refuses a change; the next call continues from
    there.
    """
    steps = plan(observe_interface(kernel, interface), wanted, replace=replace)
    return execute(kernel, interface, steps, drain=drain, pause=pause)


def clear(kernel: Kernel, interface: str) -> Report:
    """Remove everything of ours from the interface, and its ifb. Foreign objects stay.

    Raises :class:`InterfaceNotFoundError` when neither the interface nor its ifb exists, and :class:`ApplyError` when
    the kernel refuses.
    """
    try:
        seen = observe_interface(kernel, interface)
    except InterfaceNotFoundError:
        ifb = observe_ifb(kernel, interface)
        if ifb is not None and is_our_ifb(ifb.link.alias):
            kernel.apply(ifb.link.name, DeleteLink())
        raise
    return execute(kernel, interface, plan(seen, None))


def execute(
    kernel: Kernel,
    interface: str,
    steps: Sequence[Step],
    *,
    drain: Duration = DRAIN,
    pause: Callable[[float], None] = time.sleep,
) -> Report:
    """Execute the steps in order; classes to be removed get time to send their queues.

    Raises :class:`InterfaceNotFoundError`, and :class:`ApplyError` when the kernel refuses one.
    """
    dropped = 0
    drained: set[str] = set()
    for position, (name, change) in enumerate(steps):
        try:
            if isinstance(change, DeleteClass) and name not in drained:
                drained.add(name)
                going = {c.traffic_class.handle for n, c in steps if n == name and isinstance(c, DeleteClass)}
                dropped += _wait_until_empty(kernel, name, going, drain, pause)
            kernel.apply(name, change)
        except KernelError as error:
            failed, remaining = (steps[position], error), tuple(steps[position + 1 :])
            report = Report(interface, tuple(steps[:position]), failed, remaining, dropped)
            raise ApplyError(report, error) from error
    return Report(interface, tuple(steps), dropped_packets=dropped)


def _wait_until_empty(
    kernel: Kernel, interface: str, going: set[Handle], drain: Duration, pause: Callable[[float], None]
) -> int:
    """Wait until classes without filters have sent their queues; returns the packets left after ``drain``."""
    waited = 0.0
    while True:
        left = sum(s.backlog_packets for handle, s in kernel.counters(interface).items() if handle in going)
        if not left or waited >= drain.seconds:
            return left
        pause(_POLL)
        waited += _POLL
