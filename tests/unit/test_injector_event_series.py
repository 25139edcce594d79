"""Which Events are written when, and how many at most; on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from daemon.kubernetes.event_series import MOST, RETRY_INTERVAL, WRITE_INTERVAL, EventSeries, Happening, Owner, Series
from injector.pod.happenings import EventReason

OWNER = Owner("apps/v1", "ReplicaSet", "web", "1")
REFUSED = Happening("shop", OWNER, EventReason.REFUSED, "No.", is_warning=True)
INJECTED = Happening("shop", OWNER, EventReason.INJECTED, "Yes.", is_warning=False)
BEGINNING = datetime(2026, 11, 28, tzinfo=UTC)


@dataclass
class Clocked:
    """The series, and a worker that writes whatever is due."""

    series: EventSeries = field(default_factory=EventSeries)
    seconds: float = 0.0
    writes: list[tuple[float, Series, int]] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.seconds)

    def add(self, happening: Happening = REFUSED) -> bool:
        return self.series.add(happening, self.seconds, self.now)

    def work(self) -> None:
        while (found := self.series.next()) and found.due <= self.seconds:
            self.writes.append((self.seconds, found, found.count))
            self.series.wrote(found, found.count, self.seconds)


@pytest.fixture
def clocked() -> Clocked:
    return Clocked()


def test_the_first_is_written_at_once_and_the_count_from_time_to_time(clocked: Clocked) -> None:
    """A ReplicaSet tries again after 5 ms, and then twice as long each time, for ever."""
    delay, tries = 0.005, 0
    while clocked.seconds < 3000:
        assert clocked.add()
        tries += 1
        clocked.work()
        clocked.seconds += delay
        delay = min(2 * delay, 60.0)
    times = [at for at, _, _ in clocked.writes]
    assert times[0] == 0
    assert all(later - earlier > WRITE_INTERVAL - 0.001 for earlier, later in pairwise(times))
    assert len({series.id for _, series, _ in clocked.writes}) == 1
    clocked.seconds += WRITE_INTERVAL
    clocked.work()
    _, last, count = clocked.writes[-1]
    assert (count, last.first) == (tries, BEGINNING)
    assert last.last > BEGINNING + timedelta(seconds=2900)
    assert len(clocked.writes) <= 3000 / WRITE_INTERVAL + 2
    assert clocked.series.next() is None


def test_what_grew_while_it_was_written_is_written_again(clocked: Clocked) -> None:
    clocked.add()
    series = clocked.series.next()
    assert series is not None
    clocked.add()
    clocked.series.wrote(series, 1, clocked.seconds)
    assert clocked.series.next() is series
    assert series.due == WRITE_INTERVAL


def test_a_failed_write_is_tried_again_soon(clocked: Clocked) -> None:
    clocked.add()
    series = clocked.series.next()
    assert series is not None
    clocked.series.failed(series, clocked.seconds)
    clocked.work()
    assert clocked.writes == []
    clocked.seconds += RETRY_INTERVAL
    clocked.work()
    assert clocked.writes == [(RETRY_INTERVAL, series, 1)]


def test_other_objects_reasons_and_messages_are_other_events(clocked: Clocked) -> None:
    others = [
        replace(REFUSED, message="Never."),
        replace(REFUSED, namespace="other"),
        replace(REFUSED, owner=replace(OWNER, uid="2")),
        INJECTED,
    ]
    for happening in (REFUSED, *others, REFUSED):
        clocked.add(happening)
    clocked.work()
    assert {series.happening: count for _, series, count in clocked.writes} == {REFUSED: 2} | dict.fromkeys(others, 1)


def test_warnings_are_written_first(clocked: Clocked) -> None:
    clocked.add(INJECTED)
    clocked.add(REFUSED)
    clocked.work()
    assert [series.happening for _, series, _ in clocked.writes] == [REFUSED, INJECTED]


def test_after_an_hour_it_is_another_event(clocked: Clocked) -> None:
    clocked.add()
    clocked.work()
    clocked.seconds = 3599
    clocked.add()
    clocked.work()
    clocked.seconds += 3600
    clocked.add()
    clocked.work()
    (_, first, _), (_, second, count), (_, third, anew) = clocked.writes
    assert first is second
    assert third.id != first.id
    assert (count, anew, third.first) == (2, 1, clocked.now)


def test_there_is_a_bound_and_what_is_not_written_yet_stays(clocked: Clocked) -> None:
    many = [replace(REFUSED, message=str(number)) for number in range(MOST)]
    assert all(map(clocked.add, many))
    assert not clocked.add(), "all of them are to be written yet"
    assert clocked.add(many[0]), "one that is known is counted"
    for _ in range(2):
        series = clocked.series.next()
        assert series is not None
        clocked.series.wrote(series, series.count, clocked.seconds)
    assert clocked.add(replace(REFUSED, message="new"))
    assert clocked.add(replace(REFUSED, message="newer"))
    assert not clocked.add(replace(REFUSED, message="newest"))
    clocked.work()
    assert len(clocked.writes) == MOST
    assert clocked.add(), "of what is written the oldest is forgotten"
