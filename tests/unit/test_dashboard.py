"""The Grafana dashboard of the chart: it asks for metrics that there are, and shows all that sidecars have."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sidecar_metrics import rendered_metrics

from injector.server.metrics import InjectorMetrics as InjectorMetrics

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "charts/podlane/dashboards/podlane.json").read_text()
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
_SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}


def families(text: bytes) -> dict[str, str]:
    return {family.name: family.type for family in text_string_to_metric_families(text.decode())}


SIDECAR = families(rendered_metrics())
INJECTOR = families(InjectorMetrics().render())


def asked() -> set[str]:
    expressions = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
    expressions += [v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    return {name for e in expressions for name in re.findall(r"\b(?:podlane|process)_[a-z_]+", e)}


def test_every_metric_that_is_asked_for_exists() -> None:
    there = {name + suffix for name, kind in (SIDECAR | INJECTOR).items() for suffix in _SAMPLES[kind]}
    assert asked() - there == set()


def test_every_metric_of_a_sidecar_is_shown() -> None:
    shown = asked()
    assert {name for name, kind in SIDECAR.items() if not shown & {name + suffix for suffix in _SAMPLES[kind]}} == set()


def test_queries_about_sidecars_are_of_the_chosen_pods() -> None:
    for panel in PANELS:
        for target in panel.get("targets", []):
            for name, selector in re.findall(r"\b(podlane_(?!injector)[a-z_]+)(\{.*?\})?", target["expr"]):
                assert selector == '{namespace=~"$namespace",pod=~"$pod"}', (panel["title"], name)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_brackets_close(panel: dict[str, Any]) -> None:
    for target in panel.get("targets", []):
        for one, other in ("()", "[]", "{}"):
            assert target["expr"].count(one) == target["expr"].count(other)


def test_panels_have_places_of_their_own() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24
