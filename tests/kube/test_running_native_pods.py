"""Pods that run as the API server stored them: how they start and end, what their sidecar may do, what is left of them."""

from __future__ import annotations

import json
import time

import pytest
from pod_world import PAYLOAD_SHARE, World, application, idle
from running_pod import RunningPod
from waiting import until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("release")]

BY_HOST = {
    "podlane.io/egress-bandwidth": "50M",
    "podlane.io/classes": "[{name: web, rate: 1Mbit, ceil: 8Mbit, match: {host: web.example.com}}]",
}
CEIL = 8
UPLOAD = 2_000_000
PUT = "curl -sS -f -H Expect: --max-time 30 -T /data/body http://web.example.com/{name}"
NET_ADMIN = f"{1 << 12:016x}"
NONE = "0" * 16


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
        ("CapBnd", "CapPrm", "CapEff"), NET_ADMIN
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
