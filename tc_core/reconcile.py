"""Observe, compare, change: brings an interface to a tree and reports what it did.

Nothing is remembered between calls; the kernel's own state is the only record. So a call that failed in the middle is
completed by the next one, whoever makes it, and a call that finds everything as it should be changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tc_core.diff import diff, removal
from tc_core.errors import KernelError
from tc_core.kernel import Change, DeleteClass, Kernel
from tc_core.trees import Tree
from traffic_policy.errors import PodlaneError
from traffic_policy.units import Duration

DRAIN: Final = Duration(1_000_000_000)
"""How long a class that has lost its filter may take to send what it has queued, before it is removed. An honest queue
holds some tens of milliseconds; a class slower than that must not hold up a new policy."""
_POLL: Final = 0.01
"""Seconds between two looks at the queues of classes that are to go."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one call did. ``dropped_packets`` were still queued in classes that had to go after their time to drain."""

    interface: str
    done: tuple[Change, ...] = ()
    failed: tuple[Change, KernelError] | None = None
    remaining: tuple[Change, ...] = ()
    dropped_packets: int = 0

    def __str__(self) -> str:
        lines = [f"{len(self.done)} changes on {self.interface}"]
        lines += [f"  done: {change.command(self.interface)}" for change in self.done]
        if self.failed:
            change, error = self.failed
            lines.append(f"  failed: {change.command(self.interface)}: {error.detail}")
        lines += [f"  not tried: {change.command(self.interface)}" for change in self.remaining]
        return "\n".join(lines)


class _AnyReport(Protocol):
    @property
    def interface(self) -> str: ...

    @property
    def done(self) -> Sequence[object]: ...

    @property
    def remaining(self) -> Sequence[object]: ...


class ApplyError(PodlaneError):
    """The kernel refused a change in the middle of a plan. ``report`` has what was done, what failed, what is left.

    ``number`` is that of the change in the history, None where nothing was written down.
    """

    number: int | None = None

    def __init__(self, report: _AnyReport, error: KernelError) -> None:
        self.report = report
        self.error = error
        total = len(report.done) + 1 + len(report.remaining)
        super().__init__(
            f"Change {len(report.done) + 1} of {total} on {report.interface} was refused. {error} "
            f"{len(report.done)} were made and stay in force; the next attempt goes on from there."
        )


def plan(kernel: Kernel, interface: str, tree: Tree, *, replace: bool = False) -> list[Change]:
    """The changes that :func:`apply` would make now.

    Raises :class:`InterfaceNotFoundError`, :class:`ForeignQdiscError`, :class:`KernelError`.
    """
    return diff(tree, kernel.observe(interface), replace=replace)


def apply(
    kernel: Kernel,
    interface: str,
    tree: Tree,
    *,
    replace: bool = False,
    drain: Duration = DRAIN,
    pause: Callable[[float], None] = time.sleep,
) -> Report:
    """Bring the interface to the tree; sends only what differs.

    ``replace`` takes over from a foreign root qdisc. ``pause`` waits some seconds while classes drain. Raises
    :class:`InterfaceNotFoundError`, :class:`ForeignQdiscError`, and :class:`ApplyError` when the kernel refuses a
    change.
    """
    return carry_out(kernel, interface, plan(kernel, interface, tree, replace=replace), drain=drain, pause=pause)


def remove(kernel: Kernel, interface: str) -> Report:
    """Take our tree away and undo what it did to the link. A tree that is not ours, or none, is left alone.

    Raises :class:`InterfaceNotFoundError`, and :class:`ApplyError` when the kernel refuses.
    """
    return carry_out(kernel, interface, removal(kernel.observe(interface)))


def carry_out(
    kernel: Kernel,
    interface: str,
    changes: Sequence[Change],
    *,
    drain: Duration = DRAIN,
    pause: Callable[[float], None] = time.sleep,
) -> Report:
    """Make these changes in order, giving classes that go time to send what they have queued.

    Raises :class:`InterfaceNotFoundError`, and :class:`ApplyError` when the kernel refuses one.
    """
    dropped = 0
    drained = False
    for position, change in enumerate(changes):
        try:
            if isinstance(change, DeleteClass) and not drained:
                drained = True
                going = [c for c in changes if isinstance(c, DeleteClass)]
                dropped = _wait_until_empty(kernel, interface, going, drain, pause)
            kernel.apply(interface, change)
        except KernelError as error:
            report = Report(
                interface, tuple(changes[:position]), (change, error), tuple(changes[position + 1 :]), dropped
            )
            raise ApplyError(report, error) from error
    return Report(interface, tuple(changes), dropped_packets=dropped)


def _wait_until_empty(
    kernel: Kernel, interface: str, going: Sequence[DeleteClass], drain: Duration, pause: Callable[[float], None]
) -> int:
    """Wait until classes whose filters are gone have sent what they had; how many packets are left after ``drain``."""
    handles = {change.traffic_class.handle for change in going}
    waited = 0.0
    while True:
        left = sum(s.backlog_packets for handle, s in kernel.counters(interface).items() if handle in handles)
        if not left or waited >= drain.seconds:
            return left
        pause(_POLL)
        waited += _POLL
