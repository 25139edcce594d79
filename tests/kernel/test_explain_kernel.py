"""What ``podlane explain`` prints, pasted into a shell, is what the sidecar would install."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from podlane.explain import explain
from podlane.lab import Lab
from sidecar.netfilter.install import Installer, detect_backend
from sidecar.netfilter.ruleset import CaptureSettings, build_ruleset
from tc_core.marks import ClassIds
from tc_core.policy_file import load_policy

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
