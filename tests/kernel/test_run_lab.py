"""The namespace lab itself: hosts reach each other, and nothing of it stays."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab import connect, listen, read_until, serving

from podlane.errors import LabError
from podlane.netns import Lab, Namespace, PodNodeServer

pytestmark = pytest.mark.root


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_the_pod_reaches_the_server_through_the_node(topology: PodNodeServer, version: int) -> None:
    address = topology.server_ipv4 if version == 4 else topology.server_ipv6
    with (
        serving(topology.server, lambda c: c.sendall(b"hello from " + c.getpeername()[0].encode())) as port,
        connect(topology.pod, address, port) as connection,
        connection.makefile("rb") as stream,
    ):
        answer = stream.read().decode()
    client = topology.pod_link.a
    assert answer.removeprefix("hello from ::ffff:").removeprefix("hello from ") == str(
        client.ipv4 if version == 4 else client.ipv6
    )


def test_the_lab_ends_its_programs_and_deletes_its_namespaces() -> None:
    with Lab("gone") as lab:
        host = lab.host("a")
        lab.link(host, "eth0", lab.host("b"), "eth0")
        process = host.popen(["sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE, text=True)
        read_until(process, "up")
        names = [h.namespace for h in lab.hosts]
        assert all(name.exists() for name in names)
    assert process.returncode is not None
    assert not any(name.exists() for name in names)


def test_files_and_settings_are_those_of_the_namespace(lab: Lab) -> None:
    host = lab.host("a", sysctls={"net.ipv4.ip_local_port_range": "20000 30000"})
    lab.link(host, "inside7", lab.host("b"), "eth0")
    assert "inside7" in host.read("/proc/net/dev")
    assert "inside7" not in Path("/proc/net/dev").read_text()
    assert host.read("/proc/sys/net/ipv4/ip_local_port_range").split() == ["20000", "30000"]


def test_a_socket_made_inside_stays_inside(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    with listen(a, port=4321), listen(b, port=4321):
        assert "4321" in a.run(["ss", "-tlnH"]).stdout
    assert "4321" not in a.run(["ss", "-tlnH"]).stdout


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda lab: lab.host("a") and lab.host("a"), "already"),
        (lambda lab: lab.host("a").ip("link", "set", "nothing0", "up"), "nothing0"),
        (lambda lab: lab.host("a").run(["sh", "-c", "echo it is broken >&2; exit 3"]), "ended with 3: it is broken"),
        (lambda lab: lab.host("a").run(["sleep", "60"], timeout=0.05), "did not end within 0.05 s"),
        (lambda lab: lab.host("a").namespace.write_sysctl("net.ipv4.no_such_thing", "1"), "net.ipv4.no_such_thing"),
        (lambda _: Namespace("test-no-such-namespace").ip("link"), "test-no-such-namespace"),
    ],
    ids=["name taken", "no such interface", "program fails", "program hangs", "no such setting", "no such namespace"],
)
def test_failures_say_what_failed(lab: Lab, act: object, words: str) -> None:
    with pytest.raises(LabError, match=words):
        act(lab)  # type: ignore[operator]
