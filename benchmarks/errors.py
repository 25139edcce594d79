"""What can go wrong in a benchmark, as errors that say whose fault it is and what to do."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class BenchmarkError(PodlaneError):
    """The benchmark cannot be run as asked."""


class CandidateError(BenchmarkError):
    """A candidate cannot be started, or ended by itself; the text has its last words."""


class MeasurementError(BenchmarkError):
    """A measurement gave no figure: a tool failed, or said what is not understood."""
