"""Sidecar settings: sources, defaults, errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config import load_settings
from sidecar.errors import ConfigError
from tc_core.units import Duration, Rate


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODLANE_POLICY", "env.yaml")
    monkeypatch.setenv("PODLANE_TOTAL", "50Mbit")
    monkeypatch.setenv("PODLANE_SILENT_PORTS", "25,3306")
    monkeypatch.setenv("PODLANE_DETECTION_TIMEOUT", "500ms")
    settings = load_settings({"total": "20Mbit", "interface": None})
    assert settings.policy == Path("env.yaml")
    assert settings.total == Rate.parse("20Mbit")
    assert settings.silent_ports == (25, 3306)
    assert settings.detection_timeout == Duration.parse("500ms")


def test_the_proxy_and_the_admin_server_need_ports_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"--outbound-port and --admin-port: Both are 15109, but each needs"):
        load_settings({"policy": "p", "outbound_port": 15109})


def test_silent_ports_may_be_none_at_all() -> None:
    assert load_settings({"policy": "p", "silent_ports": ""}).silent_ports == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "--policy (or PODLANE_POLICY) is missing"),
        ({"policy": "p", "total": "50"}, "--total: '50' has no unit"),
        ({"policy": "p", "detection_timeout": "1"}, "--detection-timeout: '1' is not a duration"),
        ({"policy": "p", "silent_ports": "25;3306"}, "as in 25,3306"),
        ({"policy": "p", "outbound_port": 0}, "--outbound-port"),
        ({"policy": "p", "max_connections": 0}, "--max-connections"),
        ({"policy": "p", "idle_timeout": "0s"}, "--idle-timeout: Zero would end every connection at once"),
        ({"policy": "p", "connect_timeout": "0ms"}, "--connect-timeout: Zero"),
        ({"policy": "p", "log_level": "loud"}, "--log-level"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(given)
    assert words in str(error.value)


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODLANE_IDLE_TIMEOUT", "forever")
    with pytest.raises(ConfigError, match="PODLANE_IDLE_TIMEOUT"):
        load_settings({"policy": "p"})
