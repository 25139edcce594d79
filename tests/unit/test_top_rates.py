"""From looks at counters to what ``podlane top`` shows: rates, shares, the last minute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podlane.top.rates import Frame, RateTracker, pause_after_look
from podlane.top.readings import ClassReading, Reading, duration_words
from tc_core.stats import ClassStats
from traffic_policy.units import Rate

MBIT = 1_000_000
API = ClassReading("1:101", "api", ClassStats(), Rate(20 * MBIT), Rate(80 * MBIT), 1, 0, 0)
REST = ClassReading("1:1ff", "default", ClassStats(), Rate(MBIT), Rate(100 * MBIT), 7, 0, 0)


def reading(at: float, *classes: ClassReading, total: Rate | None = Rate(100 * MBIT)) -> Reading:  # noqa: B008
    return Reading(at, "eth0", total, classes)


def api(**stats: int) -> ClassReading:
    return replace(API, stats=ClassStats(**stats))


def watched(*looks: Reading, interval: float = 1.0) -> Frame:
    watch = RateTracker(interval)
    for look in looks:
        watch.add(look)
    return watch.frame()


def test_what_happened_between_two_looks() -> None:
    before = replace(api(bytes=1000, packets=10, drops=1, overlimits=5, lended=4, borrowed=2), opened=7)
    after = replace(
        api(bytes=5_001_000, packets=4010, drops=21, overlimits=45, lended=304, borrowed=102,
            backlog_bytes=50_000, backlog_packets=34),
        opened=10, active=3,
    )  # fmt: skip
    frame = watched(reading(5.0, before), reading(7.0, after), interval=2.0)
    [row] = frame.rows
    assert frame.seconds == 2.0
    assert row.now == Rate(20 * MBIT)
    assert row.of_ceil == 0.25
    assert row.borrowed == 0.25
    assert (row.packets, row.drops, row.overlimits, row.opened) == (2000, 10, 20, 1.5)
    assert row.backlog_seconds == pytest.approx(0.02), "50 kB at its 20 Mbit/s"
    assert row.throttled == 0.5


def test_a_class_that_was_read_at_another_moment_has_its_own_interval() -> None:
    """An agent that just changes a Pod's lanes reads its counters a second later."""
    before, after = replace(api(), at=4.0), replace(api(bytes=5_000_000), at=6.0)
    [row] = watched(reading(5.0, before), reading(6.0, after)).rows
    assert row.now == Rate(20 * MBIT)
    [row] = watched(reading(5.0, before), reading(6.0, before)).rows
    assert row.now == Rate(0), "not read since"


def test_one_look_knows_limits_and_backlog_only() -> None:
    [row] = watched(reading(1.0, api(bytes=9, backlog_bytes=2_500_000, backlog_packets=1))).rows
    assert row.now == Rate(0)
    assert (row.of_ceil, row.borrowed, row.opened) == (None, None, None)
    assert row.backlog_seconds == 1.0
    assert row.minute == (None,) * 60


@pytest.mark.parametrize("interval", [0.1, 0.25, 1.0, 5.0])
def test_a_rate_is_the_mean_of_the_interval_and_not_of_all_looks(interval: float) -> None:
    """10 Mbit/s for long, then 30: after one interval nothing of the old rate is left."""
    watch = RateTracker(interval)
    step = min(0.25, interval)
    sent, at = 0, 0.0
    for rate, seconds in ((10, 20.0), (30, interval)):
        for _ in range(round(seconds / step)):
            at += step
            sent += round(rate * MBIT / 8 * step)
            watch.add(reading(at, api(bytes=sent)))
    frame = watch.frame()
    assert frame.rows[0].now.bits_per_second == pytest.approx(30 * MBIT, rel=0.001)
    assert frame.seconds == pytest.approx(interval)


def test_a_late_look_is_no_other_interval() -> None:
    looks = [reading(at, api(bytes=round(at * 1000))) for at in (0.0, 0.26, 0.53, 0.79, 1.07, 1.32)]
    frame = watched(*looks)
    assert frame.seconds == pytest.approx(1.06)


def test_throttled_is_the_share_of_looks_at_which_something_waited() -> None:
    watch = RateTracker(1.0)
    for number in range(80):  # 20 s, of which the last ten count: there every second look
        waits = number >= 40 and number % 2
        watch.add(reading(number / 4, api(backlog_packets=int(waits)), REST))
    frame = watch.frame()
    assert [row.throttled for row in frame.rows] == [0.5, 0.0]
    assert frame.totals.throttled == 0.5


def test_a_class_that_is_made_anew_counts_from_nothing() -> None:
    [row] = watched(
        reading(0.0, replace(api(bytes=10**9, packets=10**6, borrowed=50), opened=50)),
        reading(1.0, replace(api(bytes=125_000, packets=100, borrowed=3, lended=1), opened=2)),
    ).rows
    assert row.now == Rate(MBIT)
    assert (row.packets, row.borrowed, row.opened) == (100, 0.75, 2)


def test_a_class_that_is_new_is_compared_with_nothing() -> None:
    frame = watched(reading(0.0, REST), reading(1.0, api(bytes=125_000), REST))
    assert [(row.name, row.now) for row in frame.rows] == [("api", Rate(MBIT)), ("default", Rate(0))]


def test_totals_are_of_what_is_sent() -> None:
    arriving = replace(API, key="ifb 1:101", arrives=True, stats=ClassStats(bytes=10**7, packets=5))
    start = reading(0.0, API, replace(arriving, stats=ClassStats()), REST)
    end = reading(
        1.0,
        replace(api(bytes=MBIT, packets=900, backlog_bytes=1250, backlog_packets=1), active=2, opened=3),
        arriving,
        replace(REST, stats=ClassStats(bytes=MBIT, packets=100), active=1, opened=1),
    )
    frame = watched(start, end)
    assert [row.name for row in frame.rows] == ["api", "↓ api", "default"]
    totals = frame.totals
    assert totals.now == Rate(16 * MBIT)
    assert totals.of_ceil == 0.16
    assert (totals.packets, totals.reading.rate, totals.reading.active, totals.opened) == (1000, Rate(21 * MBIT), 3, 4)
    assert totals.backlog_seconds == pytest.approx(0.0001)


def test_without_limits_there_are_no_shares() -> None:
    bare = ClassReading("eth0", "(not shaped)", ClassStats())
    frame = watched(
        reading(0.0, bare, total=None), reading(1.0, replace(bare, stats=ClassStats(bytes=125)), total=None)
    )
    assert frame.rows[0].now == frame.totals.now == Rate(1000)
    for row in (*frame.rows, frame.totals):
        assert (row.of_ceil, row.backlog_seconds, row.opened, row.reading.rate) == (None, None, None, None)


def test_the_same_look_twice_counts_once_and_an_older_one_begins_anew() -> None:
    watch = RateTracker(1.0)
    watch.add(reading(10.0, api(bytes=0)))
    watch.add(reading(11.0, api(bytes=125_000)))
    watch.add(reading(11.0, api(bytes=125_000)))
    assert watch.frame().rows[0].now == Rate(MBIT)
    watch.add(reading(2.0, api(bytes=10**9)))  # another machine, or this one started anew
    frame = watch.frame()
    assert (frame.seconds, frame.rows[0].now) == (0.0, Rate(0))


def test_the_last_minute_second_by_second() -> None:
    watch = RateTracker(1.0)
    sent = 0
    for second in range(101):
        watch.add(reading(second, api(bytes=sent)))
        frame = watch.frame()
        sent += second * 125
    assert frame.rows[0].minute == tuple(second * 1000 for second in range(40, 100))
    assert frame.totals.minute == frame.rows[0].minute


def test_a_long_interval_stands_for_all_its_seconds() -> None:
    watch = RateTracker(5.0)
    for number in range(4):
        watch.add(reading(number * 5.0, api(bytes=number * 625_000)))
        frame = watch.frame()
    assert frame.rows[0].minute == (None,) * 45 + (MBIT,) * 15


def test_what_is_remembered_is_bounded() -> None:
    watch = RateTracker(0.5)
    for number in range(300):
        watch.add(reading(number / 2, replace(API, key=f"c{number // 100}")))
        watch.frame()
    assert len(watch._looks) < 24
    assert len(watch._minutes) == 2
    assert len(watch._minutes[""]) <= 61


@pytest.mark.parametrize(
    ("took", "interval", "pause"),
    [(0.002, 1.0, 0.25), (0.002, 0.1, 0.1), (0.06, 1.0, 0.6), (2.0, 1.0, 1.0)],
    ids=["usual", "a short interval", "many classes", "no answer for long"],
)
def test_looking_takes_a_tenth_of_the_time_at_most(took: float, interval: float, pause: float) -> None:
    assert pause_after_look(took, interval) == pytest.approx(pause)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m"),
        (185, "3m 5s"),
        (7800, "2h 10m"),
        (7205, "2h"),
        (446_400, "5d 4h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
