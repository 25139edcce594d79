"""What the load generators print becomes figures, or an error that quotes it."""

from __future__ import annotations

import json

import pytest

from benchmarks import tools
from benchmarks.candidates.haproxy import release
from benchmarks.errors import MeasurementError

WRK = """\
Running 3s test @ http://web.example.com/s
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.21ms    8.10ms 120.99ms   91.01%
    Req/Sec    11.40k     1.52k   14.01k    70.00%
  Latency Distribution
     50%    2.25ms
     75%    5.40ms
     90%   12.02ms
     99%    1.20s
  34124 requests in 3.01s, 42.63MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  11336.90
"""

H2LOAD = """\
finished in 1.50s, 4275.00 req/s, 4.50MB/s
requests: 6500 total, 6500 started, 6420 done, 6412 succeeded, 8 failed, 3 errored, 0 timeout
status codes: 6412 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def test_wrk() -> None:
    found = tools.read_wrk(WRK)
    assert found == tools.Requests(34124, 3.01, 1 + 2 + 3 + 4 + 5, 2250.0, 1.2e6)
    assert found.per_second == pytest.approx(34124 / 3.01)


def test_wrk_without_errors_has_none() -> None:
    assert tools.read_wrk("  10 requests in 500.00ms, 1KB read\n") == tools.Requests(10, 0.5, 0, None, None)


def test_h2load() -> None:
    assert tools.read_h2load(H2LOAD, seconds=9) == tools.Requests(6412, 1.5, 11, None, None)


def test_iperf3_counts_what_arrived() -> None:
    report = {"end": {"sum_sent": {"bytes": 9e9, "seconds": 1}, "sum_received": {"bytes": 250_000_000, "seconds": 2.0}}}
    assert tools.read_iperf3(json.dumps(report)).gbit_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("read", "text", "quoted"),
    [
        (tools.read_wrk, "unable to connect to web.example.com:http Connection refused\n", "Connection refused"),
        (lambda text: tools.read_h2load(text, seconds=1), "Could not resolve host", "Could not resolve host"),
        (tools.read_iperf3, '{"error": "unable to connect to server"}', "unable to connect to server"),
        (tools.read_iperf3, "iperf3: interrupted", "interrupted"),
    ],
)
def test_no_report_is_an_error_that_quotes(read: object, text: str, quoted: str) -> None:
    with pytest.raises(MeasurementError, match=quoted):
        read(text)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", (2, 6)),
        ("HAProxy version 3.0.11-1 2025/01/01", (3, 0)),
        ("nonsense", (0, 0)),
    ],
)
def test_haproxy_release(line: str, expected: tuple[int, int]) -> None:
    assert release(line) == expected
