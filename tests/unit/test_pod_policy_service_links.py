"""Variables that Kubernetes sets for Services, told from settings."""

from __future__ import annotations

import pytest

from sidecar.config.settings import load_settings
from traffic_policy.errors import ConfigError
from traffic_policy.pod.service_links import service_behind, service_link

OF_THE_KUBELET = {
    "REDIS_PRIMARY_SERVICE_HOST": "10.0.0.11",
    "REDIS_PRIMARY_SERVICE_PORT": "6379",
    "REDIS_PRIMARY_SERVICE_PORT_METRICS": "9121",
    "REDIS_PRIMARY_PORT": "tcp://10.0.0.11:6379",
    "REDIS_PRIMARY_PORT_6379_TCP": "tcp://10.0.0.11:6379",
    "REDIS_PRIMARY_PORT_6379_TCP_PROTO": "tcp",
    "REDIS_PRIMARY_PORT_6379_TCP_PORT": "6379",
    "REDIS_PRIMARY_PORT_6379_TCP_ADDR": "10.0.0.11",
}
"""As https://kubernetes.io/docs/concepts/services-networking/service/ has them, and a named port."""


@pytest.mark.parametrize("variable", OF_THE_KUBELET)
def test_every_variable_of_a_service_is_known(variable: str) -> None:
    assert service_behind(variable) == "redis-primary"


@pytest.mark.parametrize("variable", ["PODLANE_SILENT_PORTS", "PODLANE_GRACE", "PODLANE_INJECTOR_SERVICE", "PORT"])
def test_other_variables_are_nobodys(variable: str) -> None:
    assert service_behind(variable) is None


@pytest.mark.parametrize("value", ["15109", 15109, "tcp://", "http://10.0.0.1:80", None])
def test_a_setting_that_is_merely_wrong_is_not_blamed_on_a_service(value: object) -> None:
    assert service_link("PODLANE_ADMIN_PORT", value) is None


@pytest.mark.parametrize("address", ["tcp://10.0.0.11:9901", "udp://10.0.0.11:53", "tcp://[fd00::7]:9901"])
def test_the_sidecar_says_whose_address_it_was_given(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODLANE_ADMIN_PORT", address)
    with pytest.raises(ConfigError) as error:
        load_settings({"policy": "p"})
    assert str(error.value) == (
        f"PODLANE_ADMIN_PORT: '{address}' is the address of the Service podlane-admin, which Kubernetes puts in this "
        "variable. Set enableServiceLinks: false in the Pod's spec, or this variable to what it should be."
    )
