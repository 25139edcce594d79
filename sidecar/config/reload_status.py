"""The status of the policy: what is in force, since when, and the result of the last reload. For health, metrics and
log."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum

from daemon.prometheus_text import MetricFamily, counter, gauge


class ReloadResult(StrEnum):
    """The result of reading the policy again."""

    APPLIED = "applied"
    """It is in force, whether changed or not."""
    REFUSED = "refused"
    """It is invalid; nothing was changed."""
    FAILED = "failed"
    """It could not be applied, and the old one was restored."""


class ReloadStatus:
    """Records the policy's status. Times are of the system's clock."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._digest = ""
        self._in_force_since = 0.0
        self._reloads: Tally[ReloadResult] = Tally(dict.fromkeys(ReloadResult, 0))
        self._refused: str | None = None
        self._refused_at = 0.0

    def begin(self, digest: str) -> None:
        """The first policy is in force."""
        self._digest, self._in_force_since = digest, self._now()

    def applied(self, digest: str) -> None:
        """A policy that was read again is in force. An unchanged one has been in force all the time."""
        self._reloads[ReloadResult.APPLIED] += 1
        self._refused = None
        if digest != self._digest:
            self.begin(digest)

    def refused(self, reason: str, result: ReloadResult) -> None:
        """A policy that was read again was rejected."""
        self._reloads[result] += 1
        self._refused, self._refused_at = reason, self._now()

    @property
    def problem(self) -> str | None:
        """The problem of the wanted policy, and that it is not in force; None: no problem."""
        if self._refused is None:
            return None
        read, since = _said(self._refused_at), _said(self._in_force_since)
        return f"The policy read at {read} is not used, that of {since} stays in force: {self._refused}"

    def collect(self) -> Iterator[MetricFamily]:
        """The metrics."""
        info = gauge("podlane_policy_info", "The policy in force.", "hash")
        info.add(1, self._digest)
        since = gauge(
            "podlane_policy_in_force_timestamp_seconds", "When the policy in force came into force (Unix time)."
        )
        since.add(self._in_force_since)
        refused = gauge("podlane_policy_refused", "1: the policy that is wanted now is not used.")
        refused.add(self._refused is not None)
        reloads = counter("podlane_policy_reloads", "Policies that were read again.", "result")
        for result, number in self._reloads.items():
            reloads.add(number, result)
        yield from (info, since, refused, reloads)


def _said(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
