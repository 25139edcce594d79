"""The access log of ``podlane run``: standard output is COMMAND's, so it goes to a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from runs import RunHost
from webserver import start_nginx

pytestmark = pytest.mark.root


def test_podlane_run_has_one_in_a_file_and_leaves_standard_output_alone(runs: RunHost, tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    start_nginx(runs.server, tmp_path / "nginx")
    with_log = {**os.environ, "PODLANE_ACCESS_LOG": "connections", "PODLANE_ACCESS_LOG_FILE": str(path)}
    ask = ["curl", "-sS", "-H", "Host: a.example.test", f"http://{runs.server_ipv4}/who"]
    done = runs.run(ask, ["--user", "root"], env=with_log)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("|a.example.test|")
    [line] = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["podlane"]["class"], line["url"]["domain"]) == ("web", "a.example.test")
