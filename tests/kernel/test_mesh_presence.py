"""Finding the mesh by its rules, in whichever tables they are; and being refused what a mesh would not let pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from istio_native import native_rules_of
from istio_rules import Mode, rules_of
from sidecars import refused_sidecar

from datapath.mesh.join import find_mesh, resolve
from datapath.mesh.types import ISTIO, ISTIO_AMBIENT, LINKERD, MeshProxy
from podlane.netns import Host, Lab
from traffic_policy.errors import ConfigError
from traffic_policy.settings import Mesh

pytestmark = pytest.mark.root

CONSUL = "*nat\n:CONSUL_PROXY_OUTPUT - [0:0]\n-A CONSUL_PROXY_OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"


@pytest.fixture
def pod(lab: Lab) -> Host:
    return lab.host("pod")


@pytest.mark.parametrize("tables", ["nft", "legacy"])
@pytest.mark.parametrize(
    ("rules", "proxy"),
    [
        (rules_of(4, Mode.REDIRECT), ISTIO),
        (rules_of(4, Mode.TPROXY), ISTIO),
        (rules_of(4, Mode.AMBIENT), ISTIO_AMBIENT),
        (CONSUL, None),
    ],
    ids=["REDIRECT", "TPROXY", "ambient", "Consul"],
)
def test_a_mesh_is_found_by_its_rules(pod: Host, tables: str, rules: str, proxy: MeshProxy | None) -> None:
    with pod.namespace.entered():
        assert find_mesh() is None
        assert resolve(Mesh.AUTO) is None
        assert resolve(Mesh.ISTIO) is ISTIO
        assert resolve(Mesh.LINKERD) is LINKERD
    pod.run([f"iptables-{tables}-restore", "--noflush"], stdin=rules)
    with pod.namespace.entered():
        assert resolve(Mesh.AUTO) == proxy
        assert resolve(Mesh.NONE) is None
        with pytest.raises(ConfigError, match=r"--mesh linkerd: The rules .* are those of (Istio|Consul)"):
            resolve(Mesh.LINKERD)


MINE = "table inet mine {\nchain output { type nat hook output priority -90; }\nchain istio-output {\nskgid 7 return\n}\n}\n"


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (native_rules_of(Mode.REDIRECT), (ISTIO, "REDIRECT", {15001, 15006})),
        (native_rules_of(Mode.TPROXY), (ISTIO, "TPROXY", {15001, 15006})),
        (native_rules_of(Mode.REDIRECT, gid=2000), (replace(ISTIO, group=2000), "REDIRECT", {15001, 15006})),
        (native_rules_of(Mode.AMBIENT), (ISTIO_AMBIENT, "REDIRECT", {15001, 15006})),
    ],
    ids=["REDIRECT", "TPROXY", "another gid", "ambient"],
)
def test_istio_is_found_by_nftables_of_its_own(pod: Host, rules: str, found: tuple[MeshProxy, str, set[int]]) -> None:
    pod.run(["nft", "-f", "-"], stdin=MINE)
    with pod.namespace.entered():
        assert find_mesh() is None
    pod.run(["nft", "-f", "-"], stdin=rules)
    with pod.namespace.entered():
        mesh = find_mesh()
        assert resolve(Mesh.AUTO) == found[0]
    assert mesh is not None
    assert (mesh.mesh, mesh.proxy, mesh.inbound, set(mesh.ports)) == (Mesh.ISTIO, *found)


@pytest.mark.parametrize(
    ("mesh", "remedy"), [("istio", "Set runAsGroup: 1337"), ("linkerd", "Add SETUID to the container's capabilities")]
)
def test_what_the_mesh_would_redirect_again_is_refused_from_the_start(
    pod: Host, tmp_path: Path, mesh: str, remedy: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("total: 1Mbit\nclasses: [{name: a, rate: 8kbit, match: {sni: a.example}}]")
    poor = ("setpriv", *(f"--{which}=-setuid,-setgid" for which in ("bounding-set", "inh-caps")), "--")
    code, said = refused_sidecar(pod, "--policy", str(policy), "--interface", "lo", "--mesh", mesh, wrapped=poor)
    assert code in (1, 2)
    assert remedy in said
    assert "PODLANE" not in pod.run(["iptables-save"]).stdout
