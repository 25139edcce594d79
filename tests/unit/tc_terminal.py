"""``podlane tc`` called on a kernel in memory, for the tests of what it says and does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from podlane.main import main
from podlane.tc import kernel_access, sidecar_check
from tc_core.fake.kernel import FakeKernel
from tc_core.probe.capability import ALL_FEATURES

POLICY = """
total: 100Mbit
classes:
  - {name: db, rate: 20Mbit, ceil: 50Mbit, priority: 1, match: [{port: 5432, protocol: tcp}]}
  - {name: backup, rate: 1Mbit, ceil: 10Mbit, priority: 7, match: [{cidr: [10.0.0.0/8], port: 873}]}
"""
ONLY_BACKUP = """
total: 100Mbit
classes:
  - {name: backup, rate: 1Mbit, ceil: 10Mbit, priority: 7, match: [{cidr: [10.0.0.0/8], port: 873}]}
"""


class Terminal:
    """Calls ``podlane tc`` with a kernel, a history and a directory of its own."""

    def __init__(self, kernel: FakeKernel, directory: Path) -> None:
        self.kernel = kernel
        self.directory = directory
        self.history = directory / "history.db"
        self.policy = self.write("policy.yaml", POLICY)

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def __call__(self, *arguments: str, input: str | bytes | None = None, color: bool = False) -> Result:
        command = ["tc", "--history", str(self.history), *arguments]
        return CliRunner().invoke(main, command, input=input, color=color)

    def applied(self, text: str = POLICY) -> Result:
        done = self("apply", "eth0", "--file", self.write("applied.yaml", text))
        assert done.exit_code == 0, done.output
        return done

    def changes(self) -> list[dict[str, Any]]:
        found = json.loads(self("history", "--json").stdout)
        assert isinstance(found, list)
        return found


def terminal(kernel: FakeKernel, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One where ``podlane`` finds this kernel, with all features and no sidecar."""
    monkeypatch.setattr(kernel_access, "open_kernel", lambda **_: kernel)
    monkeypatch.setattr(kernel_access, "probe_features", lambda: ALL_FEATURES)
    monkeypatch.setattr(sidecar_check, "sidecar_runs_here", lambda: False)
    return Terminal(kernel, directory)
