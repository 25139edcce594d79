"""The proxy behind TPROXY in a namespace: original destinations, marks, DSCP, refusals, drain."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from lab import connect, listen
from proxy_harness import PATIENCE, RunningProxy, read_exactly, read_to_end, with_patience
from waiting import until

from daemon.errors import PortInUseError
from datapath.errors import PrivilegeError
from datapath.sockets import TCP_SAVE_SYN, saved_dscp, stream_socket
from podlane.netns import Host, Lab, VethPair
from sidecar.proxy.server import ConnectionOutcome, Refusal, ServerSettings
from sidecar.transport.kernel_sockets import TransparentSockets
from traffic_policy.errors import ConfigError
from traffic_policy.units import Duration

pytestmark = pytest.mark.root

REQUEST = b"GET / HTTP/1.1\r\nHost: named.example\r\n\r\n"
NAMED_MARK = 0x0100_2000
DEFAULT_MARK = 0xFF00_2000

# FIELD-NOTES: decided on the SYN, followed by connmark, own packets exempt by mark.
_RULES = """*mangle
:PXOUT - [0:0]
:PXCAPTURE - [0:0]
:PXPRE - [0:0]
-A PXOUT -m mark --mark 0x2000/0x2000 -j RETURN
-A PXOUT -p tcp --syn -j CONNMARK --set-xmark 0x0/0x3000
-A PXOUT ! -o lo -p tcp --syn -m addrtype ! --dst-type LOCAL -j PXCAPTURE
-A PXOUT -p tcp -m connmark --mark 0x1000/0x3000 -m conntrack --ctdir ORIGINAL -j MARK --set-xmark 0x1000/0x3000
-A PXCAPTURE -j CONNMARK --set-xmark 0x1000/0x3000
-A PXPRE -i lo -p tcp -m mark --mark 0x1000/0x3000 -j TPROXY --on-ip {ip} --on-port 15101 --tproxy-mark 0x1000/0x3000
-I PREROUTING 1 -p tcp -j PXPRE
-I OUTPUT 1 -p tcp -j PXOUT
-A POSTROUTING -p tcp --syn -m mark --mark 0x1002000/0xff002000
-A POSTROUTING -p tcp --syn -m mark --mark 0xff002000/0xff002000
COMMIT
"""


def install_capture(pod: Host, versions: tuple[int, ...] = (4, 6)) -> None:
    """Bring every outgoing TCP connection of the Pod to the proxy, and count SYNs by class mark."""
    for version, restore, loopback in ((4, "iptables-restore", "127.0.0.1"), (6, "ip6tables-restore", "::1")):
        if version not in versions:
            continue
        pod.ip(f"-{version}", "rule", "add", "pref", "15101", "fwmark", "0x1000/0x3000", "lookup", "15101")
        pod.ip(f"-{version}", "route", "add", "local", "default", "dev", "lo", "table", "15101")
        pod.run([restore, "--noflush"], stdin=_RULES.format(ip=loopback))


def count_packets(pod: Host, *criteria: str) -> Callable[[], int]:
    """Count what the proxy sends that fulfils the criteria; gives a function that says how many packets those are."""
    rule = ["-p", "tcp", "-m", "mark", "--mark", "0x2000/0x2000", *criteria, "-m", "comment", "--comment", "counted"]
    pod.run(["iptables", "-t", "mangle", "-A", "POSTROUTING", *rule])

    def packets() -> int:
        [line] = [x for x in pod.run(["iptables-save", "-c", "-t", "mangle"]).stdout.splitlines() if "counted" in x]
        return int(line[1:].partition(":")[0])

    return packets


def stop_capture(pod: Host) -> None:
    """New connections go direct; those captured stay so."""
    for program in ("iptables", "ip6tables"):
        pod.run([program, "-t", "mangle", "-F", "PXCAPTURE"])


def syns(pod: Host, mark: int, version: int = 4) -> int:
    """SYN packets that left with a class mark."""
    program = "iptables-save" if version == 4 else "ip6tables-save"
    for line in pod.run([program, "-c", "-t", "mangle"]).stdout.splitlines():
        if "POSTROUTING" in line and f"--mark {mark:#x}/" in line:
            return int(line[1:].partition(":")[0])
    raise AssertionError("no counting rule")


class Pod:
    """A Pod with the proxy in it, and a server next to it."""

    def __init__(self, pod: Host, server: Host, link: VethPair) -> None:
        self.pod = pod
        self.server = server
        self.link = link

    def address(self, version: int) -> str:
        return str(self.link.b.ipv4 if version == 4 else self.link.b.ipv6)

    def client(self, port: int, version: int = 4) -> socket.socket:
        return connect(self.pod, self.address(version), port, timeout=PATIENCE)

    @contextmanager
    def proxy(self, capture: tuple[int, ...] = (4, 6), **settings: Any) -> Iterator[RunningProxy]:
        chosen = ServerSettings(
            port=15101,
            **{k: Duration.from_seconds(v) if k.endswith("timeout") else v for k, v in settings.items()},
        )
        if capture:
            install_capture(self.pod, capture)
        with RunningProxy(TransparentSockets(), chosen, inside=self.pod.namespace.entered()) as proxy:
            yield proxy


@pytest.fixture
def pod(lab: Lab) -> Pod:
    inside, outside = lab.host("pod"), lab.host("server")
    return Pod(inside, outside, lab.link(inside, "eth0", outside, "eth0", gateway=True))


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_captured_connection_reaches_its_destination_in_its_lane(pod: Pod, version: int) -> None:
    with pod.proxy() as proxy, listen(pod.server) as listener:
        port = listener.getsockname()[1]
        client = pod.client(port, version)
        assert client.getpeername()[:2] == (pod.address(version), port)
        client.sendall(REQUEST)
        server = with_patience(listener.accept()[0])
        assert read_exactly(server, len(REQUEST)) == REQUEST
        server.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        server.close()
        assert read_to_end(client) == b"HTTP/1.1 204 No Content\r\n\r\n"
        client.close()
        summary = proxy.recorder.closed_one()
        assert (str(summary.destination.address), summary.destination.port) == (pod.address(version), port)
        assert (summary.class_name, summary.outcome) == ("named", ConnectionOutcome.COMPLETE)
        assert (syns(pod.pod, NAMED_MARK, version), syns(pod.pod, DEFAULT_MARK, version)) == (1, 0)


def test_other_hosts_go_to_the_default_lane(pod: Pod) -> None:
    """Its id is 255, so its mark does not fit in a signed int."""
    with pod.proxy(), listen(pod.server) as listener:
        client = pod.client(listener.getsockname()[1])
        client.sendall(REQUEST.replace(b"named", b"other"))
        listener.accept()[0].close()
        assert (syns(pod.pod, NAMED_MARK), syns(pod.pod, DEFAULT_MARK)) == (0, 1)


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_dscp_carries_over_without_ecn_bits(pod: Pod, version: int) -> None:
    with pod.proxy(), listen(pod.server) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        with pod.pod.namespace.entered():
            client = with_patience(socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6))
        level, option = (
            (socket.IPPROTO_IP, socket.IP_TOS) if version == 4 else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        )
        client.setsockopt(level, option, 0xB9)
        client.connect((pod.address(version), listener.getsockname()[1]))
        client.sendall(REQUEST)
        server = listener.accept()[0]
        assert saved_dscp(server) == 0xB8


def test_connection_to_the_listener_itself_is_refused(pod: Pod) -> None:
    with pod.proxy() as proxy:
        for address in ("127.0.0.1", "::1"):
            with pytest.raises(ConnectionResetError):  # by connect or by recv, whichever is later than the reset
                connect(pod.pod, address, 15101, timeout=PATIENCE).recv(1)
        proxy.recorder.wait(lambda: proxy.recorder.refusals == [Refusal.NOT_DIVERTED] * 2)


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        (None, ConnectionOutcome.REFUSED),
        (["-j", "DROP"], ConnectionOutcome.CONNECT_TIMEOUT),
        (["-j", "REJECT", "--reject-with", "icmp-host-unreachable"], ConnectionOutcome.UNREACHABLE),
    ],
    ids=["closed-port", "silence", "host-unreachable"],
)
def test_unreachable_server_is_a_reset(pod: Pod, rule: list[str] | None, outcome: ConnectionOutcome) -> None:
    if rule:
        pod.server.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9999", *rule])
    with pod.proxy(connect_timeout=0.3) as proxy:
        client = pod.client(9999)
        client.sendall(REQUEST)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert proxy.recorder.closed_one().outcome is outcome
        assert proxy.recorder.refusals == [outcome]


def test_bodies_of_100_megabytes_both_ways(pod: Pod) -> None:
    body = random.Random(100).randbytes(10_000_000)
    digest = hashlib.sha256(body * 10).hexdigest()

    def send(sock: socket.socket) -> None:
        for _ in range(10):
            sock.sendall(body)
        sock.shutdown(socket.SHUT_WR)

    def receive(sock: socket.socket) -> str:
        got = hashlib.sha256()
        while piece := sock.recv(1 << 18):
            got.update(piece)
        return got.hexdigest()

    with pod.proxy() as proxy, listen(pod.server) as listener, ThreadPoolExecutor(4) as pool:
        client = pod.client(listener.getsockname()[1])
        client.sendall(REQUEST)
        server = with_patience(listener.accept()[0])
        assert read_exactly(server, len(REQUEST)) == REQUEST
        sending = [pool.submit(send, sock) for sock in (client, server)]
        receiving = [pool.submit(receive, sock) for sock in (client, server)]
        assert [f.result(60) for f in receiving] == [digest, digest]
        assert [f.result(60) for f in sending] == [None, None]
        assert proxy.recorder.closed_one().outcome is ConnectionOutcome.COMPLETE


def test_hello_larger_than_the_receive_buffer_is_seen_whole(pod: Pod) -> None:
    """Peeking could not: in this namespace a socket holds less than the hello. The name is in the last bytes."""
    pod.pod.run(["sysctl", "-qw", "net.ipv4.tcp_rmem=4096 8192 8192"])
    head = b"GET / HTTP/1.1\r\n" + b"X-Padding: " + b"p" * 12_000 + b"\r\nHost: named.example\r\n\r\n"
    with pod.proxy(detection_timeout=60) as proxy, listen(pod.server) as listener:
        client = pod.client(listener.getsockname()[1])
        client.sendall(head)
        server = with_patience(listener.accept()[0])
        assert read_exactly(server, len(head)) == head
        assert proxy.recorder.routes == ["named"]


def test_drain_lets_captured_connections_finish_while_new_ones_go_direct(pod: Pod) -> None:
    with pod.proxy() as proxy, listen(pod.server) as listener, ThreadPoolExecutor(1) as pool:
        port = listener.getsockname()[1]
        old = pod.client(port)
        old.sendall(REQUEST)
        old_server = with_patience(listener.accept()[0])
        stop_capture(pod.pod)
        draining = pool.submit(proxy.drain, 3600.0)
        new = pod.client(port)
        new.sendall(b"direct")
        assert read_exactly(with_patience(listener.accept()[0]), 6) == b"direct"
        assert read_exactly(old_server, len(REQUEST)) == REQUEST
        old_server.sendall(b"the rest")
        old_server.close()
        assert read_to_end(old) == b"the rest"
        old.close()
        assert draining.result(PATIENCE) == 0
        assert syns(pod.pod, NAMED_MARK) == 1


def test_second_instance_is_told_that_the_port_is_in_use(pod: Pod) -> None:
    with pod.proxy(), pytest.raises(PortInUseError, match=r"127\.0\.0\.1:15101 is in use"), pod.proxy(capture=()):
        pass


def test_namespace_with_ipv6_switched_off_is_served_by_ipv4(pod: Pod) -> None:
    """The IPv6 listener does no harm there: a transparent socket may be bound to an address that does not exist."""
    pod.pod.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
    with pod.proxy(capture=(4,)) as proxy, listen(pod.server) as listener:
        client = pod.client(listener.getsockname()[1])
        client.sendall(REQUEST)
        assert read_exactly(with_patience(listener.accept()[0]), len(REQUEST)) == REQUEST
        assert ("127.0.0.1", 15101) in proxy.addresses


def test_kernel_without_ipv6_is_served_by_ipv4(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a kernel is not at hand (ipv6.disable=1 on its command line), so the refusal is played."""

    def no_ipv6(family: int) -> socket.SocketType:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return stream_socket(family)

    monkeypatch.setattr("sidecar.transport.kernel_sockets.stream_socket", no_ipv6)
    with pod.pod.namespace.entered():
        [listener] = TransparentSockets().listen(15101, [socket.AF_INET, socket.AF_INET6])
        assert listener.getsockname() == ("127.0.0.1", 15101)
        listener.close()
        with pytest.raises(ConfigError, match="This kernel has no IPv6"):
            TransparentSockets().listen(15101, [socket.AF_INET6])


def test_without_the_capability_the_error_says_which(pod: Pod) -> None:
    def try_it() -> None:
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(PrivilegeError, match="CAP_NET_ADMIN"):
            TransparentSockets().listen(15101, [socket.AF_INET])

    with pod.pod.namespace.entered():
        assert _in_child(try_it) == 0


def _in_child(function: Callable[[], None]) -> int:
    """Run a function in a forked process; 0 when it did not raise."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_ten_thousand_short_connections_leave_nothing_behind(pod: Pod) -> None:
    count = 10_000
    pod.pod.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=16000 65535", "net.ipv4.tcp_tw_reuse=1"])

    def serve(listener: socket.socket) -> None:
        for _ in range(count):
            with with_patience(listener.accept()[0]) as sock:
                sock.sendall(sock.recv(1000))

    with pod.proxy() as proxy, listen(pod.server) as listener:
        port = listener.getsockname()[1]
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))

        def converse(share: int) -> None:
            with pod.pod.namespace.entered():
                for _ in range(share):
                    with with_patience(socket.create_connection((pod.address(4), port))) as client:
                        client.sendall(REQUEST)
                        assert read_exactly(client, len(REQUEST)) == REQUEST

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(converse, [count // 4] * 4))
        proxy.recorder.closed_one(count)
        until("all descriptors are closed", lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert proxy.server.active == 0
        assert {s.outcome for s in proxy.recorder.summaries} == {ConnectionOutcome.COMPLETE}
        assert syns(pod.pod, NAMED_MARK) >= count


def test_the_first_bytes_go_with_the_last_packet_of_the_handshake(pod: Pod) -> None:
    """To a server that says nothing go two packets and no third: SYN, then ACK with the request."""
    with pod.proxy(), listen(pod.server) as listener:
        sent = count_packets(pod.pod, "-o", "eth0")
        client = pod.client(listener.getsockname()[1])
        client.sendall(REQUEST)
        server = with_patience(listener.accept()[0])
        assert read_exactly(server, len(REQUEST)) == REQUEST
        assert sent() == 2


def test_an_answer_and_the_fin_behind_it_go_in_one_packet(pod: Pod) -> None:
    with pod.proxy(), listen(pod.server) as listener:
        with_payload = ("-o", "lo", "--tcp-flags", "FIN", "FIN", "-m", "length", "--length", "1052:65535")
        sent = count_packets(pod.pod, *with_payload)
        client = pod.client(listener.getsockname()[1])
        client.sendall(REQUEST)
        server = with_patience(listener.accept()[0])
        assert read_exactly(server, len(REQUEST)) == REQUEST
        server.send(b"a" * 1000, socket.MSG_MORE)  # so that the proxy gets them together
        server.close()
        assert read_to_end(client) == b"a" * 1000
        assert sent() == 1
