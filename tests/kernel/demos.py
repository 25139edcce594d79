"""Demos as users start them: what they have begun, and what they leave."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


def leftovers(pid: int) -> list[str]:
    """What the demo of that process id left: namespaces and folders of its name, and command lines of programs."""
    found = [str(path) for folder in ("/run", "/run/netns") for path in Path(folder).glob(f"*podlane-demo-{pid}*")]
    return found + list(programs_of(pid).values())


def programs_of(pid: int) -> dict[int, str]:
    """Command lines, by process id, of processes that still work for the demo of that process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"podlane-demo-{pid}" in line:
            found[int(path.parent.name)] = line
    return found


@contextmanager
def running(command: Sequence[str], said: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that has said this."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if said in line:
                break
        else:
            pytest.fail(f"the demo did not start: {''.join(lines)}")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
