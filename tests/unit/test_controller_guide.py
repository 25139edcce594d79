"""Every code block of docs/reference/library.md runs, in order, and prints what the block behind it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tc_core.builder import ClassBuilder, DefaultBuilder
from tc_core.controller import TrafficController
from tc_core.fake.kernel import FakeKernel
from tc_core.probe.capability import ALL_FEATURES

GUIDE = (Path(__file__).parents[2] / "docs/reference/library.md").read_text()
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.DOTALL)


def test_every_block_runs_and_prints_what_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel("eth0")
    monkeypatch.setattr("tc_core.rtnetlink.kernel.NetlinkKernel", lambda: kernel)
    monkeypatch.setattr("tc_core.probe.features.probe", lambda: ALL_FEATURES)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(GUIDE)
    assert len(blocks) == GUIDE.count("```python")
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/reference/library.md", "exec"), names)
        if expected.endswith("\n...\n"):  # the rest is left out
            assert printed.getvalue().startswith(expected.removesuffix("...\n"))
            continue
        assert printed.getvalue() == expected, code
    assert kernel.applied, "the first block acts"


def calls(*tables: str) -> set[str]:
    """The names of calls in the first cells of the tables with these headings."""
    found = set()
    for heading in tables:
        start = GUIDE.index(f"| {heading} |")
        rows = GUIDE[start : GUIDE.index("\n\n", start)].splitlines()[2:]
        found |= {name for row in rows for name in re.findall(r"`(\w+)\(", row.split("|")[1])}
    return found


def test_the_tables_name_every_call_and_no_other() -> None:
    public = {
        name for kind in (TrafficController, ClassBuilder, DefaultBuilder) for name in dir(kind) if name[0] != "_"
    }
    assert calls("call | on", "call | what it does") == public - {"load", "from_policy", "from_profile"}
    assert all(name in GUIDE for name in public)
