"""Sidecar settings: sources, defaults, errors."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from sidecar.config.settings import load_settings
from traffic_policy.errors import ConfigError
from traffic_policy.ports import PortRange
from traffic_policy.units import Duration, Rate


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


def test_workers_are_a_number_or_as_many_as_there_is_use_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({"policy": "p"}).workers == 1
    assert load_settings({"policy": "p", "workers": "auto", "datapath": "step-aside"}).workers == "auto"
    monkeypatch.setenv("PODLANE_WORKERS", "4")
    assert load_settings({"policy": "p"}).workers == 4


def test_silent_ports_may_be_none_at_all() -> None:
    assert load_settings({"policy": "p", "silent_ports": ""}).silent_ports == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {},
            "--policy (or PODLANE_POLICY) is missing. Name the policy file, or the file of a Pod's annotations by --annotations.",
        ),
        (
            {"policy": "p", "annotations": "a"},
            "--policy and --annotations: There are two policies, p and that of the annotations in a.",
        ),
        (
            {"annotations": "a", "total": "5Mbit"},
            "--total and --annotations: The annotation podlane.io/egress-bandwidth is the total.",
        ),
        ({"policy": "p", "shared_policy": "s"}, "--shared-policy: It belongs to a Pod's annotations."),
        ({"policy": "p", "exclude_outbound_ports": "80,x"}, "--exclude-outbound-ports: 'x' is not a port."),
        (
            {"policy": "p", "exclude_outbound_cidrs": "10.0.0.1/8"},
            "--exclude-outbound-cidrs: '10.0.0.1/8' has address bits",
        ),
        ({"policy": "p", "total": "50"}, "--total: '50' has no unit"),
        ({"policy": "p", "detection_timeout": "1"}, "--detection-timeout: '1' is not a duration"),
        ({"policy": "p", "silent_ports": "25;3306"}, "as in 25,3306"),
        ({"policy": "p", "outbound_port": 0}, "--outbound-port"),
        ({"policy": "p", "max_connections": 0}, "--max-connections"),
        ({"policy": "p", "idle_timeout": "0s"}, "--idle-timeout: Zero would end every connection at once"),
        ({"policy": "p", "connect_timeout": "0ms"}, "--connect-timeout: Zero"),
        ({"policy": "p", "log_level": "loud"}, "--log-level"),
        (
            {"policy": "p", "workers": "many"},
            "--workers: 'many' is not a number of workers. Write one from 1 to 64, or",
        ),
        ({"policy": "p", "workers": 0}, "--workers: 0 is not a number of workers"),
        (
            {"policy": "p", "workers": 4, "max_connections": 3},
            "--workers and --max-connections: 4 workers share 3 connections, but each needs at least one.",
        ),
        (
            {"policy": "p", "workers": 2, "datapath": "step-aside"},
            "--workers: With --datapath step-aside connections are not relayed",
        ),
        (
            {"policy": "p", "workers": 2, "datapath": "ebpf"},
            "--workers: With --datapath ebpf connections are not relayed",
        ),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(given)
    assert words in str(error.value)


def test_exclusions_are_lists_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODLANE_EXCLUDE_OUTBOUND_PORTS", "25, 9000-9100")
    monkeypatch.setenv("PODLANE_EXCLUDE_OUTBOUND_CIDRS", "10.0.0.0/8,fd00::1")
    settings = load_settings({"policy": "p"})
    assert settings.exclude_outbound_ports == (PortRange(25, 25), PortRange(9000, 9100))
    assert settings.exclude_outbound_cidrs == (ip_network("10.0.0.0/8"), ip_network("fd00::1"))
    assert load_settings({"policy": "p", "exclude_outbound_ports": ""}).exclude_outbound_ports == ()


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODLANE_IDLE_TIMEOUT", "forever")
    with pytest.raises(ConfigError, match="PODLANE_IDLE_TIMEOUT"):
        load_settings({"policy": "p"})
