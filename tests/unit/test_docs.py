"""What the docs say is what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner
from sidecar_metrics import rendered_metrics

from control_plane.http.app import create_app
from control_plane.metrics import ControlPlaneMetrics
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store
from injector.server.metrics import InjectorMetrics as InjectorMetrics
from node_agent.admin import AgentAdmin
from node_agent.agent import Agent
from node_agent.sources.file import read_workloads
from podlane.main import main
from podlane.sidecar import sidecar
from sidecar.config.settings import SidecarSettings
from traffic_policy.policy import DefaultClass, Match, TrafficClass, TrafficPolicy
from traffic_policy.policy_file import load_policy, parse_policy

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def table_keys(text: str, heading: str) -> list[str]:
    """First cells, without code marks, of the table whose header starts with ``heading``."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(line.split("|")[1].strip().strip("`"))
    return rows


def test_the_settings_table_is_the_settings_class_and_the_command_line() -> None:
    text = (ROOT / "docs/reference/operations.md").read_text()
    fields = SidecarSettings.model_fields
    assert table_keys(text, "setting") == list(fields)
    options = {p.name for p in sidecar.params}
    assert set(fields) == options - {"action", "alone", "cleanup", "ready_fd", "summary_fd", "supervisor_fd"}
    for name, field in fields.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        default = row.split("|")[2].strip().strip("`")
        if default not in ("none", "the policy's", "the default route's"):
            value = field.default
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            assert default == (shown.lower() if isinstance(value, bool) else shown), name


def test_the_policy_reference_names_every_key_and_no_other() -> None:
    keys = set(table_keys((ROOT / "docs/reference/policy.md").read_text(), "key"))
    models = (TrafficPolicy, TrafficClass, DefaultClass, Match)
    assert keys == {name for model in models for name in model.model_fields}


def types_exported(text: str, prefix: str) -> dict[str, str]:
    """The type of each metric, in Prometheus' text format."""
    return {
        name: kind for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE) if name.startswith(prefix)
    }


def test_every_metric_in_the_docs_exists() -> None:
    text = (ROOT / "docs/reference/operations.md").read_text()
    documented = set(re.findall(r"`(podlane_\w+)`", text))
    exported = {
        re.sub(r"_(total|bucket|created)$", "", name)
        for name in types_exported(rendered_metrics().decode(), "podlane_")
    }
    assert {re.sub(r"_total$", "", name) for name in documented} <= exported


def metrics_of_control_plane(folder: Path) -> str:
    with closing(open_store(f"sqlite:{folder}/events.db")) as store:
        app = create_app(ControlPlane(store))
        metrics: ControlPlaneMetrics = app.state.metrics
        return metrics.render().decode()


def test_the_page_of_metrics_has_those_that_are_exported_and_no_other(tmp_path: Path) -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text()
    documented = dict(re.findall(r"^\| `(podlane_\w+)` \| (\w+) \|", text, re.MULTILINE))
    of_injector = types_exported(InjectorMetrics().render().decode(), "podlane_injector_")
    of_agent = types_exported(AgentAdmin(cast("Agent", SimpleNamespace(running={}))).metrics().decode(), "podlane_")
    exported = types_exported(rendered_metrics().decode(), "podlane_") | of_injector | of_agent
    exported |= types_exported(metrics_of_control_plane(tmp_path), "podlane_")
    assert documented == {name: kind for name, kind in exported.items() if not name.endswith("_created")}


def test_the_page_of_the_command_line_is_what_the_command_line_says() -> None:
    """In a process of its own, with nothing of this one's environment that help texts could depend on."""
    command = [sys.executable, str(ROOT / "tools/cli_reference.py")]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    page = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs/reference/cli.md").read_text() == page, "python tools/cli_reference.py > docs/reference/cli.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_policies_in_the_docs_load_and_links_lead_somewhere(document: Path, tmp_path: Path) -> None:
    text = document.read_text()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        if "workloads:" in block:
            (tmp_path / "workloads.yaml").write_text(block)
            (tmp_path / "web.yaml").write_text("total: 1Mbit")
            assert all(each.lanes for each in read_workloads(tmp_path / "workloads.yaml").workloads.values())
        elif "total:" in block and "apiVersion:" not in block:  # test_pod_policy_docs reads those
            parse_policy(block)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_prose_is_wrapped(document: Path) -> None:
    """At 120 columns. Not tables, blocks of code, pictures, and what benchmarks write between their markers."""
    written = re.sub(
        r"<!-- (\w+): begin.*?<!-- \1: end -->|^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE
    )
    prose = [line for line in written.splitlines() if not line.startswith(("|", "![", "`make "))]
    assert [line for line in prose if len(line) > 120] == []


def test_every_page_that_code_and_pages_name_is_there() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    folders = (*packages, "charts", "docs", "examples", "tests")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py", ".yaml")
    ]
    named = {(page, file) for file in [*files, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "Dockerfile"]
             for page in re.findall(r"(?<![\w./-])docs/[\w./-]+\.(?:md|json|svg)", file.read_text())}  # fmt: skip
    assert len(named) > 50
    assert [(page, str(file)) for page, file in sorted(named) if not (ROOT / page).exists()] == []


_TOO_MUCH = """
total: 50Mbit
classes:
  - {name: a, rate: 40Mbit, match: [{port: "1-10"}]}
  - {name: b, rate: 40Mbit, match: [{port: 11}]}
"""


@pytest.mark.parametrize(
    ("document", "policy"),
    [
        ("README.md", _TOO_MUCH),
        (
            "docs/reference/policy.md",
            _TOO_MUCH.replace("port: 11", "port: 3, protocol: tcp").replace(
                "match: [{port: 3", "ceil: 30Mbit, match: [{port: 3"
            ),
        ),
    ],
)
def test_errors_in_the_docs_are_what_is_printed(
    document: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(policy)
    done = CliRunner().invoke(main, ["explain", "--policy", "wrong.yaml"])
    assert f"$ podlane explain --policy wrong.yaml\n{done.output}```" in (ROOT / document).read_text()


def test_the_way_from_nothing_to_a_shaped_pod_is_the_one_that_is_tried() -> None:
    """The tests in kind type what the tutorial says; the README has the same lines."""
    tried = re.findall(r"```console\n.*?```", (ROOT / "docs/tutorials/shaped-pod.md").read_text(), re.DOTALL)[0]
    assert tried in (ROOT / "README.md").read_text()


def test_the_policy_in_the_readme_is_the_example_file() -> None:
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    assert parse_policy(block[1]) == load_policy(ROOT / "examples/policy.yaml")
