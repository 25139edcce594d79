"""Backups: what is restored is what there was, in either database; what is not whole is not restored at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from control_plane.bootstrap import first_token
from control_plane.domain import commands as c
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.read_models.lists import POLICIES
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.backup import backup_lines, restore
from control_plane.store.errors import BackupError, ChainError
from control_plane.store.event_store import EventStore, open_store

ROOT = Path(__file__).parents[2]
TOTALS = ("5Mbit", "6Mbit", "7Mbit")
KEYED = Circumstances("ada", "192.0.2.1", "für Freitag", "ada:1", "PUT /x")


def policy(total: str) -> CheckedPolicy:
    return CheckedPolicy.from_document({"total": total, "classes": []})


def fill(store: EventStore) -> ControlPlane:
    plane = ControlPlane(store)
    first_token(plane)
    plane.carry_out("default", c.AddCluster("east"), KEYED)
    for total in TOTALS:
        plane.carry_out("default", c.DraftPolicy("web", policy(total)), Circumstances("ada"))
        plane.carry_out("default", c.PublishPolicy("web"), Circumstances("ada"))
    # Decided into nothing, but remembered.
    plane.carry_out("default", c.AddCluster("east"), Circumstances("ada", key="ada:2", fingerprint="PUT /y"))
    return plane


def requests(store: EventStore) -> list[Any]:
    found: set[Any] = set()
    for tenant in store.heads():
        with store.database.reading(tenant) as execute:
            found.update(execute("SELECT tenant, key, fingerprint, first, last FROM requests"))
    return sorted(found)


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
def test_what_is_restored_is_what_there_was(
    new_database: Callable[[], str], source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Into a database of the same kind, and of the other."""
    first = f"sqlite:{tmp_path}/source.db" if source == "sqlite" else request.getfixturevalue("postgresql_database")()
    with closing(open_store(first)) as old, closing(open_store(new_database())) as new:
        before = fill(old)
        lines = list(backup_lines(old, 17))
        assert json.loads(lines[0])["at"] == 17
        heads = restore(new, lines)
        assert heads == old.heads() == new.heads()
        for tenant in heads:
            assert list(new.read_all(tenant)) == list(old.read_all(tenant))
            assert new.verify(tenant) == heads[tenant]
        assert requests(new) == requests(old) != []
        after = ControlPlane(new)
        assert first_token(after) is None
        assert after.carry_out("default", c.AddCluster("east"), KEYED).replayed
        done = after.carry_out("default", c.DraftPolicy("web", policy("8Mbit")), Circumstances("ada"))
        assert len(done.events) == 1
        rows = after.lists.page(POLICIES, "default", order="name", limit=9)
        assert [row[:3] for row in rows] == [("web", heads["default"].position + 1, 3)]
        assert list(backup_lines(old, 17)) == lines
        before.carry_out("default", c.AddCluster("west"), Circumstances("ada"))
        with pytest.raises(BackupError, match="not empty"):
            restore(new, lines)


def altered(lines: list[str], number: int, old: str, new: str) -> list[str]:
    assert old in lines[number], lines[number]
    return [*lines[:number], lines[number].replace(old, new), *lines[number + 1 :]]


WRONG: dict[str, tuple[Callable[[list[str]], list[str]], type[Exception], str]] = {
    "nothing": (lambda lines: lines[:0], BackupError, "no backup"),
    "something else": (lambda lines: ['{"a": 1}', *lines], BackupError, "no backup"),
    "a newer format": (lambda lines: altered(lines, 0, '"podlane_backup":1', '"podlane_backup":2'), BackupError, "format 2"),
    "cut off": (lambda lines: lines[:-1], BackupError, "cut off"),
    "half a line": (lambda lines: [*lines[:-1], lines[-1][:9]], BackupError, "no JSON"),
    "an event changed": (lambda lines: altered(lines, 2, '"at":', '"at":1'), ChainError, "altered"),
    "an event missing": (lambda lines: [*lines[:2], *lines[3:]], ChainError, "missing"),
    "the last of a log missing": (lambda lines: [line for line in lines if '"revision":3' not in line], BackupError, "missing"),
    "a tenant missing": (lambda lines: [line for line in lines if '"tenant":"platform"' not in line], BackupError, "missing"),
    "a request missing": (lambda lines: [line for line in lines if '"key":"ada:2"' not in line], BackupError, "missing"),
    "a line of another kind": (lambda lines: [*lines[:3], '{"x": {}}', *lines[3:]], BackupError, "unknown kind"),
    "an incomplete event": (lambda lines: [*lines[:3], '{"event": {}}', *lines[3:]], BackupError, "incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_whole_is_not_restored(database_url: str, tmp_path: Path, what: str) -> None:
    change, error, words = WRONG[what]
    with closing(open_store(f"sqlite:{tmp_path}/source.db")) as old:
        fill(old)
        lines = list(backup_lines(old, 17))
    with closing(open_store(database_url)) as store:
        with pytest.raises(error, match=words):
            restore(store, change(lines))
        assert store.heads() == {}
        assert requests(store) == []
        assert len(restore(store, lines)) == 2


def test_backup_and_restore_by_the_command_line(tmp_path: Path) -> None:
    def podlane(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "podlane", "control-plane", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    file = tmp_path / "backup.jsonl"
    old, new = (["--state", str(tmp_path / name)] for name in ("old", "new"))
    with closing(open_store(f"sqlite:{tmp_path}/old/events.db")) as store:
        fill(store)
        count = sum(head.position for head in store.heads().values())
    podlane("backup", str(file), *old)
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"restored {count} events of 2 tenants" in podlane("restore", str(file), *new)
    assert "not empty" in podlane("restore", str(file), *new, code=1)
    assert file.read_text().splitlines()[1:] == podlane("backup", "-", *new).splitlines()[1:]
    told = podlane("rebuild", *new)
    assert "default: made again from 8 events" in told
    assert "come after its name" in podlane("--port", "1", "rebuild", code=2)
    assert "cannot be written" in podlane("backup", f"{tmp_path}/no/file", *old, code=1)
