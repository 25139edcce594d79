"""What the benchmark in network namespaces has published, to be shown beside a cluster's figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.kind.variants import ASIDE, KERNEL, PLAIN, RELAY

COLUMNS: Final = {
    PLAIN.name: "direct",
    RELAY.name: "Podlane relay",
    ASIDE.name: "Podlane step aside",
    KERNEL.name: "direct, HTB",
}
"""Variants here, and whom they are there. By port alone there is no proxy in the way: HTB without any."""
ROWS: Final = {
    ("connections", "per_s"): "new connections, connections/s",
    ("connections", "p50_us"): "new connections, p50, µs",
    ("connections", "p99_us"): "new connections, p99, µs",
    ("connections", "cpu_per_1000"): "new connections: CPU per 1,000 connections, s",
    ("keepalive", "per_s"): "keep-alive requests, 50 connections, requests/s",
    ("keepalive", "p50_us"): "keep-alive requests, 50 connections, p50, µs",
    ("keepalive", "p99_us"): "keep-alive requests, 50 connections, p99, µs",
    ("keepalive", "cpu_per_1000"): "keep-alive requests, 50 connections: CPU per 1,000 requests, s",
    ("bulk", "gbit_s"): "bulk up, 1 stream, Gbit/s",
    ("bulk", "cpu_per_gib"): "bulk up, 1 stream: CPU per GiB, s",
    ("accuracy", "share_10"): "10 Mbit/s: measured / computed",
    ("accuracy", "share_100"): "100 Mbit/s: measured / computed",
}
"""The same measures: (measurement, figure) here, and the row there."""

Figures = Mapping[tuple[str, str], str]
"""By row and column."""


def published(page: str) -> Figures:
    """The figures of a page's tables that have a column of Podlane's relay; of several the last one counts."""
    found: dict[tuple[str, str], str] = {}
    head: list[str] = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
        elif COLUMNS[RELAY.name] in head and len(cells) == len(head):
            found |= {(cells[0], column): cell for column, cell in zip(head[1:], cells[1:], strict=True)}
    return found
