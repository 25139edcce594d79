"""Readings from the kernel: any interface, with Podlane's classes or anybody's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.documents.connections import Connections
from datapath.connection_list import Order
from podlane.tc.records import Knowledge
from podlane.tc.show import ShownInterface as Interface
from podlane.tc.show import read_interface
from podlane.tc.tree import NOTHING, Node, Side, TreeOwner
from podlane.top.readings import ClassReading, Reading, SourceError
from tc_core.compile.mark_tree import leaf_handle
from tc_core.kernel import Kernel
from tc_core.stats import ClassStats
from traffic_policy.marks import DEFAULT_CLASS_ID
from traffic_policy.policy import DEFAULT_CLASS
from traffic_policy.units import Rate

_DEFAULT: Final = leaf_handle(DEFAULT_CLASS_ID)
_RECEIVED_COLUMNS: Final = 8
"""Of /proc/net/dev, before those of what was sent."""


@dataclass(frozen=True, slots=True)
class InterfaceSource:
    """An interface of this network namespace. ``known``: what the history says of it, for the names of classes."""

    kernel: Kernel
    interface: str
    known: Knowledge = field(default_factory=Knowledge)
    place: str = ""

    @property
    def name(self) -> str:
        """Whose counters are shown, and where."""
        return f"kernel counters in {self.place}" if self.place else "kernel counters"

    def read(self) -> Reading:
        """Look at the interface. Raises the errors of :mod:`tc_core`; :class:`SourceError` when it has just gone."""
        shown = read_interface(self.kernel, self.interface, self.known)
        at = time.monotonic()
        classes = tuple(_readings(shown)) or (_whole(self.interface),)
        return Reading(at, self.interface, _total(shown.sends), classes, (shown.origin,))

    def connections(self, limit: int, order: Order) -> Connections:  # noqa: ARG002 (the protocol's)
        """The kernel has no classes of connections."""
        raise SourceError("Only a sidecar knows connections. Look at its admin port (--admin) instead of an interface.")


def _readings(shown: Interface) -> Iterator[ClassReading]:
    yield from _lanes(shown.sends, arrives=False)
    if shown.arrives.side is not None:
        yield from _lanes(shown.arrives.side, arrives=True)


def _lanes(side: Side, *, arrives: bool) -> Iterator[ClassReading]:
    """The classes and bands that have no others below them; where there are none, the root alone."""
    if side.root is None:
        return
    nodes = [node for node in side.root.walk() if node.what != "qdisc" and not _has_classes(node)]
    for node in nodes or ([side.root] if side.root.stats is not None else []):
        rate = node.guaranteed
        yield ClassReading(
            f"{side.device} {node.handle}",
            _name(node, side),
            node.stats or NOTHING,
            rate,
            node.ceiling,
            node.priority,
            arrives=arrives,
        )


def _whole(interface: str) -> ClassReading:
    """An interface on which nothing is told apart, by its own counters (proc_pid_net(5))."""
    # The calling thread's: that of the process stays where it was when the thread enters a namespace.
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            sent = [int(number) for number in numbers.split()[_RECEIVED_COLUMNS:]]
            return ClassReading(interface, "(not shaped)", ClassStats(bytes=sent[0], packets=sent[1], drops=sent[3]))
    raise SourceError(f"{interface} is gone. Choose another interface (ip link shows them).")


def _has_classes(node: Node) -> bool:
    return any(below.what != "qdisc" for below in node.walk() if below is not node)


def _name(node: Node, side: Side) -> str:
    if node.name:
        return node.name
    if node.what == "qdisc":
        return node.kind
    return DEFAULT_CLASS if side.owner is TreeOwner.PODLANE and node.handle == _DEFAULT else str(node.handle)


def _total(side: Side) -> Rate | None:
    """What limits all classes together, if one thing does: the only class below the root, or the root itself."""
    if side.root is None:
        return None
    if side.root.ceiling is not None:
        return side.root.ceiling
    tops = [node for node in side.root.children if node.what == "class"]
    return tops[0].ceiling if len(tops) == 1 else None
