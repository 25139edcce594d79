"""Containers that may send raw packets: warned of, robbed of it, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from injected_pods import USUAL, container, planned, pod
from test_injector_admission import answer, patched, review

from injector.errors import InjectionError
from injector.pod.admission import mutate, validate
from injector.pod.defaults import InjectionDefaults, NetRaw

WARN = USUAL
DROP = replace(USUAL, net_raw=NetRaw.DROP)
REFUSE = replace(USUAL, net_raw=NetRaw.REFUSE)
BY_DEFAULT: dict[str, dict[str, Any] | None] = {
    "nothing": {},
    "null": None,
    "no capabilities": {"runAsUser": 0},
    "no drop": {"capabilities": {"add": ["CHOWN"]}},
    "another drop": {"capabilities": {"drop": ["CHOWN"]}},
}
ASKED: dict[str, dict[str, Any]] = {
    "added": {"capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]}},
    "with prefix": {"capabilities": {"add": ["CAP_NET_RAW"]}},
    "all": {"capabilities": {"add": ["ALL"]}},
    "privileged": {"privileged": True, "capabilities": {"drop": ["ALL"]}},
}
WITHOUT: dict[str, dict[str, Any]] = {
    "all dropped": {"capabilities": {"drop": ["ALL"]}},
    "dropped": {"capabilities": {"drop": ["NET_RAW"]}},
    "another added": {"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["all"]}},
}


def with_security(security: Mapping[str, Any] | None, *, init: bool = False) -> dict[str, Any]:
    made = pod("app", init=("first",))
    container(made, "first" if init else "app")["securityContext"] = security
    container(made, "app" if init else "first")["securityContext"] = {"capabilities": {"drop": ["ALL"]}}
    return made


def mutated(given: dict[str, Any], defaults: InjectionDefaults) -> dict[str, Any]:
    response = answer(mutate, review(given), defaults=defaults)
    return patched(given, response) if "patch" in response else given


@pytest.mark.parametrize("security", BY_DEFAULT.values(), ids=BY_DEFAULT)
@pytest.mark.parametrize("init", [False, True])
def test_what_a_runtime_gives_is_taken_only_if_so_set(security: dict[str, Any] | None, init: bool) -> None:
    given = with_security(security, init=init)
    name = "first" if init else "app"
    assert not planned(given, WARN).warnings, "every Pod would be warned of"
    assert container(mutated(given, WARN), name)["securityContext"] == security
    after = mutated(given, DROP)
    assert container(after, name)["securityContext"]["capabilities"]["drop"][-1] == "NET_RAW"
    assert container(after, "podlane")["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert mutated(after, DROP) == after
    assert answer(validate, review(after), defaults=DROP)["allowed"]
    assert not answer(validate, review(mutated(given, WARN)), defaults=DROP)["allowed"], "another webhook gave it back"
    with pytest.raises(InjectionError, match=rf"^Container {name} can send .*capabilities.drop to \[NET_RAW\]"):
        planned(given, REFUSE)


@pytest.mark.parametrize("security", ASKED.values(), ids=ASKED)
def test_who_asks_for_it_has_it_with_a_warning_or_is_refused(security: dict[str, Any]) -> None:
    given = with_security(security)
    for defaults in (WARN, DROP):
        expected = [] if "privileged" in security else ["Container app"]
        assert [w.split(" can ")[0] for w in planned(given, defaults).warnings] == expected
        assert container(mutated(given, defaults), "app")["securityContext"] == security
        assert answer(validate, review(mutated(given, defaults)), defaults=defaults)["allowed"]
    with pytest.raises(InjectionError, match=r"^Container app can send"):
        planned(given, REFUSE)


@pytest.mark.parametrize("security", WITHOUT.values(), ids=WITHOUT)
@pytest.mark.parametrize("defaults", [WARN, DROP, REFUSE], ids=["warn", "drop", "refuse"])
def test_who_does_not_have_it_is_left_alone(security: dict[str, Any], defaults: InjectionDefaults) -> None:
    given = with_security(security)
    assert not planned(given, defaults).warnings
    assert container(mutated(given, defaults), "app")["securityContext"] == security


def test_a_mesh_may_have_it() -> None:
    given = pod("app", "istio-proxy", init=("istio-init",))
    container(given, "istio-init")["securityContext"] = {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}
    container(given, "app")["securityContext"] = {"capabilities": {"drop": ["ALL"]}}
    assert not planned(given, REFUSE).warnings
