"""Says where the time of a test run went, and keeps it by module in ``durations.tsv``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("durations.tsv")
UPDATE = "PODLANE_UPDATE_DURATIONS"
LONGEST = 15
LEAST_S = 2.0
"""Modules that take less are not kept."""


def recorded() -> dict[str, float]:
    """Seconds by module, as they were kept; empty when nothing was."""
    if not FILE.exists():
        return {}
    lines = (line.split("\t") for line in FILE.read_text().splitlines() if not line.startswith("#"))
    return {module: float(seconds) for seconds, module in lines}


@dataclass(frozen=True)
class _Part:
    name: str
    began: float
    busy_s: float


def _busy_s() -> float:
    """Seconds that all processors together have worked since the machine started (proc_stat(5))."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Durations:
    """Adds up what tests and their fixtures take; the sum is larger than the run where several run at a time."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._parts = [_Part("side by side", self._began, _busy_s())]
        self._modules: dict[str, float] = {}
        self._tests: dict[str, set[str]] = {}

    def next_part(self, name: str) -> None:
        """What comes now is told of by itself."""
        self._parts.append(_Part(name, time.monotonic(), _busy_s()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        module = report.nodeid.partition("::")[0]
        self._modules[module] = self._modules.get(module, 0.0) + report.duration
        self._tests.setdefault(module, set()).add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self._modules) < 2:
            return
        terminalreporter.section("where the time went")
        for line in self.lines():
            terminalreporter.write_line(line)
        if os.environ.get(UPDATE):
            self.keep()

    def lines(self) -> list[str]:
        """The parts of the run, the sums of folders, and the longest modules."""
        folders: dict[str, tuple[float, int]] = {}
        for module, seconds in self._modules.items():
            folder = module.rpartition("/")[0]
            before, tests = folders.get(folder, (0.0, 0))
            folders[folder] = before + seconds, tests + len(self._tests[module])
        longest = sorted(self._modules.items(), key=lambda item: -item[1])[:LONGEST]
        whole = sum(self._modules.values())
        return [
            f"{whole:6.0f} s of tests in {time.monotonic() - self._began:.0f} s",
            *(self._lines_of_parts() if len(self._parts) > 1 else ()),
            *(
                f"{seconds:6.0f} s {folder}: {tests} tests"
                for folder, (seconds, tests) in sorted(folders.items(), key=lambda item: -item[1][0])
            ),
            *(f"{seconds:6.0f} s {module}: {len(self._tests[module])} tests" for module, seconds in longest),
        ]

    def _lines_of_parts(self) -> Iterator[str]:
        for part, following in pairwise([*self._parts, _Part("", time.monotonic(), _busy_s())]):
            seconds = following.began - part.began
            share = (following.busy_s - part.busy_s) / max(seconds, 1e-3) / (os.cpu_count() or 1)
            yield f"{seconds:6.0f} s {part.name}; the processors were busy for {share:.0%} of them"

    def keep(self) -> None:
        """Write what was seen; modules that did not run stay as they were."""
        seconds = {**recorded(), **self._modules}
        kept = sorted((item for item in seconds.items() if item[1] >= LEAST_S), key=lambda item: -item[1])
        head = f"# Seconds of each test module, where {LEAST_S:g} or more; written by {UPDATE}=1 make test.\n"
        FILE.write_text(head + "".join(f"{value:.0f}\t{module}\n" for module, value in kept))
