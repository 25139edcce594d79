"""Divides tests among the processes of pytest-xdist, and runs those that measure by themselves, after all others.

A module runs in one process, since its tests may share a fixture; so do the folders whose fixtures serve a whole session.
The modules that took longest (``durations.tsv``) begin first, so that no process is left with a long one at the end.
Tests marked ``measure`` run in the controlling process when the others have ended: they need the processors for themselves.
One of them that fails is tried once more. So are a few others that failed: next to them they may have waited in vain. One that
passes by itself has wavered, which is a fault to mend, in the test or in what it tests: the run's end lists it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from durations import recorded
from xdist.scheduler import LoadScopeScheduling

WHOLE_FOLDERS = ("tests/kube/", "tests/image/", "tests/control_plane/kafka/")
"""Their session's fixture is a Kubernetes API server, a container engine, or a broker: one is enough."""


def unit_of_work(nodeid: str) -> str:
    """What one process runs: a test's module, or its folder."""
    return next((folder for folder in WHOLE_FOLDERS if nodeid.startswith(folder)), nodeid.partition("::")[0])


PURE = ("tests/unit/", "tests/fuzz/")
"""What fails here fails again, and is told at once."""
MAY_WAVER = 6
"""More failures than that are not a machine that was busy."""


class _Scheduler(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return unit_of_work(nodeid)


def _measures(item: pytest.Item) -> bool:
    return item.get_closest_marker("measure") is not None


class Worker:
    """In a process of pytest-xdist: everything that does not measure, long modules first."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        seconds = recorded()
        of_unit: dict[str, float] = {}
        for module, duration in seconds.items():
            unit = unit_of_work(module)
            of_unit[unit] = of_unit.get(unit, 0.0) + duration
        items[:] = [item for item in items if not _measures(item)]
        items.sort(key=lambda item: -of_unit.get(unit_of_work(item.nodeid), 0.0))


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
    """Run a test that measures. If it fails it is tried once more, and has to pass: machines are shared."""
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

    def __init__(self) -> None:
        self._wavered: list[pytest.TestReport] = []

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadScopeScheduling:
        config.option.loadscopereorder = False  # that order would be by the number of tests
        return _Scheduler(config, log)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """The others have ended when this goes on."""
        done = yield
        divided = session.testscollected
        session.config.pluginmanager.get_plugin("terminalreporter").ensure_newline()
        session.perform_collect()
        everything = session.items
        session.items = [item for item in everything if _measures(item)]
        session.testscollected = divided + len(session.items)
        # The reports of thousands of tests live here: a full collection would stop a measurement for half a second.
        gc.collect()
        gc.freeze()
        for position, item in enumerate(session.items):
            following = session.items[position + 1] if position + 1 < len(session.items) else None
            _measure(item, following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        self._try_again(session, everything)
        return done

    def _try_again(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Run what failed once more, if it is little and not pure."""
        told = session.config.pluginmanager.get_plugin("terminalreporter").stats
        measured = {item.nodeid for item in session.items}
        failures = [report for kind in ("failed", "error") for report in told.get(kind, [])]
        names = {report.nodeid for report in failures}
        if len(names) > MAY_WAVER or any(name.startswith(PURE) or name in measured for name in names):
            return
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
