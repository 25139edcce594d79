"""The data model of the demo: a class's transfer, a phase and a part, and their schedule. Pure.

The parts themselves are in :mod:`podlane.demo.parts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from importlib.resources import files
from typing import Any, Final

from traffic_policy.policy import ResolvedClass, TrafficPolicy
from traffic_policy.policy_file import parse_document, parse_policy, policy_from_document
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

    ``colour`` is that of the table and the plot; ``note`` is for the plot. ``pod``: where there are several. ``pace``:
    what the program wants to upload, in bytes per second; 0: all it can.
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
    pod: str = ""
    pace: int = 0


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
    With ``pods`` one agent holds them, and the files are workloads with a policy each.
    """

    name: str
    title: str
    subtitle: str
    policies: tuple[str, ...]
    lanes: tuple[DemoLane, ...]
    story: tuple[Phase, ...]
    pods: tuple[str, ...] = ()

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

    def policies_by_pod(self, *, changed: bool = False) -> dict[str, TrafficPolicy]:
        """The policy of each Pod; that of the only one is under an empty name."""
        text = self.policy_text(changed=changed)
        if not self.pods:
            return {"": parse_policy(text)}
        document: Any = parse_document(text)
        return {each["name"]: policy_from_document(each["policy"]) for each in document["workloads"]}


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
    """Everything about a part that is known before it starts.

    ``totals`` has the directions with classes, for all Pods together, ``pod_totals`` the same for each Pod.
    """

    part: Part
    totals: Mapping[TransferDirection, Rate]
    pod_totals: Mapping[tuple[str, TransferDirection], Rate]
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

    def total(self, lane: DemoLane) -> Rate:
        """What a lane shares with the others of its Pod and way."""
        return self.pod_totals[lane.pod, lane.kind.way]

    def possible(self, lanes: Collection[DemoLane], limits: Mapping[str, ResolvedClass]) -> int:
        """What lanes of one way can have together, in bit/s."""
        ceils = Counter[str]()
        for lane in lanes:
            ceils[lane.pod] += limits[lane.name].ceil.bits_per_second
        totals = {lane.pod: self.total(lane).bits_per_second for lane in lanes}
        return sum(min(totals[pod], ceil) for pod, ceil in ceils.items())


def make_scenario(part: Part, scale: float = 1.0) -> Scenario:
    """The part's schedule, with every phase ``scale`` times its nominal length."""
    policies = [part.policies_by_pod(changed=changed) for changed in (False, True)]
    before, after = (_limits(part, each) for each in policies)
    pod_totals = {(pod, TransferDirection.SENT): policy.total for pod, policy in policies[0].items()}
    for pod, policy in policies[0].items():
        if policy.ingress is not None:
            pod_totals[pod, TransferDirection.RECEIVED] = policy.ingress.total
    totals = Counter[TransferDirection]()
    for (_, way), total in pod_totals.items():
        totals[way] += total.bits_per_second
    together = {way: Rate(total) for way, total in totals.items()}
    return Scenario(part, together, pod_totals, before, after, _spans(part.story, scale))


def _limits(part: Part, policies: Mapping[str, TrafficPolicy]) -> dict[str, ResolvedClass]:
    found = {}
    for lane in part.lanes:
        policy = policies[lane.pod]
        one_way = policy.received() if lane.kind.way is TransferDirection.RECEIVED else policy
        found[lane.name] = next(c for c in one_way.resolved() if c.name == lane.name) if one_way else None
    return {name: limits for name, limits in found.items() if limits is not None}


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
