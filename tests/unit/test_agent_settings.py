"""The agent's settings: where workloads come from, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from node_agent import main
from node_agent.settings import load_settings
from traffic_policy.errors import ConfigError
from traffic_policy.pod.mode import Mode


def test_a_node_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({"node": "n1"}).mode is Mode.NONE
    monkeypatch.setenv("PODLANE_AGENT_NODE", "n2")
    monkeypatch.setenv("PODLANE_AGENT_MODE", "agent")
    made = load_settings({})
    assert (made.node, made.mode) == ("n2", Mode.AGENT)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "Name this node by --node, or a file of workloads by --workloads"),
        ({"node": ""}, "Name this node by --node"),
        ({"node": "n1", "workloads": Path("w.yaml")}, "Take --node away, or --workloads"),
        ({"node": "n1", "mode": "sidecar"}, "Write --mode agent or --mode none"),
        ({"node": "n1", "mode": "on"}, "--mode: "),
    ],
    ids=["nothing", "empty", "both", "sidecar", "no mode"],
)
def test_what_does_not_go_together_is_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_settings(given)


def test_without_an_api_server_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="Name a kubeconfig by --kubeconfig"):
        trio.run(main.serve, load_settings({"node": "n1"}))
