"""The types that the pages are checked against are those of the control plane's own document."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from stage import ROOT


def test_they_are_those_of_this_control_plane(tmp_path: Path) -> None:
    if not (ROOT / "web" / "node_modules").exists():
        pytest.skip("The packages of web/ are not installed: make web")
    made = tmp_path / "schema.ts"
    subprocess.run([ROOT / "tools" / "web-types", made], check=True)
    assert made.read_text() == (ROOT / "web/src/api/schema.ts").read_text(), "make web-types"
