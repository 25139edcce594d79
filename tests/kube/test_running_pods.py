"""Pods that run as the API server stored them: their traffic is held to what their annotations and ConfigMaps say."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pod_world import PAYLOAD_SHARE, World, application, held, idle
from running_pod import RunningPod
from trafficlab import ATTEMPTS, settles_at
from waiting import until

pytestmark = [pytest.mark.root, pytest.mark.measure, pytest.mark.usefixtures("form")]

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
"""Containers that end are started again; a classic sidecar lingers for no more than a second."""
_PUT_BY_HTTP2 = Path(__file__).parents[1] / "kernel" / "clients" / "http2_put.py"
MEASURE = 1.5
"""Seconds over which the rate of a stream is measured."""


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


def test_changed_annotations_of_a_running_pod_hold_a_live_connection(world: World) -> None:
    running = world.run_new(limits(8), idle())
    with world.stream("api.example.com") as stream:
        settles_at(stream, "8Mbit", MEASURE)
        change_annotations(world, running, limits(16))
        until("the new limit to be in force", lambda: world.ceils()["api"] == 16)
        settles_at(stream, "16Mbit", MEASURE)
        assert world.connections("api") == {"http1": 1}, "it is the same connection"
    assert running.containers["podlane"].running


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


def test_without_its_capability_a_sidecar_says_which_it_lacks(world: World, form: str) -> None:
    stored = world.kubectl.create(world.document(limits(8), idle()))
    (first, *_) = stored["spec"]["initContainers"]
    assert first["securityContext"]["capabilities"].pop("add") == ["NET_ADMIN"]
    name = {"native": "podlane", "classic": "podlane-prepare"}[form]
    with pytest.raises(AssertionError, match=f"{name} ended with 1") as refused:
        world.run(stored)
    assert "This process lacks CAP_NET_ADMIN." in str(refused.value)
    assert world.left() == world.before


def test_an_application_s_last_requests_get_through_in_their_class(world: World) -> None:
    """They are sent when the application has been told to end, and so has, in the classic form, the sidecar.

    The second is a new connection of a time when a sidecar that knows of its end would have let go of such.
    """
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


def test_a_pod_of_ports_alone_ends_with_its_application(world: World, form: str) -> None:
    """A Job's, say: in the classic form nothing runs beside it, since what was prepared is the kernel's."""
    size = CEILS["web.example.com"] * 10**6 // 8
    put = f"head -c {size} /dev/zero >/data/body && curl -sS -f -H Expect: -T /data/body http://web.example.com/once"
    by_port = {
        "podlane.io/egress-bandwidth": "50M",
        "podlane.io/classes": "[{name: web, rate: 1Mbit, ceil: 6Mbit, match: {port: 80}}]",
    }
    running = world.run_new(by_port, application(put))
    sidecar = {"native": "podlane", "classic": "podlane-prepare"}[form]
    assert running.complete() == {sidecar: 0, "app": 0}, running.containers["app"].output
    assert running.killed == []
    assert size < world.sent(["web"])["web"] < 1.2 * size if form == "classic" else world.left() == world.before
    assert world.uploads("web.example.com")[-1].goodput <= 1.15 * CEILS["web.example.com"] * PAYLOAD_SHARE
