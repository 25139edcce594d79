"""The operator that records policies in a control plane, as the chart makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rendering import HelmError, Values, of_kind, render, the

from cluster_operator.settings import load_settings

PLANE = {"url": "https://plane.example.com:15180", "cluster": "east", "tokenSecret": "plane-token"}


def rendered(**plane: object) -> list[dict[str, Any]]:
    manifests = render(Values({"agent": {"enabled": True}, "operator": {"controlPlane": plane}}))
    return [m for m in manifests if m["metadata"]["labels"].get("app.kubernetes.io/component") == "operator"]


def test_without_a_url_it_mounts_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = rendered()
    spec = the(mine, "Deployment")["spec"]["template"]["spec"]
    assert "volumes" not in spec
    assert "fsGroup" not in spec["securityContext"]
    for variable in spec["containers"][0]["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert load_settings({}).control_plane == ""
    (egress,) = the(mine, "NetworkPolicy")["spec"]["egress"]
    assert {each["port"] for each in egress["ports"]} == {443, 6443}


def test_with_one_it_has_a_token_and_may_go_there(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = rendered(**PLANE, caSecret="plane-ca", ports=[15180])
    spec = the(mine, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = load_settings({})
    assert (settings.control_plane, settings.cluster) == (PLANE["url"], "east")
    assert settings.token_file is not None
    assert settings.control_plane_ca is not None
    volumes = {each["name"]: each["secret"] for each in spec["volumes"]}
    files = {
        Path(mount["mountPath"], item["path"]): volumes[mount["name"]]["secretName"]
        for mount in container["volumeMounts"]
        for item in volumes[mount["name"]]["items"]
    }
    assert files == {settings.token_file: "plane-token", settings.control_plane_ca: "plane-ca"}
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
    assert volumes["token"]["defaultMode"] == 0o440
    ports = {each["port"] for rule in the(mine, "NetworkPolicy")["spec"]["egress"] for each in rule["ports"]}
    assert ports == {443, 6443, 15180, 53}
    without = rendered()
    assert list(of_kind(mine, "ClusterRole")) == list(of_kind(without, "ClusterRole")), "it takes no further rights"


@pytest.mark.parametrize("missing", ["cluster", "tokenSecret"])
def test_what_is_missing_is_said(missing: str) -> None:
    with pytest.raises(HelmError, match=f"operator.controlPlane.{missing}: "):
        rendered(**{key: value for key, value in PLANE.items() if key != missing})
