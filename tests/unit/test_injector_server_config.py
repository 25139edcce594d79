"""The injector's settings: the command line, the environment, the reference, and what cannot be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from injector.pod.defaults import InjectionDefaults
from injector.server.config import ENVIRONMENT, InjectorSettings, load_settings
from injector.server.metrics import InjectorMetrics
from podlane.injector import injector
from tests.unit.test_docs import table_keys
from traffic_policy.errors import ConfigError

DOCUMENT = Path(__file__).parents[2] / "docs/reference/injector.md"
FILES = {"certificate": "tls.crt", "key": "tls.key"}


def test_the_settings_table_is_the_settings_class_and_the_command_line() -> None:
    text = DOCUMENT.read_text()
    fields = InjectorSettings.model_fields
    assert table_keys(text, "setting") == list(fields)
    assert {option.name for option in injector.params} - {"ready_fd"} == set(fields)
    for name, field in fields.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        shown = row.split("|")[2].strip()
        value = field.default
        if value not in (None, "", ()):
            assert shown == f"`{str(value).lower() if value is True else value}`", name
        else:
            assert not shown.startswith("`"), name


def test_every_metric_in_the_docs_exists_and_is_documented() -> None:
    documented = {
        re.sub(r"_total$", "", name) for name in re.findall(r"`(podlane_injector_\w+)`", DOCUMENT.read_text())
    }
    rendered = re.findall(r"# TYPE (podlane_\w+)", InjectorMetrics().render().decode())
    assert documented == {re.sub(r"_(total|created)$", "", name) for name in rendered}


def test_environment_variables_are_settings_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENVIRONMENT}SECRET", "tls")
    monkeypatch.setenv(f"{ENVIRONMENT}PORT", "1234")
    monkeypatch.setenv(f"{ENVIRONMENT}MEMORY_LIMIT", "")
    monkeypatch.setenv(f"{ENVIRONMENT}IMAGE_PULL_SECRETS", "one, two")
    variables = "PODLANE_MAX_CONNECTIONS=500,PODLANE_SILENT_PORTS=25,3306, PODLANE_EXCLUDE_OUTBOUND_PORTS="
    monkeypatch.setenv(f"{ENVIRONMENT}SIDECAR_ENVIRONMENT", variables)
    settings = load_settings({"port": 4321, "image": "registry.example/podlane:1", "address": None})
    assert (settings.secret, settings.port) == ("tls", 4321)
    assert settings.defaults() == InjectionDefaults(
        image="registry.example/podlane:1",
        image_pull_secrets=("one", "two"),
        memory_limit=None,
        environment=(
            ("PODLANE_MAX_CONNECTIONS", "500"),
            ("PODLANE_SILENT_PORTS", "25,3306"),
            ("PODLANE_EXCLUDE_OUTBOUND_PORTS", ""),
        ),
    )


def test_the_defaults_are_those_of_injection() -> None:
    assert load_settings(FILES).defaults() == InjectionDefaults()


def test_the_certificate_is_for_all_names_of_the_service() -> None:
    names = load_settings({**FILES, "names": "127.0.0.1,injector.example"}).certificate_names("podlane")
    assert names == (
        "podlane-injector.podlane.svc",
        "podlane-injector.podlane.svc.cluster.local",
        "podlane-injector.podlane",
        "podlane-injector",
        "127.0.0.1",
        "injector.example",
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param({}, "no certificate to serve.*--certificate and --key.*--secret", id="nothing to serve"),
        pytest.param({"certificate": "a"}, "Give both --certificate and --key", id="no key"),
        pytest.param({"key": "a"}, "Give both --certificate and --key", id="no certificate"),
        pytest.param({**FILES, "secret": "a"}, "not both", id="files and Secret"),
        pytest.param({**FILES, "port": 8080}, "both are 8080", id="one port twice"),
        pytest.param({**FILES, "port": 70000}, "--port: .*65535", id="no port"),
        pytest.param({**FILES, "deadline": "0s"}, "--deadline: Zero", id="no time"),
        pytest.param({**FILES, "linger": "soon"}, "--linger: 'soon' is not a duration", id="no duration"),
        pytest.param({**FILES, "ca_lifetime": "1h"}, "--ca-lifetime: 1h is too short", id="short authority"),
        pytest.param({**FILES, "names": "a b"}, "--names: 'a b' is no name", id="no name"),
        pytest.param({**FILES, "memory_limit": "much"}, "memory-limit: 'much'", id="no quantity"),
        pytest.param({**FILES, "image_pull_policy": "Sometimes"}, "'Sometimes'.*Always", id="no policy"),
        pytest.param({**FILES, "sidecar_environment": "PODLANE_GRACE"}, "NAME=VALUE", id="no value"),
        pytest.param({**FILES, "sidecar_environment": "PATH=/"}, "PATH cannot be set", id="no setting"),
        pytest.param({**FILES, "sidecar_environment": "25,PODLANE_GRACE=1s"}, "'25' has no value", id="no name"),
    ],
)
def test_settings_that_cannot_be_used_name_the_remedy(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_settings(given)


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENVIRONMENT}GRACE", "x")
    with pytest.raises(ConfigError, match="PODLANE_INJECTOR_GRACE: 'x'"):
        load_settings(FILES)


def test_a_services_address_in_a_setting_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODLANE_INJECTOR_PORT", "tcp://10.96.7.3:443")
    with pytest.raises(ConfigError) as error:
        load_settings(FILES)
    assert str(error.value) == (
        "PODLANE_INJECTOR_PORT: 'tcp://10.96.7.3:443' is the address of the Service podlane-injector, which Kubernetes "
        "puts in this variable. Set enableServiceLinks: false in the Pod's spec, or this variable to what it should be."
    )
