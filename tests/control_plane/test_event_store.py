"""One suite for the event store over SQLite and over PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from control_plane.store.chain import verify
from control_plane.store.errors import ChainError, KeyReusedError, StaleError, StoreError
from control_plane.store.event_store import EventStore, open_store
from control_plane.store.records import START, Cause, NewEvent
from traffic_policy.errors import ConfigError

ADA = Cause("ada", 1_700_000_000_123, "192.0.2.1", "because")


def new(number: int) -> NewEvent:
    return NewEvent("policy/web", "Numbered", {"number": number, "odd": "\x00\ud800é", "rate": 0.1, "none": None})


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    opened = open_store(database_url)
    yield opened
    opened.close()


def execute(url: str, *statements: str) -> None:
    """As somebody who has the database in their hands."""
    if url.startswith("sqlite:"):
        connection = sqlite3.connect(url.removeprefix("sqlite:"))
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()
    else:
        with psycopg.connect(url) as connection:
            for statement in statements:
                connection.execute(statement)


def without_guards(url: str) -> None:
    names = ["events_update", "events_delete"] if url.startswith("sqlite:") else ["events_append_only ON events"]
    execute(url, *(f"DROP TRIGGER {name}" for name in names))


def test_what_is_read_is_what_was_written(store: EventStore, database_url: str) -> None:
    stored = store.append("shop", 0, [new(1), new(2)], ADA)
    assert [(e.tenant, e.position, e.subject, e.kind) for e in stored] == [
        ("shop", n, "policy/web", "Numbered") for n in (1, 2)
    ]
    assert (stored[0].author, stored[0].address, stored[0].reason, stored[0].at) == (
        "ada",
        "192.0.2.1",
        "because",
        ADA.at,
    )
    assert stored[0].data == new(1).data
    store.close()
    again = open_store(database_url)
    assert again.read("shop") == stored
    assert again.read("shop", after=1) == stored[1:]
    assert again.read("shop", limit=1) == stored[:1]
    assert again.read("bank") == []
    assert again.heads() == {"shop": again.verify("shop")}
    assert again.verify("bank") == START
    again.close()


def test_only_who_knows_all_may_append(store: EventStore) -> None:
    store.append("shop", 0, [new(1)], ADA)
    for after in (0, 2):
        with pytest.raises(StaleError, match="is at 1"):
            store.append("shop", after, [new(2)], ADA)
    with pytest.raises(StaleError):
        store.append("bank", 1, [new(1)], ADA)
    assert [event.position for event in store.read("shop")] == [1]
    assert store.heads().keys() == {"shop"}


def test_a_key_makes_a_repeated_request_one(store: EventStore) -> None:
    cause = replace(ADA, key="ada:1", fingerprint="PUT /x")
    assert store.carried_out("shop", "ada:1", "PUT /x") is None
    stored = store.append("shop", 0, [new(1), new(2)], cause)
    store.append("shop", 2, [new(3)], ADA)
    assert store.append("shop", 0, [new(1), new(2)], cause) == stored
    assert store.carried_out("shop", "ada:1", "PUT /x") == stored
    assert store.append("bank", 0, [new(1)], cause)[0].position == 1
    with pytest.raises(KeyReusedError, match="new key"):
        store.append("shop", 3, [new(4)], replace(cause, fingerprint="PUT /y"))
    assert [event.data["number"] for event in store.read("shop")] == [1, 2, 3]


def test_a_request_without_effect_is_remembered_too(store: EventStore) -> None:
    cause = replace(ADA, key="ada:1", fingerprint="x")
    assert store.append("shop", 0, [], cause) == []
    assert store.carried_out("shop", "ada:1", "x") == []
    assert store.heads() == {}


def test_writers_at_once_leave_no_gap_and_lose_nothing(store: EventStore, database_url: str) -> None:
    """Eight threads, by two stores as two processes would have them, each adding its own until it is in."""
    other = open_store(database_url)

    def write(number: int) -> None:
        mine = (store, other)[number % 2]
        for _ in range(10_000):
            try:
                head = mine.heads().get("shop", START)
                mine.append("shop", head.position, [new(number), new(number)], ADA)
            except StaleError:
                continue
            return
        pytest.fail("never the first")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(40)))
    events = list(store.read_all("shop"))
    numbers = [event.data["number"] for event in events]
    assert [event.position for event in events] == list(range(1, 81))
    assert sorted(numbers[::2]) == list(range(40))
    assert numbers[::2] == numbers[1::2], "two of one append were parted"
    assert store.verify("shop").position == 80
    other.close()


def test_pages_are_one_log(store: EventStore) -> None:
    store.append("shop", 0, [new(n) for n in range(2345)], ADA)
    assert [event.data["number"] for event in store.read_all("shop", after=45)] == list(range(45, 2345))
    assert store.verify("shop").position == 2345


ALTERATIONS = {
    "data": ("UPDATE events SET data = '{}' WHERE position = 2", 2),
    "author": ("UPDATE events SET author = 'eve' WHERE position = 3", 3),
    "time": ("UPDATE events SET at = at + 1 WHERE position = 1", 1),
    "tenant": ("UPDATE events SET tenant = 'bank' WHERE position = 4", 4),
    "removed": ("DELETE FROM events WHERE position = 2", 2),
    "removed at the end": ("DELETE FROM events WHERE position = 4", 4),
    "removed, and the number too": ("UPDATE heads SET position = 3", 4),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_an_altered_log_is_found_out(store: EventStore, database_url: str, what: str) -> None:
    store.append("shop", 0, [new(n) for n in range(4)], ADA)
    store.verify("shop")
    statement, position = ALTERATIONS[what]
    without_guards(database_url)
    execute(database_url, statement)
    with pytest.raises(ChainError, match="was altered") as caught:
        store.verify("shop")
    assert caught.value.position == position


@pytest.mark.parametrize("statement", ["UPDATE events SET author = 'eve'", "DELETE FROM events"])
def test_the_database_refuses_to_alter_the_log(store: EventStore, database_url: str, statement: str) -> None:
    store.append("shop", 0, [new(1)], ADA)
    with pytest.raises((sqlite3.DatabaseError, psycopg.Error), match="append-only"):
        execute(database_url, statement)


def test_a_log_that_was_exported_can_be_checked_without_us(store: EventStore) -> None:
    store.append("shop", 0, [new(n) for n in range(3)], ADA)
    lines = [json.dumps({field: getattr(event, field) for field in event.__slots__}) for event in store.read("shop")]
    events = [replace(store.read("shop")[0], **json.loads(line)) for line in lines]
    assert verify("shop", events) == store.heads()["shop"]
    with pytest.raises(ChainError):
        verify("shop", [events[0], events[2]])


def test_stores_that_are_opened_at_once_make_the_tables_once(new_database: Callable[[], str]) -> None:
    url = new_database()
    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(open_store, [url] * 4))
    stores[0].append("shop", 0, [new(1)], ADA)
    assert all(each.heads().keys() == {"shop"} for each in stores)
    for each in stores:
        each.close()


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    for url in ("", "sqlite:", "mysql://x", "/var/lib/x"):
        with pytest.raises(ConfigError, match="postgresql://"):
            open_store(url)
    (tmp_path / "file").write_text("no database, but long enough to be read as a header of one" * 10)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:{tmp_path}/file")
    with pytest.raises(StoreError, match="cannot be made"):
        open_store(f"sqlite:{tmp_path}/file/x.db")
