"""Appends to a store until it is killed: ``store_writer.py URL REQUEST...``, with the next request of each tenant.

Request N has 1 + N % 3 events, and the key N. A line on standard output says that it is stored.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path
from threading import Thread

from control_plane.store.database import Database
from control_plane.store.event_store import EventStore
from control_plane.store.postgresql import PostgresDatabase
from control_plane.store.records import START, Cause, NewEvent
from control_plane.store.sqlite import SqliteDatabase


def events_of(request: int) -> list[NewEvent]:
    return [NewEvent("policy/web", "Numbered", {"request": request, "part": part}) for part in range(1 + request % 3)]


def write(store: EventStore, tenant: str, first: int) -> None:
    head = store.heads().get(tenant, START)
    position = head.position
    for request in count(first):
        cause = Cause("ada", request, key=str(request), fingerprint=str(request))
        stored = store.append(tenant, position, events_of(request), cause)
        position = stored[-1].position
        os.write(1, f"{tenant} {request}\n".encode())


def main() -> None:
    url, *firsts = sys.argv[1:]
    database: Database = (
        SqliteDatabase(Path(url.removeprefix("sqlite:"))) if url.startswith("sqlite:") else PostgresDatabase(url)
    )
    store = EventStore(database)
    threads = [Thread(target=write, args=(store, f"t{i}", int(first))) for i, first in enumerate(firsts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
