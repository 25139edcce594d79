"""Divides tests among the processes of pytest-xdist, and runs those that measure by themselves, after all others.

A module runs in one process, since its tests may share a fixture; so do the folders whose fixtures serve a whole session.
The modules that took longest (``durations.tsv``) begin first, so that no process is left with a long one at the end.
Tests marked ``measure`` run in the controlling process when the others have ended: they need the processors for themselves.
One of them that fails is tried once more.
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


def _measure(item: pytest.Item, following: pytest.Item | None) -> None:
    """Run a test that measures. If it fails it is tried once more, and has to pass: machines are shared."""
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=following)
    if any(report.failed for report in reports):
        terminal = item.config.pluginmanager.get_plugin("terminalreporter")
        terminal.ensure_newline()
        for report in reports:
            if report.failed:
                terminal.write_line(report.longreprtext)
        terminal.write_line(f"{item.nodeid} failed and is tried once more", yellow=True)
        reports = runtestprotocol(item, log=False, nextitem=following)
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


class Controller:
    """In the process that people start, when it divides the work."""

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
        session.items[:] = [item for item in session.items if _measures(item)]
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
        return done
