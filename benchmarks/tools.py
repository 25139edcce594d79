"""The load generators' command lines, and what they print turned into figures. Pure: nothing is run here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.errors import MeasurementError

_MICROSECONDS: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


@dataclass(frozen=True, slots=True)
class Requests:
    """What wrk or h2load did: requests that were answered, in seconds, errors, latencies in microseconds."""

    count: int
    seconds: float
    errors: int
    p50: float | None
    p99: float | None

    @property
    def per_second(self) -> float:
        return self.count / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Bulk:
    """What iperf3 did: bytes that the receiver got, in seconds."""

    received: int
    seconds: float

    @property
    def gbit_s(self) -> float:
        return self.received * 8 / self.seconds / 1e9 if self.seconds else 0.0


def wrk(url: str, *, connections: int, seconds: int, headers: tuple[str, ...] = ()) -> list[str]:
    """One thread; whole seconds, as wrk takes them."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}", "--latency", "--timeout", "10"]
    return ["wrk", *options, *(word for header in headers for word in ("-H", header)), url]


def read_wrk(text: str) -> Requests:
    """The report of ``wrk --latency``. Raises :class:`MeasurementError` when it is none."""
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)\b", text)
    if total is None:
        raise MeasurementError(f"wrk reported no requests: {text.strip()[-400:]!r}")
    errors = sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", text))
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)", text):
        errors += int(bad[1])
    seconds = float(total[2]) * _MICROSECONDS[total[3]] / 1e6
    return Requests(int(total[1]), seconds, errors, _percentile(text, 50), _percentile(text, 99))


def _percentile(text: str, percent: int) -> float | None:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\b", text, re.MULTILINE)
    return float(found[1]) * _MICROSECONDS[found[2]] if found else None


def iperf3(address: str, *, streams: int, seconds: int, down: bool) -> list[str]:
    """A client that sends (``down``: receives) for whole seconds, and reports JSON."""
    return ["iperf3", "-c", address, "-J", "-t", str(seconds), "-P", str(streams), *(["-R"] if down else [])]


def read_iperf3(text: str) -> Bulk:
    """The JSON report of iperf3. Raises :class:`MeasurementError` with its error when it has one."""
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        raise MeasurementError(f"iperf3 reported no JSON: {text.strip()[-400:]!r}") from None
    if "error" in report:
        raise MeasurementError(f"iperf3: {report['error']}")
    received = report["end"]["sum_received"]
    return Bulk(int(received["bytes"]), float(received["seconds"]))


def h2load(url: str, *, connections: int, streams: int, seconds: int) -> list[str]:
    """One thread, ``streams`` concurrent requests per connection, for whole seconds."""
    return ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", "--warm-up-time=0", url]


def read_h2load(text: str, *, seconds: float) -> Requests:
    """The report of h2load. Its latencies are mean and maximum only, so there are no percentiles."""
    counts = re.search(
        r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored", text
    )
    if counts is None:
        raise MeasurementError(f"h2load reported no requests: {text.strip()[-400:]!r}")
    finished = re.search(r"finished in ([\d.]+)(us|ms|s|m)\b", text)
    took = float(finished[1]) * _MICROSECONDS[finished[2]] / 1e6 if finished else seconds
    return Requests(int(counts[1]), took, int(counts[2]) + int(counts[3]), None, None)
