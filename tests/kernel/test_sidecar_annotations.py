"""A sidecar whose policy and settings are in its Pod's annotations, in a file as the kubelet writes it."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from downward import Volume, format_map
from sidecars import RunningSidecar, refused_sidecar, start_annotated, state_of
from waiting import until
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

API = '[{name: api, rate: 10Mbit, match: {host: "*.example.com"}}]'
SHARED = "total: 50Mbit\nclasses: [{name: web, rate: 5Mbit, match: {host: web.example.org}}]\n"


def annotations(**said: str) -> str:
    """The file's text; ``egress_bandwidth="100M"`` stands for ``podlane.io/egress-bandwidth: 100M``."""
    return format_map({f"podlane.io/{key.replace('_', '-')}": value for key, value in said.items()})


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "pod", "annotations", annotations(egress_bandwidth="100M", classes=API))


@pytest.fixture
def web(topology: PodNodeServer, tmp_path: Path) -> PodNodeServer:
    start_nginx(topology.server, tmp_path / "nginx")
    return topology


def get(world: PodNodeServer, host: str, port: int = 80, *options: str) -> None:
    url = f"http://{world.server_ipv4}:{port}/who"
    world.pod.run(["curl", "-sS", "--max-time", "15", "-H", f"Host: {host}", *options, url])


def limits(sidecar: RunningSidecar) -> dict[str, int]:
    return {name: shown["rate_bits_per_second"] for name, shown in sidecar.classes().items()}


def said_after(sidecar: RunningSidecar, words: str, change: Mapping[str, str], volume: Volume) -> str:
    """Change the annotations, wait until the log has ``words``; what was logged from there on."""
    seen = sidecar.log.stat().st_size
    volume.write(annotations(**change))
    until(f"{words!r} in the log", lambda: words in sidecar.log.read_text()[seen:])
    return sidecar.log.read_text()[seen:]


def test_a_pod_gets_what_its_annotations_say(web: PodNodeServer, volume: Volume, tmp_path: Path) -> None:
    before = state_of(web.pod)
    sidecar = start_annotated(web.pod, volume.file, tmp_path)
    assert limits(sidecar) == {"api": 10_000_000, "default": 1_000_000}
    get(web, "x.example.com")
    get(web, "example.org")
    assert sidecar.connections("api") == {"http1": 1}
    assert sidecar.connections("default") == {"http1": 1}
    assert sidecar.stop() == 0
    assert state_of(web.pod) == before


def test_annotations_win_over_options_and_environment(web: PodNodeServer, volume: Volume, tmp_path: Path) -> None:
    volume.write(annotations(egress_bandwidth="100M", classes=API, log_level="debug", exclude_outbound_ports="", datapath="relay"))  # fmt: skip
    options = ("--log-level=error", "--exclude-outbound-ports=80", "--datapath=step-aside")
    sidecar = start_annotated(web.pod, volume.file, tmp_path, *options)
    assert "ready" in sidecar.log.read_text()
    get(web, "x.example.com")
    assert sidecar.connections("api") == {"http1": 1}
    assert "TPROXY" in web.pod.run(["iptables-save", "-t", "mangle"]).stdout


def test_changed_annotations_come_into_force_by_themselves(web: PodNodeServer, volume: Volume, tmp_path: Path) -> None:
    sidecar = start_annotated(web.pod, volume.file, tmp_path)
    changed = {"egress_bandwidth": "50M", "classes": API.replace("10M", "20M"), "exclude_outbound_ports": "8080"}
    said = said_after(sidecar, "policy in force", changed, volume)
    assert "warning" not in said
    assert limits(sidecar) == {"api": 20_000_000, "default": 500_000}
    get(web, "x.example.com", 8080, "--http2-prior-knowledge")
    get(web, "x.example.com")
    assert sidecar.connections("api") == {"http1": 1}
    sidecar.process.send_signal(signal.SIGHUP)
    until("SIGHUP to be answered", lambda: sidecar.log.read_text().count("policy in force") == 2)


def test_wrong_annotations_leave_the_old_ones_in_force(web: PodNodeServer, volume: Volume, tmp_path: Path) -> None:
    sidecar = start_annotated(web.pod, volume.file, tmp_path)
    wrong = {"egress_bandwidth": "5M", "classes": API, "exclude_outbound_ports": "80"}
    said = said_after(sidecar, "not used", wrong, volume)
    assert "podlane.io/classes: classes[0].rate: Cannot guarantee 10 Mbit/s inside 5 Mbit/s." in said
    assert limits(sidecar)["api"] == 10_000_000
    get(web, "x.example.com")
    assert sidecar.connections("api") == {"http1": 1}


def test_a_change_that_cannot_be_put_in_force_is_taken_back_whole(
    topology: PodNodeServer, volume: Volume, tmp_path: Path
) -> None:
    by_port = {"egress_bandwidth": "100M", "classes": "[{name: web, rate: 1Mbit, match: {port: 80}}]"}
    volume.write(annotations(**by_port))
    sidecar = start_annotated(topology.pod, volume.file, tmp_path)
    before = state_of(topology.pod)
    wanted = {"egress_bandwidth": "100M", "classes": API, "exclude_outbound_ports": "80"}
    with topology.pod.namespace.entered():
        taken = socket.create_server(("127.0.0.1", 15101))
    with taken:
        assert "15101" in said_after(sidecar, "not used", wanted, volume)
        assert state_of(topology.pod) == before
    sidecar.process.send_signal(signal.SIGHUP)
    until("the new classes", lambda: set(limits(sidecar)) == {"api", "default"})
    rules = partial(topology.pod.run, ["iptables-save", "-t", "mangle"])
    until("the rules, which come after the classes", lambda: "--dport 80 -j RETURN" in rules().stdout)


def test_what_changes_only_with_a_new_start_is_named(web: PodNodeServer, volume: Volume, tmp_path: Path) -> None:
    sidecar = start_annotated(web.pod, volume.file, tmp_path)
    later = {"detection_timeout": "2s", "datapath": "step-aside", "log_level": "info", "memory_limit": "256Mi"}
    said = said_after(sidecar, "policy in force", {"egress_bandwidth": "50M", "classes": API, **later}, volume)
    assert (
        "Not in force before the Pod is created again: podlane.io/detection-timeout (2s), podlane.io/datapath (step-aside), "
        "podlane.io/memory-limit (256Mi)." in said
    )
    assert limits(sidecar)["default"] == 500_000
    get(web, "x.example.com")
    assert sidecar.connections("api") == {"http1": 1}


def test_a_shared_policy_is_followed_too(web: PodNodeServer, volume: Volume, tmp_path: Path) -> None:
    volume.write(annotations(policy="lanes", classes=API))
    shared = Volume(tmp_path / "policy", "lanes/policy.yaml", SHARED)
    sidecar = start_annotated(web.pod, volume.file, tmp_path, "--shared-policy", str(shared.folder))
    assert limits(sidecar) == {"api": 10_000_000, "web": 5_000_000, "default": 500_000}
    shared.write(SHARED.replace("5Mbit", "6Mbit"))
    until("the new shared policy to be in force", lambda: limits(sidecar)["web"] == 6_000_000)
    said = said_after(sidecar, "not used", {"policy": "others"}, volume)
    assert "podlane.io/policy: It names ConfigMap others, but " in said
    assert limits(sidecar)["web"] == 6_000_000


def test_another_shared_policy_changes_nothing_before_the_pod_is_made_anew(
    web: PodNodeServer, volume: Volume, tmp_path: Path
) -> None:
    """In a Pod that the injector made, while the sidecar runs and when its container is started again."""
    shared = Volume(tmp_path / "policy", "lanes/policy.yaml", SHARED)
    volume.write(annotations(policy="lanes", classes=API, status="{}"))
    sidecar = start_annotated(web.pod, volume.file, tmp_path, "--shared-policy", str(shared.folder))
    before = limits(sidecar)
    assert sidecar.get("/healthz") == "ok\n"
    renamed = {"policy": "others", "classes": API, "status": "{}"}
    waits = "podlane.io/policy: It names ConfigMap others now, but this Pod was made with lanes, which stays in force."
    assert waits in said_after(sidecar, "policy in force", renamed, volume)
    assert limits(sidecar) == before
    assert sidecar.stop() == 0
    again = start_annotated(web.pod, volume.file, tmp_path, "--shared-policy", str(shared.folder))
    assert limits(again) == before
    assert waits in again.log.read_text()
    assert again.get("/healthz") == f"ok\n{waits} Create the Pod again.\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (annotations(egress_bandwidth="10Mbit"), "podlane.io/egress-bandwidth: '10Mbit' is not a Kubernetes quantity. Write 10M for 10 Mbit/s."),
        (annotations(policy="lanes"), "podlane.io/policy: It names ConfigMap lanes, but --shared-policy is missing."),
        ("egress-bandwidth: 10M", 'Line 1 is not key="value".'),
    ],
    ids=["an annotation", "a shared policy that is not mounted", "another file"],
)  # fmt: skip
def test_a_start_with_wrong_annotations_says_which_and_changes_nothing(
    topology: PodNodeServer, tmp_path: Path, text: str, words: str
) -> None:
    before = state_of(topology.pod)
    file = tmp_path / "annotations"
    file.write_text(text)
    code, said = refused_sidecar(topology.pod, "--annotations", str(file))
    assert code == 2
    assert words in said
    assert state_of(topology.pod) == before


def test_a_missing_file_is_named(topology: PodNodeServer) -> None:
    code, said = refused_sidecar(topology.pod, "--annotations", "/nowhere/annotations")
    assert code == 2
    assert "There is no file /nowhere/annotations." in said


def test_excluded_traffic_goes_by_the_sidecar(web: PodNodeServer, tmp_path: Path) -> None:
    """A whole sidecar with --exclude-outbound-cidrs: the application meets the server itself."""
    folder = tmp_path / "pod"
    file = Volume(folder, "annotations", annotations(egress_bandwidth="100M", classes=API)).file
    sidecar = start_annotated(web.pod, file, tmp_path, f"--exclude-outbound-cidrs={web.server_ipv4}/32")
    get(web, "x.example.com")
    assert sidecar.connections("api") == {}
    until("the default class to have it", lambda: sidecar.classes()["default"]["bytes"] > 400)


def governance(*classes: str, total: str = "100Mbit", **more: object) -> str:
    """What the operator writes: a policy of the cluster with classes of 10Mbit."""
    lanes = [{"name": each, "rate": "10Mbit", "match": [{"host": [f"{each}.example.com"]}]} for each in classes]
    about = {"name": "TrafficPolicy web", "uid": "1", "generation": 1}
    return json.dumps({"policy": {**about, "spec": {"total": total, "classes": lanes}}, **more})


def test_a_policy_of_the_cluster_is_followed_while_it_runs(web: PodNodeServer, volume: Volume, tmp_path: Path) -> None:
    """As it begins, as it changes, within caps, beneath annotations, and when no policy is there any more."""
    volume.write(annotations(effective_policy=governance("api")))
    sidecar = start_annotated(web.pod, volume.file, tmp_path)
    assert limits(sidecar) == {"api": 10_000_000, "default": 1_000_000}
    get(web, "api.example.com")
    assert sidecar.connections("api") == {"http1": 1}
    tc = partial(web.pod.run, ["tc", "class", "show", "dev", "eth0"])
    assert "ceil 100Mbit" in tc().stdout
    said_after(sidecar, "policy in force", {"effective_policy": governance("api", "mail", total="60Mbit")}, volume)
    assert limits(sidecar) == {"api": 10_000_000, "mail": 10_000_000, "default": 600_000}
    assert "ceil 60Mbit" in tc().stdout
    caps = [{"of": "ClusterTrafficPolicy guard", "total": "20Mbit"}]
    capped = {"effective_policy": governance("api", caps=caps), "egress_bandwidth": "80M"}
    said = said_after(sidecar, "policy in force", capped, volume)
    assert "total is 20Mbit instead of 80Mbit, by the caps of ClusterTrafficPolicy guard." in said
    assert "ceil 20Mbit" in tc().stdout
    assert "ceil 60Mbit" not in tc().stdout
    said = said_after(sidecar, "not used", {"effective_policy": "{"}, volume)
    assert "podlane.io/effective-policy: Podlane's injector or operator wrote it" in said
    assert "ceil 20Mbit" in tc().stdout, "what was in force stays"
    said = said_after(sidecar, "policy in force", {"effective_policy": "{}"}, volume)
    assert "No policy of the cluster is for this Pod any more" in said
    assert set(limits(sidecar)) == {"default"}
    get(web, "api.example.com")
    said_after(sidecar, "policy in force", {"effective_policy": governance("api")}, volume)
    assert limits(sidecar) == {"api": 10_000_000, "default": 1_000_000}
    get(web, "api.example.com")
