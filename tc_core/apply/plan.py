"""Plans the steps from the observed to the wanted state of an interface and its ifb, in an order that loses no packet.

The ifb has its tree before the first packet is redirected to it, and until the last one. Our objects are recognised:
the tree by its shape (:func:`tc_core.diff.is_ours`), the ifb by its alias. The alias also records whether we created
the clsact qdisc of its interface, so that only what we created is removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tc_core.compile.packet_tree import ifb_name, is_our_ifb
from tc_core.diff import diff, removal
from tc_core.errors import ForeignLinkError
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
from tc_core.trees import IngressTree, Lanes, Tree

Step = tuple[str, Change]
"""An interface and a change on it."""
Steps = tuple[Step, ...]

_WITH_CLSACT: Final = " (clsact too)"
"""Suffix of the alias of an ifb that was created together with the clsact qdisc of its interface."""


@dataclass(frozen=True, slots=True)
class ObservedInterface:
    """The observed egress of an interface, and its ifb for received traffic (None if there is none)."""

    interface: str
    leaving: Observed
    arriving: Observed | None = None


def observe_interface(kernel: Kernel, interface: str) -> ObservedInterface:
    """Read the interface and its ifb. Raises :class:`InterfaceNotFoundError`, :class:`KernelError`."""
    return ObservedInterface(interface, kernel.observe(interface), observe_ifb(kernel, interface))


def observe_ifb(kernel: Kernel, interface: str) -> Observed | None:
    """Read the ifb of an interface; None if there is none. Raises :class:`KernelError`."""
    device = ifb_name(interface)
    return kernel.observe(device) if device in kernel.interfaces() else None


def plan(seen: ObservedInterface, wanted: Lanes | Tree | None, *, replace: bool = False) -> Steps:
    """The steps from the observed to the wanted state; none if they agree.

    With a tree alone, received traffic is unchanged; None removes everything of ours. ``replace`` allows replacing a
    foreign root qdisc. Raises :class:`ForeignQdiscError`, :class:`ForeignLinkError`.
    """
    if wanted is None:
        leaving = ((seen.interface, change) for change in removal(seen.leaving))
        return (*leaving, *_without_ingress(seen))
    if isinstance(wanted, Lanes):
        return (*plan(seen, wanted.tree, replace=replace), *plan_arriving(seen, wanted.ingress, replace=replace))
    return tuple((seen.interface, change) for change in diff(wanted, seen.leaving, replace=replace))


def plan_arriving(seen: ObservedInterface, wanted: IngressTree | None, *, replace: bool = False) -> Steps:
    """The part of :func:`plan` for received traffic; None removes everything of ours there."""
    return tuple(_without_ingress(seen) if wanted is None else _with_ingress(seen, wanted, replace))


def _with_ingress(seen: ObservedInterface, wanted: IngressTree, replace: bool) -> Iterator[Step]:
    interface, leaving, arriving = seen.interface, seen.leaving, seen.arriving
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
        # Its program first: a removed class then gets no more packets, and HTB ignores a class that does not exist yet.
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


def _without_ingress(seen: ObservedInterface) -> Iterator[Step]:
    """Remove our redirection and what was created for it."""
    interface, leaving, arriving = seen.interface, seen.leaving, seen.arriving
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
    """The redirect filter at the priority of ours, if any."""
    return next((f for f in leaving.ingress if isinstance(f, RedirectFilter)), None)
