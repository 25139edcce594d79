"""Pods that run as the API server stored them: what their traffic is held to, how they start and end, what is left of them."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pod_world import PAYLOAD_SHARE, World, application, held, idle
from running_pod import RunningPod
from trafficlab import ATTEMPTS, settles_at
from waiting import until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("release")]

SECONDS = 3
"""How long each upload takes that is held."""
CEILS = {"push.example.com": 4, "api.example.com": 8, "web.example.com": 6, "other.example.com": 20}
"""Mbit/s: by port, by server name, by host, and the default class."""
CLASSES = ("push", "api", "web")
BY_EVERYTHING = {
    "podlane.io/egress-bandwidth": "100M",
    "podlane.io/classes": """
- {name: push, rate: 1Mbit, ceil: 4Mbit, match: {port: 8080}}
- {name: api, rate: 1Mbit, ceil: 8Mbit, match: {sni: api.example.com}}
- {name: web, rate: 1Mbit, ceil: 6Mbit, match: {host: web.example.com}}
""",
    "podlane.io/default-class": "{rate: 1Mbit, ceil: 20Mbit}",
}
RESTARTED: dict[str, Any] = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 6}
"""Containers that end are started again."""
_PUT_BY_HTTP2 = Path(__file__).parents[1] / "kernel" / "clients" / "http2_put.py"
MEASURE = 1.5
"""Seconds over which the rate of a stream is measured."""
BY_HOST = {
    "podlane.io/egress-bandwidth": "50M",
    "podlane.io/classes": "[{name: web, rate: 1Mbit, ceil: 8Mbit, match: {host: web.example.com}}]",
}
CEIL = 8
UPLOAD = 2_000_000
PUT = "curl -sS -f -H Expect: --max-time 30 -T /data/body http://web.example.com/{name}"
NET_ADMIN_AND_SETGID = f"{1 << 12 | 1 << 6:016x}"
"""capabilities(7), as proc_pid_status(5) shows them."""
NONE = "0" * 16


def uploads(address: str) -> str:
    """Four uploads at once, each of what its ceil lets pass in :data:`SECONDS`, by three kinds of client."""
    sizes = {host: ceil * SECONDS * 10**6 // 8 for host, ceil in CEILS.items()}
    put = "curl -sS -f -H Expect: --max-time 60 -T"
    return "\n".join(
        [
            *(f"head -c {size} /dev/zero >/data/{host}" for host, size in sizes.items()),
            f"{put} /data/api.example.com -k https://api.example.com/api & one=$!",
            f"{put} /data/web.example.com http://web.example.com/web & two=$!",
            f"{sys.executable} {_PUT_BY_HTTP2} {address} 8080 push.example.com /data/push.example.com & three=$!",
            f"{put} /data/other.example.com http://other.example.com/other & four=$!",
            "wait $one && wait $two && wait $three && wait $four",
        ]
    )


@pytest.mark.measure
def test_every_class_of_a_pod_holds_its_limit(world: World) -> None:
    """Told apart by server name, host and port, by unmodified programs in the application's container."""
    running = world.run_new(BY_EVERYTHING, application(uploads(world.topology.server_ipv4)), **RESTARTED)
    before = dict.fromkeys((*CLASSES, "default"), 0)
    for attempt in range(ATTEMPTS):
        if attempt:
            running.restart("app")
        assert running.containers["app"].wait(90) == 0, running.containers["app"].output
        arrived = {host: world.uploads(host)[-1] for host in CEILS}
        assert {host: upload.port for host, upload in arrived.items()} == dict(
            zip(CEILS, (8080, 443, 80, 80), strict=True)
        )
        assert {upload.status // 100 for upload in arrived.values()} == {2}
        after = world.sent(CLASSES)
        sent = {name: after[name] - before[name] for name in after}
        before = after
        for name, host in zip((*CLASSES, "default"), CEILS, strict=True):
            assert arrived[host].size < sent[name] < 1.2 * arrived[host].size, f"{name}: the kernel counted {sent}"
        if held(arrived, CEILS):
            break
    else:
        pytest.fail(f"less than what the ceils leave arrived, {ATTEMPTS} times: {arrived}")
    assert world.connections("api") == {"tls": attempt + 1}
    assert world.connections("web") == {"http1": attempt + 1}
    assert world.connections("push") == {}, "the kernel alone decides by port"
    assert set(running.terminate().values()) == {0}
    assert world.left() == world.before


def limits(ceil: int) -> dict[str, str]:
    """Annotations that hold one host to a ceil in Mbit/s."""
    return {
        "podlane.io/egress-bandwidth": "50M",
        "podlane.io/classes": f"[{{name: api, rate: 1Mbit, ceil: {ceil}Mbit, match: {{host: api.example.com}}}}]",
    }


def change_annotations(world: World, running: RunningPod, annotations: Mapping[str, str]) -> None:
    """By kubectl; then the kubelet writes the Pod's file anew."""
    said = (f"{name}={value}" for name, value in annotations.items())
    world.kubectl("annotate", "pod", running.document["metadata"]["name"], "--overwrite", *said)
    running.sync()


@pytest.mark.measure
def test_changed_annotations_of_a_running_pod_hold_a_live_connection(world: World) -> None:
    running = world.run_new(limits(8), idle())
    with world.stream("api.example.com") as stream:
        settles_at(stream, "8Mbit", MEASURE)
        change_annotations(world, running, limits(16))
        until("the new limit to be in force", lambda: world.ceils()["api"] == 16)
        settles_at(stream, "16Mbit", MEASURE)
        assert world.connections("api") == {"http1": 1}, "it is the same connection"
    assert running.containers["podlane"].running


@pytest.mark.measure
def test_a_killed_sidecar_is_started_again_and_finds_what_it_had(world: World) -> None:
    """What begins while it is away waits, and is in its class afterwards, as all is that begins then."""
    running = world.run_new(limits(8), idle(), **RESTARTED)
    ruled = world.left()
    running.containers["podlane"].signal("KILL")
    assert running.containers["podlane"].wait(10) == 128 + signal.SIGKILL
    url = f"http://{world.topology.server_ipv4}/who"
    waiting = world.topology.pod.popen(["curl", "-sS", "-f", "--max-time", "30", "-H", "Host: api.example.com", url])
    running.restart("podlane")
    assert world.left() == ruled
    assert waiting.wait(30) == 0
    with world.stream("api.example.com") as stream:
        settles_at(stream, "8Mbit", MEASURE)
    assert world.connections("api") == {"http1": 2}
    assert running.terminate() == dict.fromkeys(running.containers, 0)
    assert world.left() == world.before


@pytest.mark.measure
def test_a_policy_that_pods_share_is_in_force(world: World) -> None:
    """From a ConfigMap of the Pod's namespace, and from what it is changed to."""
    policy = "total: 50Mbit\nclasses: [{{name: api, rate: 1Mbit, ceil: {}Mbit, match: {{host: api.example.com}}}}]\n"
    lanes = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lanes"}}
    world.kubectl.create({**lanes, "data": {"policy.yaml": policy.format(8)}})
    running = world.run_new({"podlane.io/policy": "lanes"}, idle())
    with world.stream("api.example.com") as stream:
        settles_at(stream, "8Mbit", MEASURE)
    assert world.ceils() == {"api": 8, "default": 50}
    changed = json.dumps({"data": {"policy.yaml": policy.format(12)}})
    world.kubectl("patch", "configmap", "lanes", "--type=merge", "-p", changed)
    running.sync()
    until("the new policy to be in force", lambda: world.ceils() == {"api": 12, "default": 50})


def test_without_its_capability_a_sidecar_says_which_it_lacks(world: World) -> None:
    stored = world.kubectl.create(world.document(limits(8), idle()))
    (first, *_) = stored["spec"]["initContainers"]
    assert first["securityContext"]["capabilities"].pop("add") == ["NET_ADMIN", "SETGID"]
    with pytest.raises(AssertionError, match="podlane ended with 1") as refused:
        world.run(stored)
    assert "This process lacks CAP_NET_ADMIN." in str(refused.value)
    assert world.left() == world.before


def test_an_application_s_last_requests_get_through_in_their_class(world: World) -> None:
    """They are sent when the application has been told to end."""
    size = CEILS["web.example.com"] * 10**6 // 8
    put = "curl -sS -f -H Expect: --max-time 20 -T /data/body http://web.example.com/last"
    last = f"""
head -c {size} /dev/zero >/data/body
trap '{put} && {put} && exit' TERM
echo serving
sleep infinity & wait"""
    running = world.run_new(BY_EVERYTHING, application(last))
    running.containers["app"].until_written("serving")
    assert running.terminate() == dict.fromkeys(running.containers, 0), running.containers["app"].output
    assert (running.ended, running.killed) == (["app", "podlane"], [])
    both = world.uploads("web.example.com")
    assert [upload.status for upload in both] == [201, 204], "made, and made anew"
    for upload in both:
        assert upload.size > size
        # What is saved up while nothing is sent passes at once: 64 KiB and a little, 9 % of an upload.
        assert upload.goodput <= 1.15 * CEILS[upload.host] * PAYLOAD_SHARE
    assert world.left() == world.before


def test_a_pod_of_ports_alone_ends_with_its_application(world: World) -> None:
    """A Job's, say."""
    size = CEILS["web.example.com"] * 10**6 // 8
    put = f"head -c {size} /dev/zero >/data/body && curl -sS -f -H Expect: -T /data/body http://web.example.com/once"
    by_port = {
        "podlane.io/egress-bandwidth": "50M",
        "podlane.io/classes": "[{name: web, rate: 1Mbit, ceil: 6Mbit, match: {port: 80}}]",
    }
    running = world.run_new(by_port, application(put))
    assert running.complete() == {"podlane": 0, "app": 0}, running.containers["app"].output
    assert running.killed == []
    assert world.left() == world.before
    assert world.uploads("web.example.com")[-1].goodput <= 1.15 * CEILS["web.example.com"] * PAYLOAD_SHARE


# --- a Pod's life ---------------------------------------------------------------------------------------------------


def uploading(name: str) -> str:
    return f"head -c {UPLOAD} /dev/zero >/data/body; {PUT.format(name=name)}"


def was_held(world: World) -> None:
    """The server has got the upload whole, not faster than its class lets it pass."""
    (upload,) = world.uploads("web.example.com")
    assert upload.status == 201
    assert upload.size > UPLOAD
    # What was saved up as burst passes at once: 64 KiB and a little at this rate, 4 % of the upload.
    assert upload.goodput <= 1.1 * CEIL * PAYLOAD_SHARE


def test_a_sidecar_runs_with_the_rights_of_the_document_and_no_others(world: World) -> None:
    running = world.run_new(BY_HOST, idle())
    sidecar, app = running.containers["podlane"], running.containers["app"]
    status = sidecar.status()
    assert {key: status[key] for key in ("CapBnd", "CapPrm", "CapEff")} == dict.fromkeys(
        ("CapBnd", "CapPrm", "CapEff"), NET_ADMIN_AND_SETGID
    )
    assert status["CapInh"] == status["CapAmb"] == NONE
    assert (status["Uid"].split()[0], status["NoNewPrivs"], status["Seccomp"]) == ("0", "1", "2")
    assert app.status()["CapBnd"] == NONE
    assert "Read-only file system" in sidecar.execute(["touch", "/usr/x"]).stderr
    assert sidecar.execute(["touch", "/etc/podlane/pod/x"]).returncode
    assert sidecar.execute(["ls", "/var/run/secrets/kubernetes.io/serviceaccount"]).stdout == ""
    assert app.execute(["ls", "/var/run/secrets/kubernetes.io/serviceaccount"]).stdout.split() == [
        "ca.crt",
        "namespace",
        "token",
    ]
    filled = sidecar.execute(["dd", "if=/dev/zero", "of=/run/x", "bs=64k"])
    assert "No space left on device" in filled.stderr, "/run is of 1 MiB"
    assert sidecar.execute(["podlane", "ready"]).returncode == 0, "and it does without"


def test_variables_of_services_do_not_confuse_it(world: World) -> None:
    """For a Service named podlane-admin each container of its namespace gets PODLANE_ADMIN_PORT=tcp://..."""
    for name in ("podlane", "podlane-admin", "podlane-outbound", "podlane-total"):
        spec = {"ports": [{"port": 80}], "selector": {"app": "web"}}
        world.kubectl.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    running = world.run_new(BY_HOST, idle())
    shown = running.containers["podlane"].execute(["env"]).stdout.splitlines()
    assert "PODLANE_TOTAL_SERVICE_PORT=80" in shown, "the Services' variables are there"
    assert {"PODLANE_ADMIN_PORT=15109", "PODLANE_OUTBOUND_PORT=15101"} <= set(shown)
    assert world.ceils() == {"web": CEIL, "default": 50}


@pytest.mark.parametrize("shared", [False, True], ids=["processes apart", "processes shared"])
def test_a_job_completes(world: World, shared: bool) -> None:
    """Its application ends by itself; then the sidecar is ended, and nothing is left of either."""
    spec = world.document(BY_HOST, application(uploading("job")), shareProcessNamespace=shared)
    template = {"metadata": {"annotations": spec["metadata"]["annotations"]}, "spec": spec["spec"]}
    world.kubectl.create(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": {"template": template}}
    )
    (stored,) = until("the Job's Pod", lambda: world.kubectl.list("pods"))
    running = world.run(stored)
    began = time.monotonic()
    assert running.complete() == {"podlane": 0, "app": 0}
    assert time.monotonic() - began < running.grace
    assert (running.ended, running.killed) == (["podlane"], [])
    was_held(world)
    assert world.left() == world.before
    assert len(world.topology.pod.namespace.pids()) == 1, "only what holds the namespaces"
    report_success(world, running)
    world.kubectl("wait", "job/once", "--for=condition=Complete", "--timeout=30s")


def report_success(world: World, running: RunningPod) -> None:
    """As the kubelet does, to the API server."""
    status = {"phase": "Succeeded"}
    world.kubectl(
        *("patch", "pod", running.document["metadata"]["name"], "--subresource=status", "--type=merge"),
        *("-p", json.dumps({"status": status})),
    )
