"""``/policy`` of a real sidecar: what is in force, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sidecars import start_sidecar

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

POLICY = """
total: 100Mbit
classes:
  - {name: api, rate: 20Mbit, ceil: 80Mbit, priority: 1, match: [{host: api.example.com}, {sni: api.example.com}]}
  - {name: slow, rate: 1Mbit, ceil: 4Mbit, match: {host: slow.example.com}}
  - {name: backup, rate: 1Mbit, match: {port: 873, cidr: 10.0.0.0/8}}
"""


@pytest.mark.parametrize("datapath", ["relay", "step-aside"])
def test_the_policy_says_how_each_class_is_found_and_what_the_kernel_has(
    topology: PodNodeServer, tmp_path: Path, datapath: str
) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path, "--datapath", datapath)
    document = json.loads(sidecar.get("/policy"))
    assert document["source"] == {"policy": str(sidecar.policy)}
    assert document["policy"]["classes"][1] == {
        "name": "slow", "rate": "1Mbit", "ceil": "4Mbit", "match": [{"host": ["slow.example.com"]}],
    }  # fmt: skip
    classes = {each["name"]: each for each in document["classes"]}
    assert {name: each["found_by"] for name, each in classes.items()} == {
        "api": [datapath], "slow": [datapath], "backup": ["kernel rule"], "default": ["default"],
    }  # fmt: skip
    slow = classes["slow"]
    assert (slow["id"], slow["handle"], slow["mark"]) == (2, "1:102", "0x2000000/0xff000000")
    assert slow["asked"] == slow["in_force"] == {"rate": "1Mbit", "ceil": "4Mbit", "priority": 4}
    assert slow["reason"].startswith("slow is guaranteed 1 Mbit/s (1 % of the total), and may borrow up to 4 Mbit/s")
    assert classes["backup"]["matches"][0]["traffic"] == "TCP and UDP on port 873 to 10.0.0.0/8"
    assert classes["default"]["asked"]["ceil"] == "100Mbit"
    # Somebody meddles: what is asked for stays, and what the kernel has is told.
    change = "tc class change dev eth0 parent 1:1 classid 1:102 htb rate 2mbit ceil 3mbit burst 64k cburst 64k prio 4"
    topology.pod.run(change.split())
    meddled = {each["name"]: each for each in json.loads(sidecar.get("/policy"))["classes"]}["slow"]
    assert (meddled["asked"]["ceil"], meddled["in_force"]["ceil"]) == ("4Mbit", "3Mbit")


def test_a_changed_policy_is_told(topology: PodNodeServer, tmp_path: Path) -> None:
    sidecar = start_sidecar(topology.pod, POLICY, tmp_path)
    sidecar.reload(POLICY.replace("ceil: 4Mbit", "ceil: 5Mbit").replace("name: api", "name: web"))
    classes = {each["name"]: each for each in json.loads(sidecar.get("/policy"))["classes"]}
    assert list(classes) == ["web", "slow", "backup", "default"]
    assert classes["slow"]["in_force"]["ceil"] == "5Mbit"
    assert classes["slow"]["id"] == 2, "a class that stays keeps its id"
