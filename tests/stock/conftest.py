"""Puts what ran on which kernel into the closing lines of the test report."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "stock kernel" and report.when == "call":
                terminalreporter.write_line(f"{name}: {value}")
