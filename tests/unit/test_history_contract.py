"""One suite for both histories: what holds for the one in memory holds for the one on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from histories import ADA, AFTER, BEFORE, COMMANDS, HERE, START, done, failed, start, ticking, verified

from tc_core.errors import HistoryError
from tc_core.history import (
    Finished,
    History,
    MemoryHistory,
    Outcome,
    Result,
    SqliteHistory,
    Standing,
    Started,
    describe_self,
    this_namespace,
)

Open = Callable[[], History]


@pytest.fixture(params=["memory", "sqlite"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    with (
        MemoryHistory(ticking())
        if request.param == "memory"
        else SqliteHistory(tmp_path / "history.db", clock=ticking()) as opened
    ):
        yield opened


def test_what_is_read_is_what_was_written(history: History) -> None:
    started = history.start(
        interface="eth0", namespace=HERE, who=ADA, action="restore", before=BEFORE, after=AFTER, commands=COMMANDS
    )
    finished = history.finish(started, Result.FAILED, made=1, error="Invalid argument")
    assert started == Started(1, START, ADA, "eth0", HERE, "restore", BEFORE, AFTER, COMMANDS)
    assert finished == Finished(2, START + timedelta(seconds=1), 1, Result.FAILED, 1, "Invalid argument")
    assert history.events() == [started, finished]
    [record] = history.changes()
    assert (record.started, record.finished, record.result) == (started, finished, Outcome.FAILED)


def test_a_change_is_by_us_and_here_unless_told_otherwise(history: History) -> None:
    started = history.start(interface="eth0", action="clear", before=AFTER, after=None)
    assert (started.who, started.namespace, started.commands) == (describe_self(), this_namespace(), ())


@pytest.mark.parametrize("state", [
    pytest.param(None, id="nothing in force"),
    pytest.param({}, id="an empty state"),
    pytest.param({"a": [1, 2.5, True, None, "x", {"b": []}]}, id="all kinds of JSON"),
    pytest.param({"note": "größer 大 \x00 \" \\ \ud800"}, id="any text, also what is no UTF-8"),
    pytest.param({"count": 2**70}, id="numbers of any size"),
    pytest.param({"list": ["x" * 100] * 10_000}, id="a megabyte"),
])  # fmt: skip
def test_states_come_back_as_they_were(history: History, state: dict[str, Any] | None) -> None:
    started = start(history, before=state, after=state, commands=["caf\udce9"])
    again = history.change(started.number).started
    assert (again.before, again.after, again.commands) == (state, state, ("caf\udce9",))


def test_a_state_may_be_any_mapping_and_is_kept_apart_from_the_callers(history: History) -> None:
    classes = {"db": {"rate": "10Mbit"}}
    started = start(history, before=MappingProxyType(classes), after=None)
    classes["db"]["rate"] = "1Gbit"
    assert history.state_before(started.number) == {"db": {"rate": "10Mbit"}}


@pytest.mark.parametrize("state", [
    pytest.param({"rate": float("nan")}, id="not a number"),
    pytest.param({"rate": object()}, id="an object"),
    pytest.param({"ports": {22}}, id="a set"),
    pytest.param({("a", "b"): 1}, id="a key that is no text"),
])  # fmt: skip
def test_what_is_no_json_is_refused_and_leaves_no_trace(history: History, state: dict[Any, Any]) -> None:
    with pytest.raises(HistoryError, match="JSON"):
        start(history, after=state)
    assert history.events() == []
    assert start(history).number == 1


def test_times_are_kept_in_utc(history: History) -> None:
    draft = Started(
        0, datetime(2026, 3, 29, 3, 0, tzinfo=timezone(timedelta(hours=2))), ADA, "eth0", HERE, "apply", None, None, ()
    )
    event = history.append(draft)
    assert (event.at, event.at.tzinfo) == (datetime(2026, 3, 29, 1, 0, tzinfo=UTC), UTC)


def test_numbers_go_on_from_one_without_gaps(history: History) -> None:
    numbers = [done(history).number, start(history).number, failed(history, 0).number]
    assert numbers == [1, 3, 4]
    assert verified(history) == 5


def test_an_event_is_put_in_a_log_once(history: History) -> None:
    started = start(history)
    with pytest.raises(ValueError, match="number 1 of a log"):
        history.append(started)
    assert verified(history) == 1


def test_a_change_ends_once(history: History) -> None:
    started = done(history)
    with pytest.raises(HistoryError, match="Change 1 has ended already \\(done\\)"):
        history.finish(started, Result.FAILED, made=0)
    assert history.change(1).result is Outcome.DONE
    assert verified(history) == 2


@pytest.mark.parametrize("number", [0, 2, 3, -1, 10**30])
def test_only_what_was_started_can_end(history: History, number: int) -> None:
    started = done(history)  # 2 is its end, and no change
    with pytest.raises(HistoryError, match=f"There is no change {number} .* Start it first"):
        history.finish(replace(started, number=number), Result.DONE, made=0)
    assert verified(history) == 2


def test_changes_are_listed_newest_first_and_by_place(history: History) -> None:
    done(history, "eth0")  # 1
    failed(history, 1, "eth1")  # 3
    start(history, "eth0", "elsewhere")  # 5
    done(history, "eth0")  # 6

    def numbers(**query: Any) -> list[int]:
        return [record.number for record in history.changes(**query)]

    assert numbers() == [6, 5, 3, 1]
    assert numbers(interface="eth0") == [6, 5, 1]
    assert numbers(namespace=HERE) == [6, 3, 1]
    assert numbers(interface="eth0", namespace=HERE) == [6, 1]
    assert numbers(before=5) == [3, 1]
    assert numbers(before=10**30, limit=10**30) == [6, 5, 3, 1]
    assert numbers(limit=2) == [6, 5]
    assert numbers(before=6, limit=1, interface="eth0") == [5]
    assert numbers(limit=0) == []
    assert numbers(interface="eth9") == []
    with pytest.raises(ValueError, match="-1 changes"):
        numbers(limit=-1)
    assert [record.result for record in history.changes()] == [
        Outcome.DONE,
        Outcome.INTERRUPTED,
        Outcome.FAILED,
        Outcome.DONE,
    ]


def test_the_bare_log_can_be_read_in_parts(history: History) -> None:
    for _ in range(3):
        done(history)
    assert [event.number for event in history.events(after=2, limit=3)] == [3, 4, 5]
    assert history.events(after=6) == []
    assert len(history.events(after=-3)) == 6


@pytest.mark.parametrize(("number", "says"), [
    pytest.param(2, "Number 2 is the end of change 1. Ask for change 1", id="an end"),
    pytest.param(4, "no change 4 in .* The newest is 3; list them", id="the next one"),
    pytest.param(0, "no change 0", id="zero"),
    pytest.param(-1, "no change -1", id="negative"),
    pytest.param(10**30, "no change 1000", id="beyond 64 bits"),
])  # fmt: skip
def test_a_change_that_is_not_there(history: History, number: int, says: str) -> None:
    done(history)
    start(history)
    with pytest.raises(HistoryError, match=says):
        history.change(number)


def test_nothing_was_recorded_yet(history: History) -> None:
    assert (history.changes(), history.events(), history.standing("eth0", HERE)) == ([], [], Standing(None))
    with pytest.raises(HistoryError, match="None was recorded yet"):
        history.change(1)


def test_states_before_and_after(history: History) -> None:
    number = done(history).number
    assert (history.state_before(number), history.state_after(number)) == (BEFORE, AFTER)


def test_what_a_change_left_is_known_only_when_it_was_done(history: History) -> None:
    for number, how in ((failed(history, 1).number, "failed"), (start(history).number, "interrupted")):
        assert history.state_before(number) == BEFORE
        with pytest.raises(HistoryError, match=f"Change {number} is {how}: .* Look at what is in force"):
            history.state_after(number)


def test_a_change_of_a_living_process_runs(history: History) -> None:
    assert history.change(start(history, who=describe_self()).number).result is Outcome.RUNNING


def _standing(history: History, *ends: Callable[[History], object]) -> tuple[int | None, list[int]]:
    for end in ends:
        end(history)
    found = history.standing("eth0", HERE)
    assert found.certain is (not found.unsettled)
    return (found.latest and found.latest.number), [record.number for record in found.unsettled]


def _overlapping(history: History) -> None:
    """Two changes at once; the one that began first is done last."""
    first, second = start(history), start(history)
    history.finish(second, Result.DONE, made=2)
    history.finish(first, Result.DONE, made=2)


def _begun(history: History) -> None:
    start(history, who=describe_self())


def _elsewhere(history: History) -> None:
    start(history, "eth1")
    start(history, "eth0", "elsewhere")


@pytest.mark.parametrize(("story", "latest", "unsettled"), [
    pytest.param([], None, [], id="nothing"),
    pytest.param([done], 1, [], id="done"),
    pytest.param([done, done], 3, [], id="the newer of two"),
    pytest.param([done, lambda h: failed(h, 1)], 1, [3], id="failed half-way since"),
    pytest.param([done, lambda h: failed(h, 0)], 1, [], id="failed before anything was made"),
    pytest.param([lambda h: failed(h, 1)], None, [1], id="nothing but a failure"),
    pytest.param([done, start], 1, [3], id="interrupted since"),
    pytest.param([start, done], 2, [], id="done after an interruption"),
    pytest.param([lambda h: failed(h, 1), start, done], 4, [], id="done after all kinds of trouble"),
    pytest.param([_begun, done], 2, [1], id="an older one still runs"),
    pytest.param([done, _begun], 1, [3], id="a newer one runs"),
    pytest.param([_overlapping], 1, [2], id="two at once"),
    pytest.param([_overlapping, done], 5, [], id="done after two at once"),
    pytest.param([done, _elsewhere], 1, [], id="other places do not count"),
])  # fmt: skip
def test_what_is_known_of_the_state_in_force(
    history: History, story: list[Callable[[History], object]], latest: int | None, unsettled: list[int]
) -> None:
    assert _standing(history, *story) == (latest, unsettled)


def test_the_state_in_force(history: History) -> None:
    assert history.standing("eth0", HERE).state is None
    done(history)
    assert history.standing("eth0", HERE).state == AFTER
    done(history, action="clear", after=None)
    assert history.standing("eth0", HERE).state is None


def test_threads_share_a_history(history: History) -> None:
    def work() -> None:
        for _ in range(10):
            done(history)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verified(history) == 80


def test_a_closed_history_says_so(history: History) -> None:
    started = start(history)
    history.close()
    history.close()
    for use in (
        lambda: history.changes(),
        lambda: history.finish(started, Result.DONE, made=0),
        lambda: history.events(),
    ):
        with pytest.raises(HistoryError, match=r"closed. Open it again"):
            use()


@pytest.mark.parametrize(("event", "says"), [
    pytest.param(lambda: Started(0, datetime(2026, 1, 1), ADA, "eth0", HERE, "apply", None, None, ()), "time zone", id="no zone"),
    pytest.param(lambda: Started(0, START, ADA, "eth0", HERE, "burn", None, None, ()), "apply, clear, restore, not 'burn'", id="action"),
    pytest.param(lambda: Finished(0, START, 1, Result.DONE, -1), "-1 commands", id="made"),
])  # fmt: skip
def test_events_that_cannot_be(event: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        event()
