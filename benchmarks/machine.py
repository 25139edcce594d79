"""What the figures were measured on: processor, kernel, distribution, tools, date."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.candidates.base import said_version
from podlane.netns.tools import find_tool


def describe() -> dict[str, str]:
    """Facts by name, as text."""
    kib = int(_first(r"MemTotal:\s+(\d+)", "/proc/meminfo") or 0)
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _first(r"model name\s*: (.+)", "/proc/cpuinfo"),
        "cpus": str(os.cpu_count()),
        "memory": f"{kib / 2**20:.1f} GiB",
        "kernel": platform.release(),
        "system": _first(r'PRETTY_NAME="(.+)"', "/etc/os-release"),
        "python": platform.python_version(),
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
    for tool, argument in (("wrk", "-v"), ("iperf3", "-v"), ("h2load", "--version"), ("nginx", "-v")):
        path = find_tool(tool)
        facts[tool] = _version_in(tool, said_version(path, argument)) if path else "not installed"
    return facts


def _version_in(tool: str, line: str) -> str:
    """``wrk 4.1.0`` of ``wrk debian/4.1.0-3+b2 [epoll] Copyright ...``."""
    found = re.search(r"\d+(?:\.\d+)+", line)
    return f"{tool} {found[0]}" if found else line


def _first(pattern: str, path: str) -> str:
    try:
        found = re.search(pattern, Path(path).read_text())
    except OSError:
        return ""
    return found[1] if found else ""
