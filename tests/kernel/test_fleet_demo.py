"""``podlane fleet-demo`` as a user starts it: what it tells comes true, and however it ends nothing is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import AbstractContextManager

import pytest
from demos import leftovers, programs_of, running
from waiting import until

pytestmark = pytest.mark.root

COMMAND = [sys.executable, "-P", "-m", "podlane", "fleet-demo"]
PATIENCE = 120.0
"""Seconds; on an idle machine the whole story takes 35."""
ATTEMPTS = 2
"""A machine that is busy with other work starves the uploads; what is too fast fails at once."""


def joined() -> AbstractContextManager[subprocess.Popen[str]]:
    """A demo whose agents have joined."""
    return running(COMMAND, "5 agents have joined")


@pytest.mark.measure
@pytest.mark.timeout(300)
def test_everything_that_is_told_comes_true_and_nothing_is_left() -> None:
    for _ in range(ATTEMPTS):
        demo = subprocess.Popen([*COMMAND, "--once"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            said, errors = demo.communicate(timeout=PATIENCE)
        finally:
            demo.kill()
        assert leftovers(demo.pid) == []
        if demo.returncode == 0 or "FAR BELOW" not in said or "OVER" in said:
            break
    assert demo.returncode == 0, said + errors
    assert "✗" not in said
    assert "\x1b" not in said + errors
    for line in (
        "✓ shop: 5 of 5 agents say that it is in force",
        "✓ orders: ",
        "the rollout is done",
        "it is taken back: ",
        "✓ 15 of 15 connections held all the time, and every byte of ",
    ):
        assert line in said
    # At first, and once more when the gate has taken the canary back.
    assert said.count("✓ calls: 5 of 5 agents say that it is in force") == 2


def test_an_interrupted_one_clears_up() -> None:
    with joined() as process:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, output
        assert "Traceback" not in output
    assert leftovers(process.pid) == []


def test_after_a_kill_the_programs_die_and_the_next_one_clears_up() -> None:
    with joined() as killed:
        agents = [line for line in programs_of(killed.pid).values() if "--control-plane" in line]
        assert len(agents) >= 5
        killed.kill()
        killed.wait()
        until("the end of its programs", lambda: not programs_of(killed.pid))
        with joined() as following:
            assert leftovers(killed.pid) == []
            following.send_signal(signal.SIGINT)
            following.communicate(timeout=PATIENCE)
    assert leftovers(following.pid) == []
