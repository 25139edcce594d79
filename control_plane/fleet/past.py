"""What went through lanes longer ago than memory goes: Prometheus knows, which reads our metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from control_plane.domain.errors import InvalidError, StateConflictError, TooManyError
from traffic_policy.errors import PodlaneError

METRIC: Final = "podlane_control_plane_lane_{}_total"
"""With the labels tenant, policy, lane and direction."""
_LABELS: Final = ("policy", "lane", "direction")
_MEAN: Final = 240
"""Seconds over which rates are means, at least: four times the longest interval at which Prometheus is used to ask."""
_MOST_POINTS: Final = 1000
"""Of a lane."""
_MOST_VALUES: Final = 200_000
_PATIENCE: Final = 10.0
_AT_ONCE: Final = 4
"""Questions: each waits in a thread that others need, too."""


class PrometheusError(PodlaneError):
    """Prometheus does not answer, or not as it should."""


@dataclass(frozen=True, slots=True)
class PastRange:
    """Times (Unix seconds) from ``since`` on, ``step`` seconds apart, up to ``until``."""

    since: int
    until: int
    step: int

    def __post_init__(self) -> None:
        """Raises :class:`InvalidError`."""
        if self.since >= self.until:
            raise InvalidError("since is not before until.", "Write Unix seconds.")
        if self.points > _MOST_POINTS:
            raise InvalidError(f"That are {self.points} points: {_MOST_POINTS} at most.", "Write a longer step.")

    @property
    def points(self) -> int:
        """How many there are."""
        return (self.until - self.since) // self.step + 1


@dataclass(frozen=True, slots=True)
class LaneHistory:
    """A lane: one of the counters a second, at each time; None: nobody knows."""

    policy: str
    lane: str
    direction: str
    values: Sequence[float | None]


class LanePast:
    """Any thread may use it. Blocks."""

    def __init__(self, url: str) -> None:
        """``url`` empty: there is none to ask."""
        self._url = url.rstrip("/")
        self._room = BoundedSemaphore(_AT_ONCE)

    def ask(self, tenant: str, counter: str, wanted: Sequence[str], over: PastRange) -> list[LaneHistory]:
        """``wanted``: policy, lane and direction; empty ones are any. Raises :class:`PrometheusError`,
        :class:`StateConflictError`, :class:`TooManyError`, :class:`InvalidError`.

        https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries
        """
        if not self._url:
            raise StateConflictError("There is no Prometheus to ask.", "Start with --prometheus URL.")
        # Names are no PromQL: JSON's strings are strings of it.
        matchers = [f"tenant={json.dumps(tenant)}"]
        matchers += [f"{name}={json.dumps(value)}" for name, value in zip(_LABELS, wanted, strict=True) if value]
        rate = f"rate({METRIC.format(counter)}{{{','.join(matchers)}}}[{max(over.step, _MEAN)}s])"
        query = f"sum by ({', '.join(_LABELS)}) ({rate})"
        if not self._room.acquire(blocking=False):
            raise TooManyError("Prometheus is asked too much at once.", 1)
        try:
            found = self._series(query, over)
        finally:
            self._room.release()
        if len(found) * over.points > _MOST_VALUES:
            raise InvalidError("That are too many lanes and points.", "Ask for one policy, or write a longer step.")
        return sorted((_lane(each, over) for each in found), key=lambda each: (each.policy, each.lane, each.direction))

    def _series(self, query: str, over: PastRange) -> list[dict[str, Any]]:
        asked = urlencode({"query": query, "start": over.since, "end": over.until, "step": over.step})
        try:
            with urlopen(f"{self._url}/api/v1/query_range?{asked}", timeout=_PATIENCE) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except HTTPError as error:
            raise PrometheusError(f"Prometheus answers with {error.code}. Look into its log.") from None
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise PrometheusError(f"Prometheus does not answer: {reason}. See whether it runs.") from None
        except (ValueError, KeyError, TypeError):
            raise PrometheusError("The answer is none of Prometheus'. Look at what --prometheus names.") from None
        return result


def _lane(series: dict[str, Any], over: PastRange) -> LaneHistory:
    values: list[float | None] = [None] * over.points
    for at, value in series["values"]:
        values[round((at - over.since) / over.step)] = float(value)
    policy, lane, direction = (series["metric"].get(name, "") for name in _LABELS)
    return LaneHistory(policy, lane, direction, values)
