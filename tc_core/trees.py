"""The results of compiling a policy other than the HTB tree (:class:`tc_core.model.TrafficTree`). Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tc_core.handles import Handle
from tc_core.model import BpfFilter, OurQdisc, RedirectFilter, TrafficTree
from traffic_policy.marks import ClassIds

PLAIN_ROOT: Final = Handle(0x70D1)
"""The root handle of a tree that is not HTB ("podl"), the only sign that such a tree is ours."""


@dataclass(frozen=True, slots=True)
class PlainTree:
    """A tree of qdiscs alone, such as a token bucket with a queue below it.

    ``qdiscs`` has the root first, and parents before children; ``filters`` select the bands of a prio qdisc among them.
    ``names`` are for display only.
    """

    qdiscs: tuple[OurQdisc, ...]
    filters: tuple[BpfFilter, ...] = ()
    names: Mapping[Handle, str] = field(default_factory=lambda: MappingProxyType({}), compare=False)


Tree = TrafficTree | PlainTree


@dataclass(frozen=True, slots=True)
class IngressTree:
    """Received traffic of an interface: it is redirected to ``device``, an ifb, whose tree shapes it.

    The ifb's ``alias`` identifies it as ours.
    """

    device: str
    alias: str
    tree: TrafficTree
    redirect: RedirectFilter


@dataclass(frozen=True, slots=True)
class Lanes:
    """The wanted state of an interface, both ways. ``ids`` are the class ids behind the handles."""

    tree: Tree
    ingress: IngressTree | None
    ids: ClassIds
