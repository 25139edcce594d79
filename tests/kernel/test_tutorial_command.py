"""docs/tutorials/command.md: what a newcomer is told to type is typed, in order, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from runs import RunHost

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tutorials/command.md").read_text()
MEGABIT = 1e6 / 8

pytestmark = [pytest.mark.root, pytest.mark.measure]


def test_every_line_does_what_the_page_says(runs: RunHost, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed: tools/system-packages curl")
    (policy,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "policy.yaml").write_text(policy)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)
    script = "\n".join(["set -em", f"cd {tmp_path}", *lines]).replace("sudo podlane", f"{sys.executable} -m podlane")
    # The shell goes on while the server it has started comes up; people type more slowly.
    script = script.replace("curl --silent", "curl --silent --retry 5 --retry-connrefused")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = runs.host.run(["bash", "-c", script], check=False, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    backup, api = (int(rate) / MEGABIT for rate in re.findall(r"(\d+) bytes/s", done.stdout))
    # 1,448 of 1,514 bytes are payload; the rest of the interval is connecting, and a burst at the beginning.
    assert 0.85 * 4 < backup < 1.1 * 4
    assert 2 * 4 < api < 1.1 * 20
    assert done.stderr.count("20 Mbit/s in all") == 2
    assert not (tmp_path / "upload").exists()
