"""The policies that candidates are held to, in one place: every candidate's configuration is made from these.

A :class:`BenchPolicy` is a list of classes, told apart by name (SNI and Host), and for kernel-only candidates by port.
It becomes a Podlane policy, and marks (the layout of :mod:`traffic_policy.marks`) for peers that mark by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from traffic_policy.marks import DEFAULT_CLASS_ID, OWN, ClassIds, class_mark
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import policy_from_document

UNLIMITED: Final = "90Gbit"
"""More than a veth pair carries here, so that HTB is in the way and never the limit."""
FIRST_SINK_PORT: Final = 9001
"""Classes of shaped policies have a port each from here on, at which the server's sink listens."""

HTTP_PORT_OFFSET: Final = 1000


@dataclass(frozen=True, slots=True)
class BenchClass:
    """A class: guaranteed ``rate`` and ``ceil`` in the words of a policy file; ``port`` for those that see no names."""

    name: str
    rate: str
    ceil: str
    port: int
    priority: int = 4

    @property
    def host(self) -> str:
        """The name by which its traffic is told."""
        return f"{self.name}.example.com"

    @property
    def by_name(self) -> tuple[dict[str, Any], ...]:
        """Its matches for those that see names."""
        return {"sni": [self.host]}, {"host": [self.host]}

    @property
    def by_port(self) -> tuple[dict[str, Any], ...]:
        """Its match for those that see ports only."""
        return ({"port": [self.port, self.http_port]},)

    @property
    def http_port(self) -> int:
        """Where the server answers small requests of this class, for those that see ports only."""
        return self.port + HTTP_PORT_OFFSET


@dataclass(frozen=True)
class BenchPolicy:
    """A named policy. What no class matches is the default class's."""

    name: str
    total: str
    classes: tuple[BenchClass, ...]
    inbound: bool = False
    """Whether its classes are for what clients open towards the Pod."""
    ids: ClassIds = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", ClassIds.assign(c.name for c in self.classes))

    def __hash__(self) -> int:
        return hash((self.name, self.total, self.classes, self.inbound))

    def of(self, name: str) -> BenchClass:
        """The class of that name; KeyError when there is none."""
        for found in self.classes:
            if found.name == name:
                return found
        raise KeyError(name)

    @property
    def limits(self) -> bool:
        """Whether anything is limited that this machine could send."""
        return self.total != UNLIMITED

    @property
    def target(self) -> BenchClass:
        """The class of the measured traffic: the last one, so that every rule before it is asked."""
        return self.classes[-1]

    def mark(self, name: str | None = None) -> int:
        """The mark of what a proxy sends in a class (None: the default class); the proxy's own bit is in it."""
        class_id = DEFAULT_CLASS_ID if name is None else self.ids[name]
        return (class_mark(class_id) | OWN).value

    def document(self, *, by_port: bool = False) -> dict[str, Any]:
        """The policy as Podlane reads it; ``by_port``: classes by destination port instead of by name."""
        direction = {"direction": "inbound"} if self.inbound else {}
        return {
            "total": self.total,
            "classes": [
                {
                    "name": c.name,
                    "rate": c.rate,
                    "ceil": c.ceil,
                    "priority": c.priority,
                    "match": [match | direction for match in (c.by_port if by_port else c.by_name)],
                }
                for c in self.classes
            ],
        }

    def policy(self, *, by_port: bool = False) -> TrafficPolicy:
        """The checked policy. Raises PolicyError when this module made a mistake."""
        return policy_from_document(self.document(by_port=by_port), source=self.name)


def wide(classes: int = 2) -> BenchPolicy:
    """``classes`` classes that nothing is limited by: what is measured is the way there. The last one is used."""
    made = tuple(BenchClass(f"c{i}", "100Mbit", UNLIMITED, FIRST_SINK_PORT + i) for i in range(1, classes))
    target = BenchClass("web", "100Mbit", UNLIMITED, FIRST_SINK_PORT)
    return BenchPolicy(f"wide-{classes}", UNLIMITED, (*made, target))


def shaped(mbit: int) -> BenchPolicy:
    """A class ``inside`` of at most ``mbit`` Mbit/s, and beside it one that has a gigabit to itself."""
    beside = BenchClass("beside", "100Mbit", "1Gbit", FIRST_SINK_PORT + 1, priority=1)
    inside = BenchClass("inside", f"{mbit}Mbit", f"{mbit}Mbit", FIRST_SINK_PORT)
    return BenchPolicy(f"shaped-{mbit}", "2Gbit", (beside, inside))
