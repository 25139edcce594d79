"""``podlane demo`` as a user starts it: a real, shortened demo, and every way to end it early."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from demos import leftovers, programs_of, running

from podlane.demo.parts import AGENT, BOTH_WAYS, PARTS, UPLOADS
from podlane.demo.scenario import Part

pytestmark = pytest.mark.root

ATTEMPTS = 3
"""A machine that is busy with other work starves the uploads; what is too fast, or breaks, fails at once."""
PATIENCE = 60.0
"""Seconds for setting up and clearing up on a busy machine."""


def command(*options: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "podlane", "demo", *(str(option) for option in options)]


def running_demo(tmp_path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """A demo whose first lane is running."""
    return running(command("--seconds", "60", "--output", tmp_path / "demo.svg"), "backup alone")


SHORT = {
    UPLOADS.name: (
        14,
        ["What the Pod uploads: within guarantees and ceils", "Limits changed at "],
        r"seen as\s+tls\s+tls\s+http1\s+http2\s+\(kernel\)",
        r"api joins(\s+\d+\.\d ✓){5}",
    ),
    BOTH_WAYS.name: (
        12.5,
        [
            "Answers to what clients open: within",
            "The Pod's server saw its clients' own addresses.",
            "Downloads into the Pod: within",
            "What the Pod uploads: within guarantees and ceils (live ",
            "Requests of one connection, each in its own lane: within",
        ],
        r"seen as\s+http1\s+\(kernel\)\s+http1\s+tls\s+quic\s+http1\s+http1",
        r"live(\s+\d+\.\d ✓){5}",
    ),
    AGENT.name: (
        15,
        [
            *(f"What the Pod {pod} uploads: within guarantees and ceils" for pod in AGENT.pods),
            "Limits changed at ",
            "Nothing of Podlane runs in the Pods: one process on their node holds them, with ",
            "The server saw the Pods' own addresses.",
        ],
        r"seen as\s+tls\s+http1\s+tls\s+http2\s+\(kernel\)\s+tls",
        r"events(\s+\d+\.\d ✓){6}",
    ),
}
"""Seconds that a part takes here, and what it says."""


@pytest.mark.measure
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", [*PARTS.values(), AGENT], ids=[*PARTS, AGENT.name])
def test_a_short_demo_keeps_every_lane_draws_the_plot_and_leaves_nothing(tmp_path: Path, part: Part) -> None:
    output = tmp_path / "new" / "demo.svg"
    seconds, lines, seen, row = SHORT[part.name]
    for _ in range(ATTEMPTS):
        demo = subprocess.Popen(
            command(
                *(["--agent"] if part is AGENT else ["--part", part.name]),
                "--seconds",
                str(seconds),
                "--output",
                output,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SUDO_UID": "65534", "SUDO_GID": "65534"},
        )
        try:
            said, errors = demo.communicate(timeout=100)
        finally:
            demo.kill()
        starved = "was used in the phase" in said or "is below its guarantee" in said
        if demo.returncode == 0 or "over its ceil" in said or not starved:
            break
    assert demo.returncode == 0, said + errors
    for line in [*lines, "No connection broke, and every byte that was sent arrived"]:
        assert f"✓ {line}" in said
    assert "✗" not in said
    assert "\x1b" not in said + errors
    assert re.search(r"\s+".join(lane.name for lane in part.lanes), said), said
    assert re.search(seen, said), said
    assert re.search(row, said), said
    svg = output if part is UPLOADS else output.with_stem(f"demo-{part.name}")
    assert ElementTree.parse(svg).getroot().tag.endswith("}svg")
    assert svg.with_suffix(".png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    owners = {path.stat().st_uid for path in (output.parent, svg, svg.with_suffix(".png"))}
    assert owners == {65534}, "under sudo the plot belongs to who called it"
    assert leftovers(demo.pid) == []


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["Ctrl-C", "terminate", "hang up"],
)
def test_a_demo_that_is_interrupted_clears_up(tmp_path: Path, number: signal.Signals, status: int) -> None:
    with running_demo(tmp_path) as process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, output
        assert "Traceback" not in output
        assert not programs_of(process.pid)
    assert leftovers(process.pid) == []


def test_after_a_kill_the_programs_die_and_the_next_demo_clears_up(tmp_path: Path) -> None:
    with running_demo(tmp_path) as killed:
        killed.kill()
        killed.wait()
        with running_demo(tmp_path) as following:
            assert leftovers(killed.pid) == []
            following.send_signal(signal.SIGINT)
            following.communicate(timeout=PATIENCE)
    assert leftovers(following.pid) == []


def test_a_sidecar_that_dies_ends_the_demo_with_its_last_words(tmp_path: Path) -> None:
    with running_demo(tmp_path) as process:
        sidecar = next(pid for pid, line in programs_of(process.pid).items() if "/policy.yaml" in line)
        os.kill(sidecar, signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert "The sidecar ended with -9." in output
        assert "ready" in output
        assert "Traceback" not in output


def test_on_a_terminal_there_is_a_live_table(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("--seconds", "60", "--output", tmp_path / "demo.svg"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(theirs)
    try:
        seen = _read_until(ours, "within")
        assert "guaranteed" in seen
        assert "┃" in seen
        process.send_signal(signal.SIGINT)
        _read_until(ours, None)
        assert process.wait(PATIENCE) == 130
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


def _read_until(descriptor: int, text: str | None) -> str:
    """What a terminal shows until ``text`` is in it; with None until its last writer is gone."""
    seen, deadline = b"", time.monotonic() + PATIENCE
    while text is None or text.encode() not in seen:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            pytest.fail(f"no {text!r} on the terminal: {seen.decode(errors='replace')}")
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            data = b""
        if not data:
            if text is None:
                break
            pytest.fail(f"no {text!r} on the terminal: {seen.decode(errors='replace')}")
        seen += data
    return seen.decode(errors="replace")
