"""What is said when the file system of the history is full: which one it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

RECORD = """
import contextlib, os, sys
from pathlib import Path
from tc_core.errors import HistoryError
from tc_core.history import SqliteHistory
from histories import done

disk = Path(sys.argv[1])

def record(name):
    try:
        with SqliteHistory(disk / name / "history.db") as history:
            done(history)
    except HistoryError as error:
        print(error)
    else:
        print("recorded")
"""
FULL = """
record("old")
with SqliteHistory(disk / "old" / "history.db") as history:
    with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    try:
        for _ in range(20):  # until what its log has in reserve is used up
            done(history)
    except HistoryError as error:
        print(error)
record("old")
record("new")
(disk / "fill").unlink()
record("old")
record("new")
"""


def said(disk: Path, limit: str, program: str) -> list[str]:
    """What the program says of a history on a file system of its own with this limit (tmpfs(5))."""
    disk.mkdir()
    script = 'mount -t tmpfs -o "$1" none "$2" && exec "$3" -c "$4" "$2"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", limit, str(disk), sys.executable, program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_file_system_that_is_full_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    before, *full, after, new = said(disk, "size=256k", RECORD + FULL)
    assert (before, after, new) == ("recorded", "recorded", "recorded")
    assert len(full) == 3
    for line in full:
        assert (
            f"The file system at {disk} is full. Make room there and try again, or name a file on another one." in line
        )


def test_so_is_one_without_room_for_files(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    [line] = said(disk, "nr_inodes=2", RECORD + 'record("new")\n')
    assert f"The file system at {disk} has no inodes left for new files." in line
