"""The Grafana dashboards of the chart: they ask for metrics that there are, and show all of sidecars and agents."""

from __future__ import annotations

import json
import re
from contextlib import closing
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sidecar_metrics import rendered_metrics

from control_plane.http.app import create_app
from control_plane.metrics import ControlPlaneMetrics
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store
from injector.server.metrics import InjectorMetrics
from node_agent.admin import AgentAdmin

if TYPE_CHECKING:
    from node_agent.agent import Agent

FOLDER = Path(__file__).parents[2] / "charts/podlane/dashboards"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "podlane.json").read_text())
AGENT_DASHBOARD: dict[str, Any] = json.loads((FOLDER / "podlane-agent.json").read_text())
PLANE_DASHBOARD: dict[str, Any] = json.loads((FOLDER / "podlane-control-plane.json").read_text())
DASHBOARDS = (DASHBOARD, AGENT_DASHBOARD, PLANE_DASHBOARD)
EACH = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: str(each["uid"]))
_SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}


def families(text: bytes) -> dict[str, str]:
    return {family.name: family.type for family in text_string_to_metric_families(text.decode())}


SIDECAR = families(rendered_metrics())
INJECTOR = families(InjectorMetrics().render())


AGENT = families(AgentAdmin(cast("Agent", SimpleNamespace(running={}))).metrics())


def metrics_of_control_plane() -> bytes:
    with TemporaryDirectory() as folder, closing(open_store(f"sqlite:{folder}/events.db")) as store:
        metrics: ControlPlaneMetrics = create_app(ControlPlane(store)).state.metrics
        return metrics.render()


PLANE = families(metrics_of_control_plane())


def expressions(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """Each question with the title of its panel."""
    return [(panel["title"], t["expr"]) for panel in dashboard["panels"] for t in panel.get("targets", [])]


def asked(dashboard: dict[str, Any]) -> set[str]:
    questions = [expression for _, expression in expressions(dashboard)]
    questions += [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    return {name for e in questions for name in re.findall(r"\b(?:podlane|process)_[a-z_]+", e)}


def samples(exported: dict[str, str]) -> set[str]:
    return {name + suffix for name, kind in exported.items() for suffix in _SAMPLES[kind]}


@pytest.mark.parametrize(
    ("dashboard", "there"),
    [(DASHBOARD, SIDECAR | INJECTOR), (AGENT_DASHBOARD, AGENT), (PLANE_DASHBOARD, PLANE)],
    ids=["injector", "agent", "control plane"],
)
def test_every_metric_that_is_asked_for_exists(dashboard: dict[str, Any], there: dict[str, str]) -> None:
    assert asked(dashboard) - samples(there) == set()


@pytest.mark.parametrize(
    ("dashboard", "exported"),
    [
        (DASHBOARD, SIDECAR),
        (AGENT_DASHBOARD, {name: kind for name, kind in AGENT.items() if "podlane" in name}),
        (PLANE_DASHBOARD, {name: kind for name, kind in PLANE.items() if "podlane" in name}),
    ],
    ids=["sidecar", "agent", "control plane"],
)
def test_every_metric_is_shown(dashboard: dict[str, Any], exported: dict[str, str]) -> None:
    shown = asked(dashboard)
    assert {name for name, kind in exported.items() if not shown & samples({name: kind})} == set()


def test_queries_about_sidecars_are_of_the_chosen_pods() -> None:
    for title, expression in expressions(DASHBOARD):
        for name, selector in re.findall(r"\b(podlane_(?!injector)[a-z_]+)(\{.*?\})?", expression):
            assert selector == '{namespace=~"$namespace",pod=~"$pod"}', (title, name)


def test_queries_about_agents_are_of_the_chosen_nodes_and_pods() -> None:
    for title, expression in expressions(AGENT_DASHBOARD):
        for name, selector in re.findall(r"\b((?:podlane|process)_[a-z_]+)(\{.*?\})?", expression):
            of_node = name.startswith(
                (
                    "process_",
                    "podlane_agent_workloads",
                    "podlane_agent_datapaths",
                    "podlane_agent_cni_calls",
                    "podlane_agent_control_plane",
                    "podlane_budget_bits",
                )
            )
            chosen = 'node=~"$node"' if of_node else '{node=~"$node",namespace=~"$namespace",pod=~"$pod"}'
            assert chosen in selector, (title, name)


def test_queries_about_tenants_are_of_the_chosen_ones() -> None:
    for title, expression in expressions(PLANE_DASHBOARD):
        for name, selector in re.findall(r"\bpodlane_control_plane_([a-z_]+)(\{.*?\})?", expression):
            if name.startswith(("lane_", "events_")) or name == "agents":
                assert 'tenant=~"$tenant"' in selector, (title, name)


@EACH
def test_brackets_close(dashboard: dict[str, Any]) -> None:
    for title, expression in expressions(dashboard):
        for one, other in ("()", "[]", "{}"):
            assert expression.count(one) == expression.count(other), title


@EACH
def test_panels_have_places_of_their_own(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24


def test_the_dashboards_are_told_apart() -> None:
    assert len({(each["uid"], each["title"]) for each in DASHBOARDS}) == len(DASHBOARDS)
