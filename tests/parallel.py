"""Divides tests among the processes of pytest-xdist, and runs those that measure after all others.

A module runs in one process, since its tests may share a fixture; so do modules whose fixtures serve a whole session, in
as many groups as there may be of what they start. The modules that took longest (``durations.tsv``) begin first, so that no
process is left with a long one at the end.
Tests marked ``measure`` compare rates far below what the machine can do: they run when the others have ended, a few at a time,
since they wait most of the time. Tests marked ``alone`` compare times, or rates near to what the machine can do: they come last,
one by one, in the controlling process.
A test that is ``alone`` and fails is tried once more. So is one that measures and failed next to another, and so are a few others:
next to the crowd they may have waited in vain. One that passes then has wavered, which is a fault to mend, in the test or in
what it tests: the run's end lists it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from durations import Durations, recorded
from xdist.scheduler import LoadScopeScheduling

GROUPS = {"tests/kube/": 2, "tests/image/": 1, "tests/control_plane/kafka/": 1}
"""Folders whose session's fixture is a Kubernetes API server, a container engine, or a broker: how many of it there may be."""
MEASURING_PROCESSES = 3
"""Each of them keeps a fifth of a processor busy (benchmarks apart, hostile programs and rates of some Mbit/s wait)."""
PURE = ("tests/unit/", "tests/fuzz/")
"""What fails here fails again, and is told at once."""
MAY_WAVER = 6
"""More failures than that are not a machine that was busy."""
NEW_S = 30.0
"""Seconds that a module is taken to last of which nothing is recorded: one that is new should not be the last to begin."""


class Units:
    """What one process runs without a break: a test's module, or a group of modules of a folder of :data:`GROUPS`."""

    def __init__(self) -> None:
        self._seconds = recorded()
        self._unit_of: dict[str, str] = {}
        self._lasts: dict[str, float] = {}
        for module, seconds in sorted(self._seconds.items(), key=lambda item: -item[1]):
            unit = self._unit_of[module] = self._shortest_group(module) or module
            self._lasts[unit] = self._lasts.get(unit, 0.0) + seconds

    def _shortest_group(self, module: str) -> str | None:
        """The group of its folder in which least is so far; None for modules that are by themselves."""
        folder = next((folder for folder in GROUPS if module.startswith(folder)), None)
        groups = [f"{folder}{number}" for number in range(GROUPS[folder])] if folder else []
        return min(groups, key=lambda group: self._lasts.get(group, 0.0), default=None)

    def of(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return self._unit_of.get(module) or self._shortest_group(module) or module

    def seconds(self, nodeid: str) -> float:
        """How long its unit lasts, as far as is known."""
        unknown = 0.0 if nodeid.startswith(PURE) else NEW_S
        return self._lasts.get(self.of(nodeid), unknown)


class _Scheduler(LoadScopeScheduling):
    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._units = Units()

    def _split_scope(self, nodeid: str) -> str:
        return self._units.of(nodeid)


def _is(item: pytest.Item, *names: str) -> bool:
    return any(item.get_closest_marker(name) is not None for name in names)


class Worker:
    """In a process of pytest-xdist: everything that does not measure, or what it is told to measure; long modules first."""

    def __init__(self, config: pytest.Config) -> None:
        self._config: Any = config
        self._measure: list[str] = self._config.workerinput["measure"]
        self._left_out: list[str] = []

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._left_out += [item.nodeid for item in items]

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        if not self._measure or collection_path.is_dir() or not collection_path.name.startswith("test_"):
            return None
        module = collection_path.relative_to(self._config.rootpath).as_posix()
        return not any(nodeid.startswith(f"{module}::") for nodeid in self._measure) or None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._measure:
            chosen = set(self._measure)
            items[:] = [item for item in items if item.nodeid in chosen]
        else:
            alone = [item.nodeid for item in items if _is(item, "alone")]
            measure = [item.nodeid for item in items if _is(item, "measure") and not _is(item, "alone")]
            self._config.workeroutput.update(alone=alone, measure=measure, left_out=self._left_out)
            items[:] = [item for item in items if not _is(item, "alone", "measure")]
        units = Units()
        items.sort(key=lambda item: -units.seconds(item.nodeid))

    def pytest_collection_finish(self) -> None:
        """What is there stays: the collector need not look through ten thousand tests again and again."""
        gc.collect()
        gc.freeze()


def _run(item: pytest.Item, following: pytest.Item | None) -> list[pytest.TestReport]:
    """Run a test by itself; nothing is said of it yet."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    return runtestprotocol(item, log=False, nextitem=following)


def _tell(item: pytest.Item, reports: list[pytest.TestReport]) -> None:
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _failed(reports: list[pytest.TestReport]) -> bool:
    return any(report.failed for report in reports)


def _measure(item: pytest.Item, following: pytest.Item | None) -> None:
    """Run a test by itself. If it fails it is tried once more, and has to pass: machines are shared."""
    reports = _run(item, following)
    if _failed(reports):
        terminal = item.config.pluginmanager.get_plugin("terminalreporter")
        terminal.ensure_newline()
        for report in reports:
            if report.failed:
                terminal.write_line(report.longreprtext)
        terminal.write_line(f"{item.nodeid} failed and is tried once more", yellow=True)
        reports = _run(item, following)
    _tell(item, reports)


class Controller:
    """In the process that people start, when it divides the work."""

    def __init__(self, durations: Durations) -> None:
        self._durations = durations
        self._wavered: list[pytest.TestReport] = []
        self._alone: list[str] = []
        self._beside: list[str] = []
        """What measures, but not alone."""
        self._left_out: list[str] = []
        """What was not to run at all. All three are what the processes of the crowd tell."""
        self._told: list[str] = []
        """What the processes that are started now have to measure; those of the crowd nothing."""
        self._session: pytest.Session | None = None
        """Once all processes have ended that run everything else."""
        self._number = 0

    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["measure"] = self._told

    def pytest_testnodedown(self, node: Any) -> None:
        said = getattr(node, "workeroutput", {})
        if "measure" in said:
            self._alone, self._beside, self._left_out = said["alone"], said["measure"], said["left_out"]

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadScopeScheduling:
        config.option.loadscopereorder = False  # that order would be by the number of tests
        return _Scheduler(config, log)

    def pytest_runtest_logstart(self) -> None:
        """Let the terminal speak of a part of all tests, not of those that these processes have."""
        if self._session is not None:
            self._session.testscollected = self._number

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """The others have ended when this goes on."""
        done = yield
        self._session, self._number = session, session.testscollected + len(self._beside) + len(self._alone)
        self._durations.next_part("few at a time")
        if len(self._beside) > 1:
            self._measure_beside(session)
        else:
            self._alone += self._beside
        self._durations.next_part("alone")
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        terminal.ensure_newline()
        told = terminal.stats
        failures = [report for kind in ("failed", "error") for report in told.get(kind, [])]
        items = _collected(session, {*self._alone, *(report.nodeid for report in failures)})
        session.testscollected = self._number
        told["deselected"] = [SimpleNamespace(nodeid=nodeid) for nodeid in self._left_out]
        # The reports of thousands of tests live here: a full collection would stop a measurement for half a second.
        gc.collect()
        gc.freeze()
        alone = set(self._alone)
        session.items = [item for item in items if item.nodeid in alone]
        for position, item in enumerate(session.items):
            following = session.items[position + 1] if position + 1 < len(session.items) else None
            _measure(item, following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        self._try_again(session, items, failures)
        return done

    def _measure_beside(self, session: pytest.Session) -> None:
        """Have other processes do so, in place of those of the crowd, which have ended."""
        self._told = self._beside
        distribution = session.config.pluginmanager.get_plugin("dsession")
        distribution.nodemanager.teardown_nodes()
        session.config.option.tx = ["popen"] * min(MEASURING_PROCESSES, len(session.config.option.tx))
        distribution.shuttingdown = False
        distribution.pytest_sessionstart(session)
        distribution.pytest_runtestloop()

    def _try_again(self, session: pytest.Session, items: list[pytest.Item], failures: list[pytest.TestReport]) -> None:
        """Run what failed next to others once more, if it is little and not pure."""
        names = {report.nodeid for report in failures}
        if len(names - set(self._beside)) > MAY_WAVER or any(name.startswith(PURE) for name in names):
            return
        told = session.config.pluginmanager.get_plugin("terminalreporter").stats
        for item in items:
            if item.nodeid not in names or _failed(reports := _run(item, None)):
                continue
            before = [report for report in failures if report.nodeid == item.nodeid]
            self._wavered += before
            for kind in ("passed", "failed", "error"):
                told[kind] = [report for report in told.get(kind, []) if report.nodeid != item.nodeid]
            session.testsfailed -= len(before)
            _tell(item, reports)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._wavered:
            return
        terminalreporter.section("wavered: failed next to others, passed alone; a fault to mend", yellow=True)
        for report in self._wavered:
            terminalreporter.write_line(f"{report.nodeid} ({report.when})", yellow=True)
            terminalreporter.write_line(report.longreprtext)


def _collected(session: pytest.Session, nodeids: set[str]) -> list[pytest.Item]:
    """These tests, in this process, which has collected nothing so far."""
    modules = sorted({nodeid.partition("::")[0] for nodeid in nodeids})
    places = [str(session.config.rootpath / module) for module in modules]
    places = [place for place in places if os.path.exists(place)]  # a failure may be of no test
    if places:
        session.perform_collect(places)
    return [item for item in session.items if item.nodeid in nodeids]
