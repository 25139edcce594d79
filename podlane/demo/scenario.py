"""The data model of the demo: a class's transfer, a phase and a part, and their schedule. Pure.

The parts themselves are in :mod:`podlane.demo.parts`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from importlib.resources import files
from typing import Final

from traffic_policy.policy import ResolvedClass, TrafficPolicy
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import Rate

TLS_PORT: Final = 443
HTTP_PORT: Final = 80
HTTP2_PORT: Final = 8080
RAW_PORT: Final = 8730
TLS_NAMES: Final = ("api.shop.test", "*.video.test", "data.lab.test", "live.shop.test")
"""What the certificate is good for; .test never exists outside (RFC 6761)."""

MIN_SECONDS: Final = 10.0
"""For the first part. Shorter phases leave less than a second to measure in."""
MAX_SECONDS: Final = 600.0
_SETTLE_SECONDS: Final = 1.5
"""TCP connects, is detected and fills its class well within this; longer than one sliding window of the rates."""
_SETTLE_SHARE: Final = 0.4
"""In a shortened demo, at most this part of a phase is left out as settling."""


class Client(Enum):
    """The program that transfers in a class."""

    CURL = "curl"
    CAT = "cat"
    QUIC = "aioquic"


class TransferDirection(Enum):
    """The direction through the Pod's interface, and so the shared total."""

    SENT = "sent"
    RECEIVED = "received"


class TransferKind(Enum):
    """The side that opens a class's connection, and the direction of its bytes."""

    UPLOAD = "upload"
    """Opened by the Pod, sent by the Pod."""
    ANSWER = "answer"
    """Opened by a client outside, sent by the Pod's server."""
    DOWNLOAD = "download"
    """Opened by the Pod, sent to the Pod."""
    REQUEST = "request"
    """An upload that shares one connection with other uploads, one after another."""

    @property
    def way(self) -> TransferDirection:
        return TransferDirection.RECEIVED if self is TransferKind.DOWNLOAD else TransferDirection.SENT

    @property
    def uploads(self) -> bool:
        """Whether the class's program is the sender."""
        return self in (TransferKind.UPLOAD, TransferKind.REQUEST)


@dataclass(frozen=True, slots=True)
class DemoLane:
    """One lane: the class's name, how it is recognised, and the arguments of the program that transfers in it.

    ``colour`` is that of the table and the plot; ``note`` is for the plot.
    """

    name: str
    criterion: str
    value: str
    client: Client
    colour: str
    arguments: tuple[str, ...] = ()
    resolve: tuple[str, int] | None = None
    kind: TransferKind = TransferKind.UPLOAD
    note: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A period of the demo. At its start a class may join or end, or the limits change; then the rates settle."""

    name: str
    shows: str
    seconds: float
    join: str | None = None
    end: str | None = None
    change_limits: bool = False

    @property
    def title(self) -> str:
        """What happens, and what there is to see."""
        return f"{self.name}: {self.shows}"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the demo: a stage of its own, with a policy, lanes and a story.

    ``policies`` are the files of the policy at the start and, where the story changes the limits, of that afterwards.
    """

    name: str
    title: str
    subtitle: str
    policies: tuple[str, ...]
    lanes: tuple[DemoLane, ...]
    story: tuple[Phase, ...]

    @property
    def seconds(self) -> float:
        """How long traffic runs in it."""
        return sum(phase.seconds for phase in self.story)

    def without(self, names: Collection[str]) -> Part:
        """The part as it is when these lanes, and the phases in which they join, are left out."""
        lanes = tuple(lane for lane in self.lanes if lane.name not in names)
        return replace(self, lanes=lanes, story=tuple(phase for phase in self.story if phase.join not in names))

    def policy_text(self, *, changed: bool = False) -> str:
        """The policy file, before or after the change of limits."""
        return files(__package__).joinpath(self.policies[-1 if changed else 0]).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A phase on the clock (seconds from the start): ``start`` to ``end``, measured from ``steady`` on."""

    phase: Phase
    start: float
    steady: float
    end: float
    active: frozenset[str]
    changed: bool

    def limits(self, scenario: Scenario) -> Mapping[str, ResolvedClass]:
        """The limits in force during this phase."""
        return scenario.after if self.changed else scenario.before


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything about a part that is known before it starts. ``totals`` has the directions with classes."""

    part: Part
    totals: Mapping[TransferDirection, Rate]
    before: Mapping[str, ResolvedClass]
    after: Mapping[str, ResolvedClass]
    spans: tuple[PhaseSpan, ...]

    @property
    def lanes(self) -> tuple[DemoLane, ...]:
        return self.part.lanes

    @property
    def seconds(self) -> float:
        return self.spans[-1].end

    @property
    def change_at(self) -> float | None:
        """When the limits change; None if they do not."""
        return next((span.start for span in self.spans if span.changed), None)

    def lane(self, name: str) -> DemoLane:
        """The lane of that name; StopIteration when there is none."""
        return next(lane for lane in self.lanes if lane.name == name)

    def on(self, way: TransferDirection) -> tuple[DemoLane, ...]:
        """The lanes that share the total of a way."""
        return tuple(lane for lane in self.lanes if lane.kind.way is way)


def make_scenario(part: Part, scale: float = 1.0) -> Scenario:
    """The part's schedule, with every phase ``scale`` times its nominal length."""
    policies = [parse_policy(part.policy_text(changed=changed)) for changed in (False, True)]
    before, after = (_limits(part, policy) for policy in policies)
    sent, received = policies[0].total, policies[0].ingress
    totals = {TransferDirection.SENT: sent, **({TransferDirection.RECEIVED: received.total} if received else {})}
    return Scenario(part, totals, before, after, _spans(part.story, scale))


def _limits(part: Part, policy: TrafficPolicy) -> dict[str, ResolvedClass]:
    received = policy.received()
    resolved = {
        TransferDirection.SENT: policy.resolved(),
        TransferDirection.RECEIVED: received.resolved() if received else (),
    }
    return {lane.name: next(c for c in resolved[lane.kind.way] if c.name == lane.name) for lane in part.lanes}


def _spans(story: tuple[Phase, ...], scale: float) -> tuple[PhaseSpan, ...]:
    spans, start, active, changed = [], 0.0, frozenset[str](), False
    for phase in story:
        length = phase.seconds * scale
        active = (active | ({phase.join} if phase.join else set())) - ({phase.end} if phase.end else set())
        changed = changed or phase.change_limits
        steady = start + min(_SETTLE_SECONDS, length * _SETTLE_SHARE)
        spans.append(PhaseSpan(phase, start, steady, start + length, active, changed))
        start += length
    return tuple(spans)
