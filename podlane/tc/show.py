"""``podlane tc show``: reads an interface without changes, and describes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import click

from podlane.tc import sidecar_check
from podlane.tc.records import Knowledge, Recorded, fits
from podlane.tc.tree import Arrivals, Side, TreeOwner, TreeReading, side_of
from podlane.tc.words import (
    OWNERS,
    arrivals_document,
    chosen_by_marks,
    filter_lines,
    filter_words,
    side_document,
    tree_lines,
)
from podlane.text_output import heading, prose
from tc_core.compile.packet_tree import is_our_ifb
from tc_core.diff import is_ours
from tc_core.history import ChangeRecord
from tc_core.kernel import Counters, Kernel
from tc_core.model import Link, Observed, RedirectFilter
from tc_core.stats import rates
from traffic_policy.policy import TrafficPolicy

RATE_SECONDS: Final = 1.0
"""Seconds between the two readings for a rate: long compared with a burst, short for the user."""


@dataclass(frozen=True, slots=True)
class ShownInterface:
    """An interface for ``podlane tc show``. ``origin`` is the origin of its tree."""

    link: Link
    sends: Side
    arrives: Arrivals
    origin: str
    recorded: Recorded | None
    unsettled: tuple[ChangeRecord, ...]
    """Later changes that may have altered the interface since the recorded one."""
    policy: TrafficPolicy | None
    """The recorded policy, if the sending side follows it."""
    received_policy: TrafficPolicy | None
    """The recorded policy, if the receiving side follows it."""

    @property
    def lacks_policy(self) -> bool:
        """Whether the tree follows a policy that the history lacks."""
        is_ours = self.sends.owner is TreeOwner.PODLANE
        return is_ours and self.recorded is None and not chosen_by_marks(self.sends.filters)


def read_interface(
    kernel: Kernel,
    interface: str,
    known: Knowledge,
    *,
    with_rates: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> ShownInterface:
    """Read everything about an interface, and with ``with_rates`` again a second later.

    Raises :class:`InterfaceNotFoundError`, :class:`KernelError`.
    """
    observed = kernel.observe(interface)
    device = next((f.device for f in observed.ingress if isinstance(f, RedirectFilter)), "")
    through = kernel.observe(device) if device in kernel.interfaces() else None
    parts = [part for part in (observed, through) if part is not None]
    first, began = [_counters(kernel, part) for part in parts], time.monotonic()
    readings = [TreeReading(part, counted) for part, counted in zip(parts, first, strict=True)]
    if with_rates:
        pause(RATE_SECONDS)
        seconds = max(time.monotonic() - began, RATE_SECONDS)
        readings = [
            TreeReading(part, counted, rates(before, counted, seconds))
            for part, before in zip(parts, first, strict=True)
            for counted in [_counters(kernel, part)]
        ]
    return _shown(readings[0], readings[1] if through else None, known)


def _counters(kernel: Kernel, observed: Observed) -> Counters:
    name = observed.link.name
    return {**kernel.qdisc_counters(name), **kernel.counters(name)}


def _shown(reading: TreeReading, through: TreeReading | None, known: Knowledge) -> ShownInterface:
    observed, recorded = reading.observed, known.recorded
    sends = side_of(reading, recorded.names() if recorded and is_ours(observed) else None)
    side = None
    if through is not None:
        is_known = recorded is not None and is_ours(through.observed) and is_our_ifb(through.observed.link.alias)
        side = side_of(through, recorded.names(arriving=True) if recorded and is_known else None)
    is_fit = recorded is not None and fits(recorded.lanes.tree, observed)
    return ShownInterface(
        observed.link,
        sends,
        Arrivals(observed.ingress_qdisc, observed.ingress, side),
        _origin(observed, sends, known, is_fit),
        recorded,
        known.standing.unsettled,
        recorded.policy if recorded and is_fit else None,
        recorded.policy if recorded and through and _fits_arriving(recorded, through.observed) else None,
    )


def _fits_arriving(recorded: Recorded, observed: Observed) -> bool:
    return recorded.lanes.ingress is not None and fits(recorded.lanes.ingress.tree, observed)


def _origin(observed: Observed, sends: Side, known: Knowledge, is_fit: bool) -> str:
    """The tree's origin, and the history's knowledge of it."""
    whose = OWNERS[sends.owner]
    if sends.owner is TreeOwner.OTHER:
        return f"{whose}: {sends.root.kind if sends.root else 'nothing'}"
    if sends.owner is TreeOwner.KERNEL:
        lost = f"; what change {known.recorded.change} left is gone: apply it again" if known.recorded else ""
        return (f"{whose} ({sends.root.kind})" if sends.root else whose) + lost
    if sidecar_check.is_sidecars(observed, known.standing):
        return f"{whose}, made by the sidecar that runs here"
    if known.recorded is None:
        return f"{whose}; the history here does not say from which policy"
    if is_fit:
        return f"{whose}, as change {known.recorded.change} left it"
    return f"{whose}, but not as change {known.recorded.change} left it: apply its policy again"


# --- words -----------------------------------------------------------------------------------------------------------


def lines(shown: ShownInterface) -> Iterator[str]:
    """The whole output for a terminal (click strips the colours elsewhere)."""
    name = shown.link.name
    yield heading(f"{name} sends: {shown.origin}{'' if shown.link.is_up else ' (the interface is down)'}")
    yield from _side(shown.sends, shown.policy)
    for record in shown.unsettled:
        yield from _note(
            f"Change {record.number} ({record.started.action}) is {record.result}: what it left is not certain. "
            f"Apply the policy that you want (podlane tc apply {name})."
        )
    yield ""
    yield from _arrivals(shown)


def _side(side: Side, policy: TrafficPolicy | None, *, arriving: bool = False) -> Iterator[str]:
    for line in tree_lines(side):
        yield f"  {line}"
    traffic = list(filter_lines(side, policy, arriving=arriving))
    if traffic:
        yield ""
        seen = " (networks and ports are those of the other end)" if arriving else ""
        yield f"  Which traffic goes where; the first that holds decides{seen}:"
        for line in traffic:
            yield f"    {line}"


def _arrivals(shown: ShownInterface) -> Iterator[str]:
    name, arrives = shown.link.name, shown.arrives
    if arrives.side is None:
        state = "not limited"
        if arrives.redirect is not None:
            state = f"goes to {arrives.redirect.device or 'a device that is gone'}"
        elif arrives.filters:
            state = "not Podlane's business: there are filters of others"
        yield heading(f"{name} receives: {state}")
        for existing in arrives.filters:
            yield f"    {filter_words(existing, {})}"
        return
    side = arrives.side
    yield heading(f"{name} receives: through {side.device}, {OWNERS[side.owner]}")
    yield from _side(side, shown.received_policy, arriving=True)
    for existing in arrives.filters:
        if existing is not arrives.redirect:
            yield f"    {filter_words(existing, {})}"


def _note(text: str) -> Iterator[str]:
    for line in prose(text, "  ! ", "    "):
        yield click.style(line, fg="yellow")


def document(shown: ShownInterface) -> dict[str, Any]:
    """Everything as JSON data. Rates are bits per second, sizes bytes."""
    link, recorded = shown.link, shown.recorded
    return {
        "interface": link.name,
        "link": {name: getattr(link, name) for name in type(link).__slots__ if name != "name"},
        "origin": shown.origin,
        "recorded": None
        if recorded is None
        else {
            "change": recorded.change,
            "policy": recorded.policy.to_document(),
            "ids": dict(recorded.lanes.ids),
            "in_force": shown.policy is not None,
        },
        "unsettled": [record.number for record in shown.unsettled],
        "sends": side_document(shown.sends, shown.policy),
        "receives": arrivals_document(shown.arrives, shown.received_policy),
    }
