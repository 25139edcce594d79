"""What an alert rule says: which value it looks at, of what, and from when on that is an alert."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from control_plane.domain.errors import InvalidError
from control_plane.domain.names import check_name

LOOK_BACK: Final = 900
"""Seconds of figures that there are."""
_LONGEST_FOR: Final = 86_400
_MOST_THRESHOLD: Final = 10**15
_MOST_LABELS: Final = 16
_MOST_CHANNELS: Final = 20
_LONGEST_TEXT: Final = 1000
_LONGEST_NAME: Final = 63
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,62}")
"""As Prometheus names labels."""
_PLACE: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_OWN_LABELS: Final = frozenset(("alertname", "tenant", "kind", "severity", "cluster", "policy", "class", "direction"))
FIELDS: Final = _OWN_LABELS | {"value", "threshold", "count", "of", "agents", "budget", "period", "used", "bytes"}
"""What templates can name."""


class AlertKind(StrEnum):
    """What a rule looks at."""

    THROTTLED = "throttled"
    """The share of a class's packets that had to wait, 0 to 1."""
    DROPPED = "dropped"
    """The share of its packets that were dropped, 0 to 1."""
    BELOW_GUARANTEE = "below-guarantee"
    """How many workloads had less than the class's rate although something of theirs waited, on average."""
    BUDGET = "budget"
    """What went through the class, as a share of all that its ceil lets through."""
    VOLUME_BUDGET = "volume-budget"
    """How much of a budget of bytes is used, as a share: 1 is all of it."""
    AGENTS_AWAY = "agents-away"
    """The share of a cluster's agents that are not connected, 0 to 1."""
    ROLLOUT_STUCK = "rollout-stuck"
    """Seconds for which a step of a rollout has run, beyond its soak time."""
    CERTIFICATE_EXPIRY = "certificate-expiry"
    """Seconds until the first certificate of a cluster's agents expires. The one kind for which less is worse."""

    @property
    def of_traffic(self) -> bool:
        """Whether it looks at the figures of lanes."""
        return self in (AlertKind.THROTTLED, AlertKind.DROPPED, AlertKind.BELOW_GUARANTEE, AlertKind.BUDGET)

    @property
    def scopes(self) -> frozenset[str]:
        """What a rule of this kind can be narrowed to."""
        if self.of_traffic:
            return frozenset(("cluster", "policy", "class", "direction"))
        others = {AlertKind.ROLLOUT_STUCK: "policy", AlertKind.VOLUME_BUDGET: "budget"}
        return frozenset((others.get(self, "cluster"),))

    def exceeds(self, value: float, threshold: float) -> bool:
        """Whether a value is an alert."""
        return value < threshold if self is AlertKind.CERTIFICATE_EXPIRY else value > threshold

    def tell(self, value: float) -> str:
        """A value as people read it."""
        if self in (AlertKind.ROLLOUT_STUCK, AlertKind.CERTIFICATE_EXPIRY):
            seconds = int(value)
            return (
                f"{seconds} s"
                if abs(seconds) < 120
                else f"{seconds // 60} min"
                if seconds < 7200
                else f"{seconds // 3600} h"
            )
        return f"{value:.3g}" if self is AlertKind.BELOW_GUARANTEE else f"{value:.1%}"


class AlertSeverity(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """A value beyond ``threshold`` for ``hold`` seconds is an alert, one for each cluster, policy or lane.

    ``scope`` narrows it: ``cluster``, ``policy``, ``class``, ``direction``, ``budget``, as the kind has them.
    ``over``: seconds over which traffic is looked at. ``labels`` and ``annotations`` are templates: ``{{ value }}`` and
    the like are replaced (:data:`FIELDS`). ``channels``: who is told; empty: all that there are.
    """

    kind: AlertKind
    threshold: float
    scope: Mapping[str, str] = field(default_factory=dict)
    over: int = 60
    hold: int = 0
    severity: AlertSeverity = AlertSeverity.WARNING
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises :class:`InvalidError`."""
        if not 0 <= self.threshold <= _MOST_THRESHOLD:
            raise InvalidError("The threshold is out of range.", "Write a number from 0 on.")
        if self.kind in (AlertKind.THROTTLED, AlertKind.DROPPED, AlertKind.AGENTS_AWAY) and self.threshold >= 1:
            raise InvalidError(
                f"The threshold of {self.kind} is a share: nothing is more than 1.", "Write one below 1, as 0.2."
            )
        if not 1 <= self.over <= LOOK_BACK:
            raise InvalidError(f"Figures are there for {LOOK_BACK} seconds.", f"Write over as 1 to {LOOK_BACK}.")
        if not 0 <= self.hold <= _LONGEST_FOR:
            raise InvalidError(f"for is 0 to {_LONGEST_FOR} seconds.", "Write another time.")
        if others := set(self.scope) - self.kind.scopes:
            raise InvalidError(
                f"A rule of the kind {self.kind} cannot be narrowed to a {min(others)[:_LONGEST_NAME]}.",
                f"It can be to {', '.join(sorted(self.kind.scopes))}.",
            )
        if any(not 0 < len(text) <= _LONGEST_NAME or not text.isprintable() for text in self.scope.values()):
            raise InvalidError("A name in scope is empty or too long.", f"Write {_LONGEST_NAME} characters at most.")
        _check_labels(self.labels)
        _check_texts(self.labels)
        _check_texts(self.annotations)
        if len(self.channels) > _MOST_CHANNELS:
            raise InvalidError("There are too many channels.", f"Name {_MOST_CHANNELS} at most.")
        for channel in self.channels:
            check_name(channel, "a channel")

    def covers(self, labels: Mapping[str, str]) -> bool:
        """Whether it is about what has these labels."""
        return all(labels.get(key) == value for key, value in self.scope.items())

    def to_document(self) -> dict[str, Any]:
        """As it is stored. JSON's own values."""
        document = {**asdict(self), "channels": list(self.channels)}
        document["kind"], document["severity"] = self.kind.value, self.severity.value
        document["for"] = document.pop("hold")
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> AlertRule:
        """The rule that was stored."""
        values = {**document, "kind": AlertKind(document["kind"]), "severity": AlertSeverity(document["severity"])}
        values["hold"], values["channels"] = values.pop("for"), tuple(document["channels"])
        return cls(**values)


def _check_labels(labels: Mapping[str, str]) -> None:
    for name in labels:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            raise InvalidError(f"{name[:70]!r} is not a label's name.", "Write letters, digits and underscores.")
        if name in _OWN_LABELS:
            raise InvalidError(f"Every alert has the label {name} already.", "Choose another name.")


def _check_texts(texts: Mapping[str, str]) -> None:
    if len(texts) > _MOST_LABELS:
        raise InvalidError("There are too many labels or annotations.", f"Write {_MOST_LABELS} of each at most.")
    for name, text in texts.items():
        if not _LABEL.fullmatch(name) or len(text) > _LONGEST_TEXT:
            raise InvalidError(
                f"{name[:70]!r} has a text that is too long, or is no name.",
                f"Write {_LONGEST_TEXT} characters at most.",
            )
        if not text.replace("\n", "").isprintable():
            raise InvalidError(f"{name} has characters that cannot be printed.", "Write text.")
        for found in _PLACE.finditer(text):
            if found[1].strip() not in FIELDS:
                raise InvalidError(
                    f"{found[0][:70]!r} in {name} is nothing that an alert has.",
                    f"It has {', '.join(sorted(FIELDS))}.",
                )


def render(text: str, values: Mapping[str, str]) -> str:
    """A template with its places filled; what an alert does not have is empty."""
    return _PLACE.sub(lambda found: values.get(found[1].strip(), ""), text)
