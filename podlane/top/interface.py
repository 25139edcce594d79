"""Readings from the kernel, of any interface, with Podlane's classes or others."""

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
"""Fields of /proc/net/dev before those of sent traffic."""


@dataclass(frozen=True, slots=True)
class InterfaceSource:
    """An interface of this network namespace. ``known``: the history's knowledge of it, for the names of classes."""

    kernel: Kernel
    interface: str
    known: Knowledge = field(default_factory=Knowledge)
    place: str = ""

    @property
    def name(self) -> str:
        """The interface and its place, for a title."""
        return f"kernel counters in {self.place}" if self.place else "kernel counters"

    def read(self) -> Reading:
        """Read the interface. Raises the errors of :mod:`tc_core`; :class:`SourceError` if it has just been removed."""
        shown = read_interface(self.kernel, self.interface, self.known)
        at = time.monotonic()
        classes = tuple(_readings(shown)) or (_whole(self.interface),)
        return Reading(at, self.interface, _total(shown.sends), classes, (shown.origin,))

    def connections(self, limit: int, order: Order) -> Connections:  # noqa: ARG002 (the protocol's)
        """Not available: the kernel does not know the classes of connections."""
        raise SourceError("Only a sidecar knows connections. Look at its admin port (--admin) instead of an interface.")


def _readings(shown: Interface) -> Iterator[ClassReading]:
    yield from _lanes(shown.sends, arrives=False)
    if shown.arrives.side is not None:
        yield from _lanes(shown.arrives.side, arrives=True)


def _lanes(side: Side, *, arrives: bool) -> Iterator[ClassReading]:
    """The leaf classes and bands; without any, the root alone."""
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
    """An interface without classes, by its own counters (proc_pid_net(5))."""
    # Of the calling thread: the process's own does not change when the thread enters a namespace.
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
    """The common limit of all classes, if there is one: the only class below the root, or the root itself."""
    if side.root is None:
        return None
    if side.root.ceiling is not None:
        return side.root.ceiling
    tops = [node for node in side.root.children if node.what == "class"]
    return tops[0].ceiling if len(tops) == 1 else None
