"""Everything that a policy becomes on one interface when packets alone tell their class: what leaves and what arrives.

The changes are steps, each on the interface or on the ifb beside it, in an order in which nothing gets lost: the ifb
has its tree before the first packet is sent through it, and keeps it until no more are.

Nothing is remembered between calls, as in :mod:`tc_core.reconcile`. What is ours can be told: the tree by its shape
(:func:`tc_core.diff.is_ours`), the ifb by its alias, which also says whether we made the place for the filter at the
ingress hook, so that only what we made is taken away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from tc_core import reconcile
from tc_core.compile.packet_tree import compile_ingress, compile_packets, ifb_name, is_our_ifb
from tc_core.diff import diff, removal
from tc_core.errors import ForeignLinkError, InterfaceNotFoundError, KernelError
from tc_core.kernel import (
    AddFilter,
    AddLink,
    AddQdisc,
    Change,
    DeleteFilter,
    DeleteLink,
    DeleteQdisc,
    Kernel,
    ReplaceFilter,
    SetLink,
)
from tc_core.model import Clsact, Link, Observed, RedirectFilter
from tc_core.probe.capability import Features
from tc_core.reconcile import DRAIN, ApplyError
from tc_core.trees import IngressTree, Tree
from traffic_policy.errors import PolicyError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy
from traffic_policy.scope import beyond_packets
from traffic_policy.units import Duration

Step = tuple[str, Change]
"""An interface and a change on it."""

_WITH_CLSACT: Final = " (clsact too)"
"""Behind the alias of an ifb that came together with the clsact qdisc of its interface."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """What an interface should have. ``ids`` are the class ids behind the handles."""

    tree: Tree
    ingress: IngressTree | None
    ids: ClassIds

    def steps(
        self, interface: str, leaving: Observed, arriving: Observed | None, *, replace: bool = False
    ) -> list[Step]:
        """What makes them of an interface with ``leaving``, and an ifb with ``arriving`` (None: there is none yet).

        Raises :class:`ForeignQdiscError`, :class:`ForeignLinkError`.
        """
        steps: list[Step] = [(interface, change) for change in diff(self.tree, leaving, replace=replace)]
        if self.ingress is None:
            return [*steps, *_without_ingress(interface, leaving, arriving)]
        return [*steps, *_with_ingress(interface, self.ingress, leaving, arriving, replace=replace)]


@dataclass(frozen=True, slots=True)
class LanesReport:
    """What one call did, on the interface and its ifb. ``dropped_packets`` as in :class:`tc_core.reconcile.Report`.

    ``number`` is that of the change in the history, None where nothing was written down.
    """

    interface: str
    done: tuple[Step, ...] = ()
    failed: tuple[Step, KernelError] | None = None
    remaining: tuple[Step, ...] = ()
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


def lanes_of(policy: TrafficPolicy, interface: str, features: Features, ids: ClassIds | None = None) -> Lanes:
    """What a checked policy becomes. ``ids`` are those in force, to be kept by classes that stay.

    Raises :class:`PolicyError` for what packets alone cannot tell, :class:`MissingFeatureError` for what the kernel
    cannot do.
    """
    if problems := beyond_packets(policy):
        raise PolicyError(problems)
    names = [c.name for c in policy.classes]
    ids = ClassIds.assign(names) if ids is None else ids.evolve(names)
    return Lanes(
        compile_packets(policy, features, ids),
        compile_ingress(policy, interface, features, ids),
        ids,
    )


def plan(kernel: Kernel, interface: str, lanes: Lanes, *, replace: bool = False) -> list[Step]:
    """The steps that :func:`apply` would take now.

    Raises :class:`InterfaceNotFoundError`, :class:`ForeignQdiscError`, :class:`ForeignLinkError`, :class:`KernelError`.
    """
    leaving = kernel.observe(interface)
    return lanes.steps(interface, leaving, _arriving(kernel, interface), replace=replace)


def apply(
    kernel: Kernel,
    interface: str,
    lanes: Lanes,
    *,
    replace: bool = False,
    drain: Duration = DRAIN,
    pause: Callable[[float], None] = time.sleep,
) -> LanesReport:
    """Bring the interface, and its ifb, to these lanes; sends only what differs.

    ``replace`` takes over from a foreign root qdisc. Raises what :func:`plan` does, and :class:`ApplyError` (with a
    :class:`LanesReport`) when the kernel refuses a change; the next call goes on from there.
    """
    return carry_out(kernel, interface, plan(kernel, interface, lanes, replace=replace), drain=drain, pause=pause)


def clear_plan(kernel: Kernel, interface: str) -> list[Step]:
    """The steps that :func:`clear` would take now. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`."""
    leaving = kernel.observe(interface)
    steps: list[Step] = [(interface, change) for change in removal(leaving)]
    return [*steps, *_without_ingress(interface, leaving, _arriving(kernel, interface))]


def clear(kernel: Kernel, interface: str) -> LanesReport:
    """Take away all that is ours on the interface, and its ifb. What others made is left alone.

    Raises :class:`InterfaceNotFoundError`, when its ifb is gone as well, and :class:`ApplyError` when the kernel
    refuses.
    """
    try:
        steps = clear_plan(kernel, interface)
    except InterfaceNotFoundError:
        arriving = _arriving(kernel, interface)
        if arriving is not None and is_our_ifb(arriving.link.alias):
            kernel.apply(arriving.link.name, DeleteLink())
        raise
    return carry_out(kernel, interface, steps)


def carry_out(
    kernel: Kernel,
    interface: str,
    steps: Sequence[Step],
    *,
    drain: Duration = DRAIN,
    pause: Callable[[float], None] = time.sleep,
) -> LanesReport:
    """Take these steps in order. Raises :class:`InterfaceNotFoundError`, :class:`ApplyError`."""
    done: list[Step] = []
    dropped = 0
    for name, group in groupby(steps, key=itemgetter(0)):
        try:
            report = reconcile.carry_out(kernel, name, [change for _, change in group], drain=drain, pause=pause)
        except ApplyError as error:
            done += steps[len(done) : len(done) + len(error.report.done)]
            failed, remaining = steps[len(done)], tuple(steps[len(done) + 1 :])
            so_far = LanesReport(interface, tuple(done), (failed, error.error), remaining, dropped)
            raise ApplyError(so_far, error.error) from error.error
        done += [(name, change) for change in report.done]
        dropped += report.dropped_packets
    return LanesReport(interface, tuple(done), dropped_packets=dropped)


# --- what arrives ----------------------------------------------------------------------------------------------------


def _arriving(kernel: Kernel, interface: str) -> Observed | None:
    device = ifb_name(interface)
    return kernel.observe(device) if device in kernel.interfaces() else None


def _with_ingress(
    interface: str, wanted: IngressTree, leaving: Observed, arriving: Observed | None, *, replace: bool
) -> Iterator[Step]:
    device, redirect = wanted.device, wanted.redirect
    if arriving is None:
        made_with_clsact = leaving.ingress_qdisc is None
        yield device, AddLink("ifb", wanted.alias + (_WITH_CLSACT if made_with_clsact else ""))
        arriving = Observed(Link(device))
    elif not is_our_ifb(arriving.link.alias):
        raise ForeignLinkError(
            f"There is an interface {device} that Podlane did not make; it needs this name for what arrives at "
            f"{interface}. Rename the other one (ip link set dev {device} name NEW), or remove it."
        )
    elif not arriving.link.is_up:
        yield device, SetLink(up=True)
    current = _redirect(leaving)
    if current is not None and current.device == device and current != redirect:
        # Its program first: a class that goes gets nothing more, and of one that is not there yet HTB takes no notice.
        yield interface, ReplaceFilter(redirect)
        current = redirect
    for change in diff(wanted.tree, arriving, replace=replace):
        yield device, change
    if leaving.ingress_qdisc is None:
        yield interface, AddQdisc(Clsact())
    if current is None:
        yield interface, AddFilter(redirect)
    elif current != redirect:
        yield interface, ReplaceFilter(redirect)


def _without_ingress(interface: str, leaving: Observed, arriving: Observed | None) -> Iterator[Step]:
    """Take our redirection away, and what was made for it."""
    current = _redirect(leaving)
    if current is not None and current.device in (ifb_name(interface), ""):
        yield interface, DeleteFilter(current)
    else:
        current = None
    if arriving is None or not is_our_ifb(arriving.link.alias):
        return
    others = [f for f in leaving.ingress if f is not current]
    clsact = leaving.ingress_qdisc
    if clsact is not None and arriving.link.alias.endswith(_WITH_CLSACT) and not others and not leaving.egress:
        yield interface, DeleteQdisc(clsact)
    yield arriving.link.name, DeleteLink()


def _redirect(leaving: Observed) -> RedirectFilter | None:
    """The filter that is in the place of ours, if it is one of its kind."""
    return next((f for f in leaving.ingress if isinstance(f, RedirectFilter)), None)
