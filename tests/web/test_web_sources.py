"""What is checked in web/ without a browser: its types, its style, and its pure parts."""

from __future__ import annotations

import subprocess

import pytest
from stage import ROOT


@pytest.mark.parametrize("script", ["lint", "test"])
def test_it_passes_its_own_checks(script: str) -> None:
    if not (ROOT / "web" / "node_modules").exists():
        pytest.skip("The packages of web/ are not installed: make web")
    done = subprocess.run(
        ["npm", "run", "--silent", script],
        cwd=ROOT / "web",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
