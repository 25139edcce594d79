"""The demo's story as data: five lanes to one server address, and what happens when. Pure.

Lanes join one after another, most patient first, so that each phase shows one thing: borrowing up to the ceil, the
priority order, guarantees when everybody wants everything, a change of limits, and bandwidth handed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import Final

from tc_core.policy import TrafficPolicy
from tc_core.policy_file import parse_policy
from tc_core.units import Rate

TLS_PORT: Final = 443
HTTP_PORT: Final = 80
HTTP2_PORT: Final = 8080
RAW_PORT: Final = 8730
TLS_NAMES: Final = ("api.shop.test", "*.video.test")
"""What the certificate is good for; .test never exists outside (RFC 6761)."""

MIN_SECONDS: Final = 10.0
"""Shorter phases leave less than a second to measure in."""
MAX_SECONDS: Final = 600.0
_SETTLE_SECONDS: Final = 1.5
"""TCP connects, is detected and fills its class well within this; longer than one sliding window of the rates."""
_SETTLE_SHARE: Final = 0.4
"""In a shortened demo, at most this part of a phase is left out as settling."""


class Client(Enum):
    """The program that uploads in a lane."""

    CURL = "curl"
    CAT = "cat"


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane: the class's name, how it is recognised, and the arguments of the program that uploads in it."""

    name: str
    criterion: str
    value: str
    client: Client
    arguments: tuple[str, ...] = ()
    resolve: tuple[str, int] | None = None


LANES: Final = (
    Lane(
        "api",
        "sni",
        "api.shop.test",
        Client.CURL,
        ("--http2", "https://api.shop.test/orders"),
        ("api.shop.test", TLS_PORT),
    ),
    Lane(
        "video",
        "sni",
        "*.video.test",
        Client.CURL,
        ("--http1.1", "https://eu.video.test/upload"),
        ("eu.video.test", TLS_PORT),
    ),
    Lane("web", "host", "www.shop.test", Client.CURL, ("--header", "Host: www.shop.test", "http://{server}/form")),
    Lane(
        "events",
        ":authority",
        "events.shop.test",
        Client.CURL,
        ("--http2-prior-knowledge", f"http://events.shop.test:{HTTP2_PORT}/stream"),
        ("events.shop.test", HTTP2_PORT),
    ),
    Lane("backup", "port", str(RAW_PORT), Client.CAT),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a lane is held to: guaranteed rate and ceil."""

    rate: Rate
    ceil: Rate


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the demo. At its start a lane may join or end, or the limits change; then everything settles."""

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


_STORY: Final = (
    Phase("backup alone", "it borrows up to its ceil", 4, join="backup"),
    Phase("video joins", "it is lent to first, backup gets what is left", 4.5, join="video"),
    Phase("web joins", "both are lent to in proportion to their guarantees", 4, join="web"),
    Phase("events joins", "it goes before video and web", 4, join="events"),
    Phase("api joins", "everybody wants everything, and gets what is guaranteed", 6.5, join="api"),
    Phase("limits change", "api is cut, video is promised more; no connection breaks", 7, change_limits=True),
    Phase("video ends", "the others borrow what it leaves", 6, end="video"),
)
DEFAULT_SECONDS: Final = sum(phase.seconds for phase in _STORY)


@dataclass(frozen=True, slots=True)
class Span:
    """A phase on the clock (seconds from the start): ``start`` to ``end``, measured from ``steady`` on."""

    phase: Phase
    start: float
    steady: float
    end: float
    active: frozenset[str]
    changed: bool

    def limits(self, scenario: Scenario) -> dict[str, Limits]:
        """The limits in force during this phase."""
        return scenario.after if self.changed else scenario.before


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that is known before the demo starts."""

    total: Rate
    lanes: tuple[Lane, ...]
    before: dict[str, Limits]
    after: dict[str, Limits]
    spans: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        return self.spans[-1].end

    @property
    def change_at(self) -> float:
        """When the limits change."""
        return next(span.start for span in self.spans if span.changed)


def policy_text(*, changed: bool) -> str:
    """The demo's policy file, before or after the change of limits."""
    name = "policy-changed.yaml" if changed else "policy.yaml"
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def make_scenario(seconds: float = DEFAULT_SECONDS) -> Scenario:
    """The story stretched or shortened to ``seconds``."""
    policies = [parse_policy(policy_text(changed=changed)) for changed in (False, True)]
    before, after = (_limits(policy) for policy in policies)
    return Scenario(policies[0].total, LANES, before, after, _spans(seconds / DEFAULT_SECONDS))


def _limits(policy: TrafficPolicy) -> dict[str, Limits]:
    return {c.name: Limits(c.rate, c.ceil) for c in policy.resolved()}


def _spans(scale: float) -> tuple[Span, ...]:
    spans, start, active, changed = [], 0.0, frozenset[str](), False
    for phase in _STORY:
        length = phase.seconds * scale
        active = (active | ({phase.join} if phase.join else set())) - ({phase.end} if phase.end else set())
        changed = changed or phase.change_limits
        steady = start + min(_SETTLE_SECONDS, length * _SETTLE_SHARE)
        spans.append(Span(phase, start, steady, start + length, active, changed))
        start += length
    return tuple(spans)
