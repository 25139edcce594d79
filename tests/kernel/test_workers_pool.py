"""A pool of workers on loopback, in a program of its own: a fork server wants a process without threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_a_pool_on_loopback() -> None:
    done = subprocess.run(
        [sys.executable, str(TESTS / "worker_pool.py")],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert min(seen.pop("each")) > 0
    assert seen == {
        "missing": [],
        "active": 40,
        "told": [40, 15, 40],
        "told of whom": True,
        "detections": 40,
        "moved": [40, 0],
        "renamed": [50, 10],
        "kept": False,
        "after a death": 10,
        "alive after it": True,
        "replaced": 1,
        "by the next": 11,
        "cut": True,
        "at rest": 11,
        "all at rest": 0,
        "present": 0,
        "fork server": True,
    }
