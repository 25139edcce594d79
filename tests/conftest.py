"""Shared by all tests: on CI nothing may be skipped, since a skip there hides a missing package or privilege."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest
from durations import Durations
from hypothesis import settings
from nightly import mark_variants

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# Hundreds of programs are started, each of which would compile all of Podlane: 0.4 s of a processor's time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_HANDLED = (signal.SIGINT, signal.SIGHUP)


def _deliver(ignored: list[int]) -> None:
    """Let the programs that tests start have the default actions of signals that this process ignores.

    Who starts a run in the background ignores some (nohup(1)), and children inherit that; of a handler they inherit nothing.
    """
    for number in ignored:
        signal.signal(number, lambda *_: None)


def pytest_configure(config: pytest.Config) -> None:
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    ignored = [int(number) for number in _HANDLED if signal.getsignal(number) is signal.SIG_IGN]
    _deliver(worker["ignored_signals"] if worker else ignored)
    _MEANT.update({number: signal.getsignal(number) for number in (*_HANDLED, signal.SIGTERM)})
    if not worker:
        durations = Durations()
        config.pluginmanager.register(durations)
        if not config.getoption("numprocesses", None):
            return
        config.pluginmanager.register(_TellWorkers(ignored))
    import parallel  # only now: tests also run where there is no pytest-xdist (tools/other-libxtables)

    config.pluginmanager.register(parallel.Worker(config) if worker else parallel.Controller(durations))


_MEANT: dict[int, Any] = {}
"""What this process does on signals."""


def _heed_signals() -> None:
    """A verb that a test calls in this process ignores signals at its end (``podlane.console``): programs that are started
    afterwards would inherit that, and not end when they are told to."""
    for number, action in _MEANT.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _heed_signals()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    _heed_signals()


class _TellWorkers:
    """They are started by a process that has handlers by now, and would not know."""

    def __init__(self, ignored: list[int]) -> None:
        self._ignored = ignored

    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["ignored_signals"] = self._ignored


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only ``make test-nightly`` runs, unless ``-m`` speaks of it."""
    mark_variants(items)
    if "nightly" in config.option.markexpr:
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly:
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} test(s) skipped on CI, where everything must run.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
