"""Events for the tests of the change history, and processes that write some."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tc_core.history import Finished, History, Result, SqliteHistory, Started, Who

START = datetime(2026, 3, 29, 0, 59, 58, tzinfo=UTC)
ADA = Who(uid=1000, user="ada", sudo_user="", pid=4242, command="podlane tc apply eth0", process="of an earlier boot")
HERE = "boot/net:[1]/1"
BEFORE = {"total": "100Mbit", "classes": [{"name": "db", "rate": "10Mbit"}]}
AFTER = {"total": "1Gbit", "classes": [], "note": "größer, 大きい", "nothing": None, "share": 0.5}
COMMANDS = ("tc qdisc add dev eth0 root handle 1: htb", "tc class add dev eth0 parent 1: classid 1:1 htb rate 1Gbit")


def ticking() -> Callable[[], datetime]:
    """A clock that goes on by a second whenever it is asked."""
    seconds = iter(range(10**6))
    return lambda: START + timedelta(seconds=next(seconds))


def start(history: History, interface: str = "eth0", namespace: str = HERE, **changed: Any) -> Started:
    """A change that begins; Ada's, whose process is gone, unless told otherwise."""
    fields: dict[str, Any] = {"who": ADA, "before": BEFORE, "after": AFTER, "commands": COMMANDS, "action": "apply"}
    return history.start(interface=interface, namespace=namespace, **(fields | changed))


def done(history: History, interface: str = "eth0", namespace: str = HERE, **changed: Any) -> Started:
    """A change that is done at once."""
    started = start(history, interface, namespace, **changed)
    history.finish(started, Result.DONE, made=len(started.commands))
    return started


def failed(history: History, made: int, interface: str = "eth0", namespace: str = HERE) -> Started:
    """A change that failed after ``made`` commands."""
    started = start(history, interface, namespace)
    history.finish(started, Result.FAILED, made=made, error="RTNETLINK answers: Invalid argument")
    return started


def verified(history: History) -> int:
    """Check every event that can be seen and how they hang together; how many there are.

    That each is whole (checksum, JSON) and none is missing is what :meth:`History.events` itself checks; it raises.
    """
    begun: set[int] = set()
    events = history.events()
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    for event in events:
        if isinstance(event, Finished):
            begun.remove(event.change)
        else:
            begun.add(event.number)
    return len(events)


def write_without_end(path: Path, acknowledge: Connection) -> None:
    """Make changes for ever, and tell the number of each event as soon as it is appended. Runs in its own process."""
    with SqliteHistory(path) as history:
        while True:
            started = start(history)
            acknowledge.send(started.number)
            acknowledge.send(history.finish(started, Result.DONE, made=2).number)


def write_some(path: Path, changes: int, acknowledge: Connection) -> None:
    """Make so many changes, then tell the numbers of all events. Runs in its own process."""
    numbers = []
    with SqliteHistory(path) as history:
        for _ in range(changes):
            started = start(history)
            numbers += [started.number, history.finish(started, Result.DONE, made=2).number]
    acknowledge.send(numbers)


def begin_and_leave(path: Path, acknowledge: Connection) -> None:
    """Begin a change as oneself, and live until told to go. Runs in its own process."""
    with SqliteHistory(path) as history:
        acknowledge.send(history.start(interface="eth0", action="apply", before=None, after=AFTER).number)
        acknowledge.recv()


# Forked from a server that has imported what is slow to import: some ms for each process, and no fork of our threads.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tc_core.history"])


@contextmanager
def process(work: Callable[..., None], *arguments: object) -> Iterator[tuple[BaseProcess, Connection]]:
    """Another process that does ``work``, and the end of a pipe to it; killed when the block is left."""
    ours, theirs = _PROCESSES.Pipe()
    worker = _PROCESSES.Process(target=work, args=(*arguments, theirs))
    worker.start()
    theirs.close()
    try:
        yield worker, ours
    finally:
        worker.kill()
        worker.join()
        ours.close()
