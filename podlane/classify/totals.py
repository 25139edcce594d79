"""Traffic by class: sums, and a bar chart of them for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from podlane.classify.verdicts import Verdict
from podlane.text_output import aligned
from traffic_policy.policy import TrafficPolicy
from traffic_policy.units import ByteCount

_UP_BAR: Final = "█"
_DOWN_BAR: Final = "░"
_LEAST_BAR: Final = 10
"""Minimum useful width of a bar; narrower terminals get longer lines."""


@dataclass(slots=True)
class ClassTotal:
    """The traffic of one class. ``up`` is sent by clients: the part that a policy limits."""

    name: str
    flows: int = 0
    bytes_up: int = 0
    packets_up: int = 0
    bytes_down: int = 0
    packets_down: int = 0

    @property
    def bytes(self) -> int:
        """Both directions."""
        return self.bytes_up + self.bytes_down

    def document(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"class" if key == "name" else key: getattr(self, key) for key in self.__slots__}


class Totals:
    """Sums by class, in the order of the policy, including classes without traffic."""

    def __init__(self, policy: TrafficPolicy) -> None:
        self._by_name = {c.name: ClassTotal(c.name) for c in policy.resolved()}

    def add(self, verdict: Verdict) -> None:
        """Count a flow."""
        total = self._by_name[verdict.class_name]
        total.flows += 1
        total.bytes_up += verdict.bytes_up
        total.packets_up += verdict.packets_up
        total.bytes_down += verdict.bytes_down
        total.packets_down += verdict.packets_down

    @property
    def classes(self) -> tuple[ClassTotal, ...]:
        """All of them, the default class last."""
        return tuple(self._by_name.values())

    @property
    def flows(self) -> int:
        """Of all classes."""
        return sum(c.flows for c in self.classes)


def chart(classes: Sequence[ClassTotal], width: int) -> Iterator[str]:
    """A table with a bar for each class, not wider than ``width`` columns: what was sent, then what was received."""
    whole = sum(c.bytes for c in classes)
    rows = [("class", "flows", "sent", "received", "share")]
    rows += [
        (
            c.name,
            str(c.flows),
            ByteCount(c.bytes_up).human,
            ByteCount(c.bytes_down).human,
            f"{100 * c.bytes / whole:.1f} %" if whole else "–",
        )
        for c in classes
    ]
    lines = list(aligned(rows, {0}))
    room = max(_LEAST_BAR, width - max(len(line) for line in lines) - 2)
    largest = max((c.bytes for c in classes), default=0)
    bars = [f"{_UP_BAR} sent {_DOWN_BAR} received", *(_bar(c, largest, room) for c in classes)]
    yield from (f"{line}  {bar}".rstrip() for line, bar in zip(lines, bars, strict=True))


def _bar(total: ClassTotal, largest: int, room: int) -> str:
    """Lengths in proportion to bytes; the sum is rounded once, so that equal sums are equally long."""
    if not largest:
        return ""
    length = round(room * total.bytes / largest)
    if total.bytes and not length:
        length = 1  # it is not zero
    sent = round(length * total.bytes_up / total.bytes) if total.bytes else 0
    return _UP_BAR * sent + _DOWN_BAR * (length - sent)
