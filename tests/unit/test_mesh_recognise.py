"""Which mesh is here, told by its rules; and what cannot be had beside one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from captured_logs import capture_logs
from istio_rules import Mode, rules_of

from datapath.mesh.check import beyond_mesh
from datapath.mesh.detect import DetectedMesh, detect_mesh
from datapath.mesh.join import resolve
from datapath.mesh.types import ISTIO, ISTIO_AMBIENT, LINKERD, MeshProxy
from datapath.netfilter import restore
from traffic_policy.policy_file import parse_policy
from traffic_policy.settings import Datapath, Mesh

LINKERDS = """
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:PROXY_INIT_OUTPUT - [0:0]
:PROXY_INIT_REDIRECT - [0:0]
-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting" -j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
-A PROXY_INIT_OUTPUT -m owner --uid-owner 2103 -m comment --comment "proxy-init/ignore-proxy-user-id" -j RETURN
-A PROXY_INIT_OUTPUT -o lo -m comment --comment "proxy-init/ignore-loopback" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m comment --comment "proxy-init/redirect-all-outgoing-to-proxy-port" -j REDIRECT --to-ports 4140
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4190,4191 -m comment --comment "proxy-init/ignore-port-4190,4191" -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" -j REDIRECT --to-ports 4143
COMMIT
"""
NOTHING_READ = "whether a mesh is here cannot be seen"


def tools(folder: Path, *, works: str = "", fails: str = "") -> str:
    """Folders to look for programs in: those of one implementation work, those of another fail, others are not there."""
    for kind, ends in ((works, "exit 0"), (fails, "echo xtables lock >&2; exit 4")):
        for name in (f"iptables-{kind}-save", f"iptables-{kind}-restore") if kind else ():
            (folder / name).write_text(f"#!/bin/sh\n{ends}\n")
            (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("programs", "warned"),
    [({"fails": "nft"}, True), ({"works": "nft", "fails": "legacy"}, False), ({"works": "nft"}, False)],
    ids=["none can be read", "one can be read", "one is there"],
)
def test_that_a_mesh_cannot_be_looked_for_is_said(
    programs: dict[str, str], warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "_SBIN", "/nowhere")
    monkeypatch.setenv("PATH", tools(tmp_path, **programs))
    with capture_logs() as said:
        assert resolve(Mesh.AUTO) is None
    warnings = [line for line in said if line["log_level"] == "warning"]
    assert [line["event"].startswith(NOTHING_READ) for line in warnings] == [True] * warned
    assert all("xtables lock" in line["error"] and "--mesh istio" in line["remedy"] for line in warnings)
    with capture_logs() as said:
        assert (resolve(Mesh.ISTIO), resolve(Mesh.NONE)) == (ISTIO, None)
    assert not [line for line in said if line["log_level"] == "warning"], "what is asked for holds anyway"


OURS = "*mangle\n:PODLANE-OUT - [0:0]\n-A OUTPUT -j PODLANE-OUT\nCOMMIT\n"
CASES = {
    "REDIRECT": (rules_of(4, Mode.REDIRECT), DetectedMesh(Mesh.ISTIO, "Istio", ISTIO, "REDIRECT", (15001, 15006))),
    "TPROXY": (rules_of(4, Mode.TPROXY), DetectedMesh(Mesh.ISTIO, "Istio", ISTIO, "TPROXY", (15001, 15006))),
    "beside ours": (
        OURS + rules_of(6, Mode.REDIRECT),
        DetectedMesh(Mesh.ISTIO, "Istio", ISTIO, "REDIRECT", (15001, 15006)),
    ),
    "another gid and other ports": (
        rules_of(4, Mode.REDIRECT).replace("1337", "2000").replace("15001", "16001").replace("15006", "16006"),
        DetectedMesh(Mesh.ISTIO, "Istio", replace(ISTIO, group=2000, inbound_port=16006), "REDIRECT", (16001, 16006)),
    ),
    "ambient": (
        rules_of(4, Mode.AMBIENT),
        DetectedMesh(Mesh.ISTIO, "Istio (ambient)", ISTIO_AMBIENT, "REDIRECT", (15001, 15006)),
    ),
    "Linkerd": (
        LINKERDS,
        DetectedMesh(Mesh.LINKERD, "Linkerd", replace(LINKERD, user=2103), "REDIRECT", (4140, 4143)),
    ),
    "Consul": (
        "*nat\n:CONSUL_PROXY_OUTPUT - [0:0]\n-A CONSUL_PROXY_REDIRECT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n",
        DetectedMesh(None, "Consul", ports=(15001,)),
    ),
    "none": (OURS + "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n", None),
    "no rules": ("", None),
    "only mentioned": ('*nat\n-A OUTPUT -m comment --comment "not ISTIO_OUTPUT" -j ACCEPT\nCOMMIT\n', None),
}  # fmt: skip


@pytest.mark.parametrize(("saved", "found"), CASES.values(), ids=CASES)
def test_a_mesh_is_known_by_its_rules(saved: str, found: DetectedMesh | None) -> None:
    assert detect_mesh(saved) == found


NAMED = "total: 1Mbit\nclasses: [{{name: a, rate: 8kbit, match: {{sni: a.example, direction: {}}}}}]"
BY_PORT = "total: 1Mbit\nclasses: [{name: a, rate: 8kbit, match: {port: 80, direction: inbound}}]"


@pytest.mark.parametrize(
    ("policy", "mesh", "datapath", "refused"),
    [
        (NAMED.format("inbound"), ISTIO, Datapath.RELAY, True),
        (NAMED.format("both"), LINKERD, Datapath.RELAY, True),
        (NAMED.format("inbound"), ISTIO, Datapath.STEP_ASIDE, False),
        (NAMED.format("inbound"), ISTIO, Datapath.EBPF, False),
        (NAMED.format("inbound"), None, Datapath.RELAY, False),
        (NAMED.format("outbound"), ISTIO, Datapath.RELAY, False),
        (BY_PORT, ISTIO, Datapath.RELAY, False),
    ],
    ids=["inbound", "both ways", "step-aside", "ebpf", "no mesh", "outbound", "by port"],
)
def test_inbound_names_are_not_for_the_relay(
    policy: str, mesh: MeshProxy | None, datapath: Datapath, refused: bool
) -> None:
    said = beyond_mesh(parse_policy(policy), mesh, datapath)
    assert (said is not None) is refused
    if said is not None:
        assert "Class a: Beside" in said
        assert "Use datapath: step-aside" in said
