"""docs/tutorials/own-policy.md: its policies are written, its commands typed, and what they print is what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from podlane.main import main

PAGE = (Path(__file__).parents[2] / "docs/tutorials/own-policy.md").read_text()
LEFT_OUT = "…"
"""A line of the page that stands for any number of lines."""


def shown(text: str) -> re.Pattern[str]:
    lines = text.splitlines()
    return re.compile("".join(r"(?:.*\n)*" if line == LEFT_OUT else re.escape(f"{line}\n") for line in lines))


def test_each_command_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = 0
    for kind, body in re.findall(r"```(yaml|console)\n(.*?)```", PAGE, re.DOTALL):
        if kind == "yaml":
            Path(body.splitlines()[0].removeprefix("# ")).write_text(body)
            continue
        line, _, text = body.partition("\n")
        done = CliRunner().invoke(main, line.removeprefix("$ podlane ").split())
        assert shown(text).fullmatch(done.output), f"{line}\n{done.output}"
        commands += 1
    assert commands == 3
