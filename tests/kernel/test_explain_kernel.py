"""What ``podlane explain`` prints, pasted into a shell, is what the sidecar or ``podlane tc`` would install."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from datapath.netfilter.install import Installer, detect_backend
from datapath.netfilter.ruleset import CaptureSettings, build_ruleset
from podlane.explain import explain
from podlane.netns import Lab
from tc_core.apply.plan import observe_interface, plan
from tc_core.compile.packet_tree import lanes_of
from tc_core.probe import features
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import load_policy

pytestmark = pytest.mark.root

CONTENT = """
total: 100Mbit
classes:
  - {name: backup, rate: 1Mbit, match: [{cidr: [10.0.0.0/8, "fd00::/8"], port: [873]}, {protocol: udp, port: "5000-5010"}]}
  - {name: api, rate: 20Mbit, match: [{sni: ["*.example.com"]}, {host: api.example.com, port: [80, "8000-8100"]}]}
"""
KERNEL_ONLY = """
total: 100Mbit
classes: [{name: backup, rate: 1Mbit, match: [{cidr: [10.0.0.0/8]}]}]
"""


@pytest.mark.parametrize("text", [CONTENT, KERNEL_ONLY], ids=["content", "kernel only"])
def test_pasted_rules_are_the_ones_that_the_sidecar_wants(lab: Lab, tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    result = CliRunner().invoke(explain, ["--policy", str(path), "--only", "rules"])
    assert result.exit_code == 0
    pod = lab.host("pod")
    pod.run(["sh", "-e"], stdin=result.output)
    policy = load_policy(path)
    ruleset = build_ruleset(policy, ClassIds.assign(c.name for c in policy.classes), CaptureSettings(interface="eth0"))
    with pod.namespace.entered():
        report = Installer(detect_backend()).install(ruleset)
    assert not report.changed


PACKETS = """
total: 100Mbit
ingress: {total: 50Mbit}
classes:
  - {name: ops, rate: 20Mbit, queue: fifo, ingress: {rate: 5Mbit}, match: [{application: ssh}, {mark: 0x10/0xff}]}
  - {name: lab, rate: 1Mbit, queue: fifo, match: [{protocol: icmp}, {source: [192.0.2.0/24, "2001:db8::/32"]}]}
default: {queue: fifo}
"""


def test_pasted_tc_commands_are_what_podlane_tc_wants(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(PACKETS)
    result = CliRunner().invoke(explain, ["--policy", str(path), "--only", "tc"])
    assert result.exit_code == 0
    pod = lab.link(lab.host("pod"), "eth0", lab.host("server"), "eth0").a.host
    pod.run(["sh", "-e"], stdin=result.output)
    wanted = lanes_of(load_policy(path), "eth0", features.probe())
    with pod.namespace.entered(), NetlinkKernel() as kernel:
        steps = plan(observe_interface(kernel, "eth0"), wanted)
    assert [change.command(name) for name, change in steps] == []
