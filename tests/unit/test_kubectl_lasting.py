"""``kubectl podlane top`` while the agent that it asks is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from daemon.documents.connections import Connections
from datapath.connection_list import Order
from podlane.kubectl.errors import ClusterError, ForbiddenError, NotHeldError, NotThereError
from podlane.kubectl.lasting import LastingSource
from podlane.top.readings import AwayError, Reading, SourceError

NONE = Connections(0, Order.NEWEST, ())


class Agent:
    """A source that answers until it is gone."""

    def __init__(self, name: str, *errors: SourceError) -> None:
        self.name = name
        self.errors = list(errors)
        self.is_gone = False
        self.forwarded = 0

    def read(self) -> Reading:
        if self.is_gone:
            raise AwayError(f"{self.name} does not answer any more: refused.")
        if self.errors:
            raise self.errors.pop(0)
        return Reading(1.0, "eth0", None, (), notes=("of its own",))

    def connections(self, limit: int, order: Order) -> Connections:
        assert (limit, order) == (5, Order.NEWEST)
        self.read()
        return NONE


class World:
    """Who is found, one after the other; an exception is raised. Its clock is the test's."""

    def __init__(self, *found: Agent | ClusterError) -> None:
        self.found = list(found)
        self.now = 100.0
        self.open = 0
        self.source = LastingSource(self.opener, lambda: self.now)

    @contextmanager
    def opener(self) -> Iterator[Agent]:
        found = self.found.pop(0)
        if isinstance(found, ClusterError):
            raise found
        self.open += 1
        try:
            yield found
        finally:
            self.open -= 1


def test_a_new_agent_is_found_and_that_is_said_for_a_while() -> None:
    old, new = Agent("old"), Agent("new")
    world = World(old, NotHeldError("There is no agent on n."), ClusterError("Refused."), new)
    with world.source as source:
        assert source.read().notes == ("of its own",)
        old.is_gone = True
        for why in ("old does not answer any more", "There is no agent on n.", "Refused."):
            with pytest.raises(AwayError, match=why):
                source.read()
            assert world.open == 0, "no port is forwarded to who is gone"
        assert source.name == "old"
        assert source.read().notes == ("Connected again: new.", "of its own")
        assert source.name == "new"
        world.now += 9
        assert len(source.read().notes) == 2
        world.now += 2
        assert source.read().notes == ("of its own",)
        assert world.open == 1
    assert world.open == 0


def test_a_new_agent_that_does_not_know_the_pod_yet_is_waited_for() -> None:
    old, new = Agent("old"), Agent("new", SourceError("There is no workload."))
    with World(old, new).source as source:
        old.is_gone = True
        with pytest.raises(AwayError, match="does not answer"):
            source.read()
        with pytest.raises(AwayError, match=r"There is no workload\. It has just begun\."):
            source.read()
        assert source.read().notes[0] == "Connected again: new."
        new.errors.append(SourceError("There is no workload."))
        with pytest.raises(SourceError, match=r"^There is no workload.$") as raised:
            source.read()
        assert not isinstance(raised.value, AwayError), "one that has told of it, and does not any more, means it"


@pytest.mark.parametrize("kind", [NotThereError, ForbiddenError])
def test_what_does_not_pass_is_final(kind: type[ClusterError]) -> None:
    old = Agent("old")
    with World(old, kind("Gone.")).source as source:
        old.is_gone = True
        with pytest.raises(AwayError):
            source.read()
        with pytest.raises(kind, match=r"Gone\."):
            source.read()


def test_connections_find_the_new_agent_too() -> None:
    old = Agent("old")
    with World(old, Agent("new")).source as source:
        assert source.connections(5, Order.NEWEST) == NONE
        old.is_gone = True
        with pytest.raises(AwayError):
            source.connections(5, Order.NEWEST)
        assert source.connections(5, Order.NEWEST) == NONE
        assert source.read().notes[0] == "Connected again: new."


def test_who_cannot_be_found_at_first_is_an_error() -> None:
    with pytest.raises(NotHeldError), World(NotHeldError("Nobody.")).source:
        pass
