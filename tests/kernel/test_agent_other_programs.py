"""The node agent with programs, beside others that handle a Pod's packets: programs before and after ours at either end,
host routing as Cilium's, AF_XDP, and a VM runtime. What is held and what is not is in the docs as it is asserted here."""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import PodsOnNode, RunningAgent, entry, start_agent
from ebpf_judge import require_programs
from evasion_page import rows
from lab import connect, serving
from waiting import until

from datapath.ebpf.hooks import Point, hook_at
from datapath.ebpf.libbpf import call
from podlane.netns import Host, Lab
from tc_core.bpf.ebpf_assembler import IF_NOT_EQUAL, LOAD_WORD, MOVE_K, R0, R1, R2, R3, R4, EbpfAssembler

pytestmark = pytest.mark.root

XDP_SOCKET = Path(__file__).parents[1] / "evasion" / "xdp_socket.py"
BODY = 300_000
REDIRECT_NEIGH, REDIRECT_PEER = 152, 155  # enum bpf_func_id (linux/bpf.h)
NEXT, PASS = -1, 0  # TCX_NEXT, TCX_PASS; as TC_ACT_UNSPEC and TC_ACT_OK
SCHED_CLS, SK_BUFF_PROTOCOL = 3, 16
BEFORE = 1 << 3  # BPF_F_BEFORE


@pytest.fixture(autouse=True)
def programs() -> None:
    require_programs()


def policy(**more: Any) -> dict[str, Any]:
    return {
        "total": "20Mbit",
        "classes": [
            {"name": "named", "rate": "1Mbit", "match": {"host": "web.example.com"}},
            {"name": "ported", "rate": "1Mbit", "match": {"port": 9001}},
        ],
        **more,
    }


def load(instructions: bytes, name: str) -> int:
    """A descriptor of a program, for the caller to close."""
    count = ctypes.c_size_t(len(instructions) // 8)
    return call(name, "bpf_prog_load", SCHED_CLS, name.encode(), b"GPL", instructions, count, None)


def returning(verdict: int) -> bytes:
    """A program that does nothing else."""
    asm = EbpfAssembler()
    asm.op(MOVE_K, R0, imm=verdict)
    asm.exit()
    return asm.assemble()


def sending_on(helper: int, interface: int) -> bytes:
    """A program that hands IPv4 packets to another interface; all else goes on as ever."""
    asm = EbpfAssembler()
    asm.op(LOAD_WORD, R0, R1, SK_BUFF_PROTOCOL)
    asm.jump(IF_NOT_EQUAL, R0, socket.htons(0x0800), "others")
    asm.op(MOVE_K, R1, imm=interface)
    for register in (R2, R3, R4):
        asm.op(MOVE_K, register, imm=0)
    asm.call(helper)
    asm.exit()
    asm.place("others")
    asm.op(MOVE_K, R0, imm=NEXT)
    asm.exit()
    return asm.assemble()


class _AttachOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("replace", ctypes.c_int),
        ("relative_fd", ctypes.c_int), ("relative_id", ctypes.c_uint32), ("revision", ctypes.c_uint64),
    )  # fmt: skip


@contextmanager
def attached(
    host: Host, interface: str, point: Point, program: bytes, name: str, *, first: bool = False
) -> Iterator[None]:
    """A program at tcx, behind those that are there or (``first``) before them."""
    fd = load(program, name)
    with host.namespace.entered():
        index = socket.if_nametoindex(interface)
        # libbpf 1.1 knows no order, the system call does: struct bpf_attr of BPF_PROG_ATTACH, number 8.
        attributes = struct.pack("=IIIIIIQ", index, fd, int(point), BEFORE if first else 0, 0, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(321, 8, attributes, len(attributes)):
            number = ctypes.get_errno()
            os.close(fd)
            pytest.skip(f"tcx is of Linux 6.6 ({os.strerror(number)})")
    try:
        yield
    finally:
        with host.namespace.entered():
            call("detach", "bpf_prog_detach2", fd, index, int(point))
        os.close(fd)


def node_of(two: PodsOnNode) -> Host:
    return two.server_link.b.host


def swallow(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def answer(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(bytes(BODY))


def sent(agent: RunningAgent, pod: Host) -> dict[str, int]:
    """Bytes by class."""
    return {name: int(each["bytes"]) for name, each in agent.classes(pod).items()}


def grows(agent: RunningAgent, pod: Host, work: Callable[[], None]) -> dict[str, int]:
    """By how many bytes classes grow, until what was sent is counted."""
    before = sent(agent, pod)
    work()
    return until(
        "what was sent is counted",
        lambda: (g := {n: v - before[n] for n, v in sent(agent, pod).items()}) and sum(g.values()) > BODY and g,
    )


def upload(host: Host, two: PodsOnNode, port: int, name: str = "web.example.com") -> None:
    with serving(two.server, swallow, port), connect(host, two.server_ipv4, port) as client:
        client.sendall(f"POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: {BODY}\r\n\r\n".encode() + bytes(BODY))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "the server has read all"


def download(host: Host, two: PodsOnNode, port: int) -> None:
    with serving(two.server, answer, port), connect(host, two.server_ipv4, port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        left = BODY
        while left:
            left -= len(client.recv(left))


def passed(host: Host, device: str) -> int:
    """Bytes that an HTB has let go at a device."""
    return max(map(int, re.findall(r"Sent (\d+) bytes", host.run(["tc", "-s", "class", "show", "dev", device]).stdout)))


@pytest.mark.parametrize("verdict", [NEXT, PASS], ids=["next", "pass"])
@pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
def test_programs_of_others_inside_the_pod(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent], verdict: int, *, first: bool
) -> None:
    """Ours says "next", so those behind it run. One before ours that says "pass" ends the row: then the packet alone
    decides, by the filters of HTB."""
    one, _ = two.pods
    agents.append(start_agent(tmp_path, entry(one, policy()), datapath="ebpf"))
    agents[0].until_state(one, "programmed")
    with attached(one, "eth0", Point.EGRESS, returning(verdict), "neighbour", first=first):
        growth = grows(agents[0], one, lambda: upload(one, two, 9000))
        named = not (first and verdict == PASS)
        assert (growth["named"] > BODY, growth["default"] > BODY) == (named, not named)
        with one.namespace.entered():
            assert hook_at(socket.if_nametoindex("eth0"), "podlane_egress", Point.EGRESS).attached()


def test_host_routing_at_the_nodes_end(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    """As Cilium's: programs at the node's end send packets on by themselves, past the node's stack and its queues. Its
    program at that end is seen, so lanes are at the Pod's own, where all packets pass."""
    one, node = two.pods[0], node_of(two)
    with node.namespace.entered():
        own, uplink = (socket.if_nametoindex(link.b.interface) for link in (two.links[0], two.server_link))
    from_pod, to_pod = sending_on(REDIRECT_NEIGH, uplink), sending_on(REDIRECT_PEER, own)
    limits = policy(ingress={"total": "20Mbit"})
    with (
        attached(node, two.links[0].b.interface, Point.INGRESS, from_pod, "from_container"),
        attached(node, two.server_link.b.interface, Point.INGRESS, to_pod, "from_netdev"),
    ):
        agents.append(start_agent(tmp_path, entry(one, limits), datapath="auto", node=node))
        agents[0].until_state(one, "programmed")
        place = agents[0].workload(one)
        assert (place["enforce"], "from_container" in place["enforce_reason"]) == ("pod", True)
        growth = grows(agents[0], one, lambda: upload(one, two, 9000))
        assert growth["named"] > BODY
        before = passed(one, "ifb-eth0")
        download(one, two, 9000)
        assert passed(one, "ifb-eth0") - before > BODY
        links = json.loads(node.ip("-j", "-s", "link", "show", "dev", two.links[0].b.interface))
        assert links[0]["stats64"]["tx"]["bytes"] < BODY, "the node's end was not passed"


def test_a_program_elsewhere_that_goes_past_the_nodes_end(
    two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]
) -> None:
    """One that is at the uplink alone is not seen; what it hands into a Pod is not held at the node's end."""
    one, node = two.pods[0], node_of(two)
    with node.namespace.entered():
        own = socket.if_nametoindex(two.links[0].b.interface)
    agents.append(start_agent(tmp_path, entry(one, policy(ingress={"total": "20Mbit"})), datapath="auto", node=node))
    agents[0].until_state(one, "programmed")
    assert agents[0].workload(one)["enforce"] == "host"
    before = passed(node, two.links[0].b.interface)
    download(one, two, 9000)
    assert passed(node, two.links[0].b.interface) - before > BODY
    with attached(node, two.server_link.b.interface, Point.INGRESS, sending_on(REDIRECT_PEER, own), "from_netdev"):
        before = passed(node, two.links[0].b.interface)
        download(one, two, 9000)
        assert passed(node, two.links[0].b.interface) - before < 10_000
        growth = grows(agents[0], one, lambda: upload(one, two, 9000))
        assert growth["named"] > BODY, "what it sends is held as ever"


def test_af_xdp_goes_past_the_pods_own_end(two: PodsOnNode, tmp_path: Path, agents: list[RunningAgent]) -> None:
    """As PACKET_QDISC_BYPASS does; the node's end holds it (test_agent_node_end.py)."""
    one, node = two.pods[0], node_of(two)
    agents.append(start_agent(tmp_path, entry(one, policy()), datapath="ebpf"))
    agents[0].until_state(one, "programmed")
    link = two.links[0]
    mac = json.loads(node.ip("-j", "link", "show", "dev", link.b.interface))[0]["address"]
    with two.server.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("", 9))
        sink.settimeout(10)
        place = ("eth0", mac, str(link.a.ipv4), two.server_ipv4, "9", "20")
        sender = one.popen([sys.executable, str(XDP_SOCKET), *place])
        for _ in range(2000):
            sink.recv(2048)
        sender.kill()
        sender.wait()
    assert passed(one, "eth0") < 100_000
    assert rows("From inside the Pod")["AF_XDP"] == "not held"


@contextmanager
def guest_of(pod: Host, lab: Lab) -> Iterator[Host]:
    """A guest with the Pod's address, behind a tap."""
    guest, hypervisor = lab.host("guest"), lab.host("vmm")
    lab.link(guest, "eth0", hypervisor, "guest0")
    [eth0] = json.loads(pod.ip("-j", "address", "show", "dev", "eth0"))
    inet = next(each for each in eth0["addr_info"] if each["family"] == "inet")
    gateway = json.loads(pod.ip("-j", "route", "show", "default"))[0]["gateway"]
    guest.ip("address", "flush", "dev", "eth0")
    guest.ip("link", "set", "eth0", "address", eth0["address"])
    guest.ip("address", "add", f"{inet['local']}/{inet['prefixlen']}", "dev", "eth0")
    guest.ip("route", "replace", "default", "via", gateway)
    pod.ip("address", "flush", "dev", "eth0")
    program = str(Path(__file__).parent / "virtual_machine.py")
    namespace = f"/run/netns/{hypervisor.namespace.name}"
    process = pod.popen([sys.executable, program, "tap0", "guest0", namespace], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pod.ip("link", "set", "tap0", "up")
        for one, other in (("tap0", "eth0"), ("eth0", "tap0")):
            pod.run(["tc", "qdisc", "add", "dev", one, "ingress"])
            mirror = ["u32", "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", other]
            pod.run(["tc", "filter", "add", "dev", one, "parent", "ffff:", "protocol", "all", *mirror])
        yield guest
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("end", ["pod", "host"])
def test_a_virtual_machine(two: PodsOnNode, lab: Lab, tmp_path: Path, agents: list[RunningAgent], end: str) -> None:
    """The guest's sockets are its own kernel's, so names do not decide: the packet alone does."""
    one, node = two.pods[0], node_of(two)
    with guest_of(one, lab) as guest:
        agents.append(
            start_agent(tmp_path, entry(one, policy()), datapath="ebpf", node=node if end == "host" else None)
        )
        agents[0].until_state(one, "programmed")
        assert agents[0].workload(one).get("enforce", "pod") == end
        growth = grows(agents[0], one, lambda: upload(guest, two, 9000))
        assert growth["default"] > BODY
        assert growth["named"] == 0
        growth = grows(agents[0], one, lambda: upload(guest, two, 9001))
        assert growth["ported"] > BODY
