"""A writer is killed at random moments: nothing is lost or invented, the order is kept, and what is repeated is there once."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from store_writer import events_of

from control_plane.store.event_store import EventStore, open_store

WRITER = Path(__file__).parent / "store_writer.py"
ROOT = Path(__file__).parents[2]
TENANTS = 3


@pytest.mark.timeout(1200)  # each of two hundred begins an interpreter
@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.nightly)])
def test_a_killed_writer_loses_nothing(database_url: str, kills: int) -> None:
    chance = random.Random(19)
    store = open_store(database_url)
    told = {f"t{i}": 0 for i in range(TENANTS)}
    for _ in range(kills):
        command = [sys.executable, str(WRITER), database_url, *(str(done + 1) for done in told.values())]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
        ) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 40)):
                note(told, writer.stdout.readline())
            writer.kill()
            for line in writer.stdout:
                note(told, line)
        for tenant, done in told.items():
            check(store, tenant, done)
    assert all(done > kills for done in told.values())
    store.close()


def note(told: dict[str, int], line: str) -> None:
    """What the writer was told to be stored."""
    tenant, request = line.split()
    assert int(request) == told[tenant] + 1
    told[tenant] += 1


def check(store: EventStore, tenant: str, done: int) -> None:
    """All that was acknowledged is stored, and at most the one request whose acknowledgement was lost."""
    events = list(store.read_all(tenant))
    last = events[-1].data["request"] if events else 0
    assert last in (done, done + 1)
    expected = [event.data for request in range(1, last + 1) for event in events_of(request)]
    assert [event.data for event in events] == expected
    assert store.verify(tenant).position == len(expected)
