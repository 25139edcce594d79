"""When what is missing is put back, and when no more."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from planes import WEB, prepared

from datapath.enforcement import CALM_S, CLASSES, MOST_REPAIRS, ROUTES, RULES, Part, Repairs, Unannounced, Watch
from datapath.errors import RulesetError
from tc_core.kernel import DeleteQdisc

GONE = {RULES: ["a chain"], CLASSES: ["a class", "another"]}


def test_what_is_missing_twice_is_put_back() -> None:
    repairs = Repairs()
    assert repairs.found({}, 0) == frozenset()
    assert repairs.found(GONE, 1) == frozenset(), "it may be on its way back"
    assert repairs.lost == ("a chain", "a class", "another")
    assert repairs.found({}, 2) == frozenset()
    assert repairs.lost == ()
    assert repairs.found(GONE, 3) == frozenset()
    assert repairs.found(GONE, 4) == {RULES, CLASSES}
    assert repairs.counts == {RULES: 1, ROUTES: 0, CLASSES: 1}


@pytest.mark.parametrize("between", [1.0, CALM_S - 1, CALM_S])
def test_who_removes_it_again_and_again_wins(between: float) -> None:
    repairs = Repairs()
    now = 0.0
    for _ in range(MOST_REPAIRS):
        repairs.found(GONE, now)
        assert repairs.found(GONE, now)
        repairs.found({}, now)
        now += between
    repairs.found(GONE, now)
    calm = between >= CALM_S
    assert bool(repairs.found(GONE, now)) is calm
    assert repairs.beaten is not calm
    if not calm:
        assert not repairs.found(GONE, now + 10 * CALM_S), "for good"
        assert repairs.lost
        repairs.begin_again()
        assert (repairs.lost, repairs.beaten) == ((), False)
        repairs.found(GONE, now)
        assert repairs.found(GONE, now)


def test_the_kernel_is_read_when_there_is_news_and_once_in_a_while() -> None:
    read: list[Part] = []
    lost: list[str] = []
    news = [False]

    def missing(part: Part) -> Sequence[str]:
        read.append(part)
        return list(lost)

    watch = Watch(
        Repairs(),
        {part: (lambda part=part: missing(part)) for part in (RULES, ROUTES, CLASSES)},
        SimpleNamespace(fileno=lambda: None, arrived=lambda: news[0], close=lambda: None),
        read_every=CALM_S,
        now=0.0,
    )
    watch.look(1.0)
    assert RULES not in read, "nothing has changed"
    news[0] = True
    read.clear()
    watch.look(2.0)
    assert RULES in read
    news[0] = False
    read.clear()
    watch.look(2.0 + CALM_S)
    assert RULES in read
    lost.append("a chain")
    news[0] = True
    assert watch.look(100.0) == frozenset()
    news[0] = False
    read.clear()
    assert RULES in watch.look(101.0)
    assert RULES in read, "what is missing is looked at again"


def test_without_news_nothing_is_entered() -> None:
    read: list[Part] = []
    news, tell = socket.socketpair()

    def arrived() -> bool:
        try:
            return bool(news.recv(1))
        except BlockingIOError:
            return False

    def missing() -> Sequence[str]:
        read.append(RULES)
        return []

    with news, tell:
        news.setblocking(False)
        rules = SimpleNamespace(fileno=news.fileno, arrived=arrived, close=lambda: None)
        parts = {RULES: missing, ROUTES: list, CLASSES: list}
        entered: list[None] = []
        watch = Watch(Repairs(), parts, rules, CALM_S, 0.0, lambda: nullcontext(entered.append(None)))
        tell.send(b"x")
        watch.look(1.0)
        assert read == [RULES]
        assert entered
        watch.look(2.0)
        assert read == [RULES]
        watch.look(2.0 + CALM_S)
        assert read == [RULES, RULES], "once in a while"
        watch.close()


def test_what_is_not_announced_is_asked_for_at_times() -> None:
    read: list[Part] = []

    def missing() -> Sequence[str]:
        read.append(RULES)
        return ["a program"] if len(read) == 2 else []

    parts = {RULES: missing, ROUTES: list, CLASSES: list}
    watch = Watch(Repairs(), parts, Unannounced(), CALM_S, 0.0, ask_every=10.0)
    for second in range(10, 19):
        watch.look(float(second))
    assert len(read) == 1, "at a time of its own at first"
    watch.look(20.0)
    watch.look(21.0)
    assert len(read) == 3, "what is missing is looked at again"
    watch.look(22.0)
    assert len(read) == 3
    watch.close()


@pytest.mark.trio
async def test_rules_are_written_again_even_if_that_fails_once() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        made.installer.gone = ["a chain"]
        made.installer.refused = 1
        await made.plane.maintain()
        assert made.plane.repairs.lost == ("a chain",)
        assert made.told() == []
        with pytest.raises(RulesetError):
            await made.plane.maintain()
        assert made.plane.repairs.lost == ("a chain",)
        made.told()
        await made.plane.maintain()
        assert "rules 0" in made.told()
        await made.plane.maintain()
        assert made.plane.repairs.lost == ()
        assert made.told() == []


@pytest.mark.trio
async def test_what_the_supervisor_has_removed_is_not_put_back_unasked() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        made.told()
        made.plane.bypassed()
        made.installer.gone = ["a chain"]
        for _ in range(3):
            await made.plane.maintain()
        assert made.told() == []
        assert made.plane.repairs.lost == ()
        await made.plane.restore_capture()
        assert "rules 0" in made.told()
        made.installer.gone = ["a chain"]
        for _ in range(2):
            await made.plane.maintain()
        assert "rules 0" in made.told()


@pytest.mark.trio
async def test_classes_are_made_again_by_the_policy_in_force() -> None:
    async with prepared(WEB) as made:
        watch = made.plane._watch
        assert watch is not None
        watch._read_every = 0.0  # the fake kernel announces nothing
        await made.apply(WEB)
        before = made.kernel.observe("eth0")
        root = before.root
        assert root is not None
        made.kernel.apply("eth0", DeleteQdisc(root))
        await made.plane.maintain()
        assert made.plane.repairs.lost
        await made.plane.maintain()
        assert made.kernel.observe("eth0") == before
        await made.plane.maintain()
        assert made.plane.repairs.lost == ()
        assert made.plane.repairs.counts[CLASSES] == 1
