"""What the rules do to real packets: what is captured, what goes by, and which mark it carries."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from lab import listen
from netfilter_pod import Pod, accepted_by, installed_backends, ruleset, talks
from waiting import until

from datapath.netfilter.rules import Family
from datapath.netfilter.ruleset import CaptureSettings, Ruleset
from datapath.netfilter.select import why_not
from podlane.netns import Lab, VethPair
from traffic_policy.marks import DIVERT, OWN, class_mark
from traffic_policy.policy import PortRange

pytestmark = [pytest.mark.root, pytest.mark.covering]

WEB, SSH, MAIL, OTHER = 8443, 2222, 3306, 9000
"""Ports of the server: any port, a class's own, a silent one, and one that no rule speaks of."""
BEYOND_ONE_SEGMENT = 65_536
"""Bytes that one (offloaded) segment cannot hold: some are still queued when the socket is closed."""
CONTENT = {"sni": ["api.example.com"]}
RULES = ruleset(CONTENT, {"port": SSH})
NO_CONTENT = ruleset({"port": SSH})


class World:
    """A Pod with a transparent listener in the proxy's place, and a server that listens on some ports."""

    def __init__(self, pod: Pod, wire: VethPair, family: Family, stack: ExitStack) -> None:
        self.pod = pod
        self.outside = wire.b.host
        self.family = family
        self.here, self.address = (str(end.ipv4 if family is Family.V4 else end.ipv6) for end in (wire.a, wire.b))
        self._stack = stack
        self.proxy = stack.enter_context(pod.transparent_listener(family))
        self.server = {p: stack.enter_context(listen(self.outside, port=p)) for p in (WEB, SSH, MAIL, OTHER)}

    def open(self, port: int, *, mark: int = 0, setup: Callable[[socket.socket], None] | None = None) -> Connection:
        """A program in the Pod connects to the server."""
        client = self._stack.enter_context(self.pod.client(self.family, mark=mark))
        if setup is not None:
            setup(client)
        client.connect((self.address, port))
        by, peer = accepted_by(self.proxy, *self.server.values())
        self._stack.enter_context(peer)
        return Connection(client, peer, by is self.proxy)

    def reachable(self) -> bool:
        """Whether the server's host answers, if only to say that nobody listens."""
        with self.pod.client(self.family) as client:
            try:
                client.connect((self.address, 1))
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
        return True

    def captured(self, port: int, **options: int) -> bool:
        connection = self.open(port, **options)
        assert talks(connection.client, connection.peer)
        return connection.captured


@dataclass(frozen=True)
class Connection:
    """A program's socket, the other end of it, and whether that is the proxy's."""

    client: socket.socket
    peer: socket.socket
    captured: bool


@pytest.fixture(scope="module")
def wire() -> Iterator[VethPair]:
    """A Pod and a server on one link, for all tests here: IPv6 takes a second to get going on a new one."""
    with Lab("nft") as lab:
        yield lab.link(lab.host("pod"), "eth0", lab.host("server"), "eth0")


BACKENDS = installed_backends()


@pytest.fixture(params=list(BACKENDS), ids=str)
def pod(request: pytest.FixtureRequest, wire: VethPair) -> Iterator[Pod]:
    backend = BACKENDS[request.param]
    if reason := why_not(backend):
        pytest.skip(reason)
    made = Pod(wire.a.host, backend)
    yield made
    print(made.describe())  # shown with the report of a failed test
    made.remove()
    for family in Family:
        made.iptables(family, "-t mangle -F POSTROUTING")
        made.iptables(family, "-t raw -F OUTPUT")
        assert "-A" not in made.save(family)


@pytest.fixture(params=list(Family), ids=str)
def world(request: pytest.FixtureRequest, pod: Pod, wire: VethPair) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(pod, wire, request.param, stack)
        until("the server to be reachable", made.reachable)
        yield made


def test_before_anything_is_installed_connections_go_to_the_server(world: World) -> None:
    assert not world.captured(WEB)


def test_what_content_may_decide_arrives_with_its_original_destination(world: World) -> None:
    world.pod.install(RULES)
    connection = world.open(WEB)
    assert connection.captured
    assert connection.peer.getsockname()[:2] == (world.address, WEB)
    assert connection.peer.getpeername() == connection.client.getsockname()
    assert talks(connection.client, connection.peer)


STRICT = ("net.ipv4.conf.all.rp_filter", "net.ipv4.tcp_fwmark_accept")
"""Settings that could lose packets which come in on lo with another interface's address, or give marks to sockets."""


def test_strict_kernel_settings_do_no_harm(world: World) -> None:
    namespace = world.pod.host.namespace
    before = {key: namespace.read(f"/proc/sys/{key.replace('.', '/')}") for key in STRICT}
    for key in STRICT:
        namespace.write_sysctl(key, "1")
    try:
        world.pod.install(RULES)
        assert world.captured(WEB)
        assert world.captured(SSH)
    finally:
        for key, value in before.items():
            namespace.write_sysctl(key, value)


@pytest.mark.parametrize(
    ("port", "captured"),
    [(WEB, True), (MAIL, False), (OTHER, True), (SSH, True)],
    ids=["any", "silent", "other", "class"],
)
def test_content_first_captures_all_but_silent_ports(world: World, port: int, captured: bool) -> None:
    world.pod.install(RULES)
    assert world.captured(port) == captured


def test_order_decides(world: World) -> None:
    world.pod.install(ruleset({"port": SSH}, CONTENT))
    assert not world.captured(SSH)
    assert world.captured(WEB)


def test_without_content_matches_nothing_is_captured(world: World) -> None:
    world.pod.install(NO_CONTENT)
    assert not world.captured(SSH)
    assert not world.captured(WEB)


def test_the_proxys_own_sockets_pass_by_and_keep_their_class(world: World) -> None:
    world.pod.install(RULES)
    own = OWN | class_mark(7)
    world.pod.count_mark(world.family, "own", own, "-p tcp")
    assert not world.captured(WEB, mark=own.value)
    assert not world.captured(SSH, mark=own.value)
    assert world.pod.counted(world.family, "own") >= 6  # two handshakes and some data


def test_what_is_excluded_is_not_captured(world: World) -> None:
    world.pod.install(ruleset(CONTENT, settings=CaptureSettings(exclude_outbound_ports=(PortRange(OTHER, OTHER + 9),))))
    assert not world.captured(OTHER)
    assert world.captured(WEB)
    network = ipaddress.ip_network(world.address)
    world.pod.install(ruleset(CONTENT, settings=CaptureSettings(exclude_outbound_cidrs=(network,))))
    assert not world.captured(WEB)


def test_what_is_excluded_is_in_no_class(world: World) -> None:
    for port in (WEB, SSH):
        world.pod.count_mark(world.family, f"class-{port}", class_mark(1), f"-p tcp --dport {port}")
    settings = CaptureSettings(exclude_outbound_ports=(PortRange(SSH, SSH),))
    world.pod.install(ruleset({"port": [WEB, SSH]}, settings=settings))
    assert not world.captured(WEB)
    assert not world.captured(SSH)
    assert world.pod.counted(world.family, f"class-{WEB}") >= 3  # a handshake and some data
    assert world.pod.counted(world.family, f"class-{SSH}") == 0


def test_excluding_something_cuts_no_running_connection(world: World) -> None:
    world.pod.install(RULES)
    before = world.open(WEB)
    assert before.captured
    network = ipaddress.ip_network(world.address)
    world.pod.install(ruleset(CONTENT, settings=CaptureSettings(exclude_outbound_cidrs=(network,))))
    assert talks(before.client, before.peer)
    assert not world.captured(WEB)


def test_local_connections_are_left_alone(world: World) -> None:
    world.pod.install(RULES)
    with listen(world.pod.host, port=WEB) as local, world.pod.client(world.family) as client:
        client.connect((world.here, WEB))
        by, peer = accepted_by(world.proxy, local)
        with peer:
            assert by is local


def test_untracked_connections_are_not_captured(world: World) -> None:
    world.pod.iptables(world.family, f"-t raw -A OUTPUT -p tcp --dport {WEB} -j NOTRACK")
    world.pod.install(RULES)
    assert not world.captured(WEB)
    assert world.captured(OTHER)


def from_port(client: socket.socket, port: int) -> None:
    """Bind to a port that the next test can use again: closing sends a reset, and leaves no TIME_WAIT."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.bind(("", port))


def test_connections_from_outside_are_left_alone(world: World) -> None:
    """Replies carry no class and are not captured, whatever port the client came from."""
    world.pod.install(ruleset(CONTENT, {"port": 45_001}))
    world.pod.count_mark(world.family, "class", class_mark(2))
    world.pod.count(world.family, "replies", "-p tcp --dport 45001")
    with world.outside.namespace.entered():
        client = socket.socket(socket.AF_INET if world.family is Family.V4 else socket.AF_INET6)
    with listen(world.pod.host, port=OTHER) as inside, client:
        client.settimeout(10)
        from_port(client, 45_001)
        client.connect((world.here, OTHER))
        _, peer = accepted_by(inside)
        with peer:
            assert talks(client, peer)
    assert world.pod.counted(world.family, "replies") >= 2
    assert world.pod.counted(world.family, "class") == 0


# --- kernel-only classes --------------------------------------------------------------------------------------------


def test_classes_are_marked_packet_by_packet(world: World) -> None:
    pod, family = world.pod, world.family
    pod.install(
        ruleset(
            CONTENT,
            {"port": MAIL, "protocol": "tcp"},
            {"port": 5000, "protocol": "udp"},
            {"cidr": world.address, "protocol": []},
        )
    )
    for class_id, protocol in ((2, "tcp"), (3, "udp"), (4, "udp")):
        pod.count_mark(family, f"c{class_id}-{protocol}", class_mark(class_id), f"-p {protocol}")

    assert not world.captured(MAIL)
    tcp = pod.counted(family, "c2-tcp")
    assert tcp >= 3
    with pod.client(family, socket.SOCK_DGRAM) as udp:
        for port, size in ((5000, 3), (5001, 2)):
            for _ in range(size):
                udp.sendto(b"x", (world.address, port))
    assert pod.counted(family, "c3-udp") == 3
    assert pod.counted(family, "c4-udp") == 2
    assert pod.counted(family, "c2-tcp") == tcp


def test_a_network_of_its_own_takes_every_protocol(world: World) -> None:
    pod, family = world.pod, world.family
    pod.install(ruleset({"cidr": world.address}))
    pod.count_mark(family, "echo", class_mark(1), ECHO[family])
    pod.count_mark(family, "tcp", class_mark(1), "-p tcp")
    assert not world.captured(WEB)
    assert pod.counted(family, "tcp") >= 3
    ping(world)
    assert pod.counted(family, "echo") == 1


def test_icmp_is_a_class_of_its_own_in_both_families(world: World) -> None:
    pod, family = world.pod, world.family
    pod.install(ruleset({"protocol": "icmp"}, {"cidr": world.address}))
    for class_id in (1, 2):
        pod.count_mark(family, f"echo-{class_id}", class_mark(class_id), ECHO[family])
        pod.count_mark(family, f"tcp-{class_id}", class_mark(class_id), "-p tcp")
    ping(world)
    assert not world.captured(WEB)
    assert [pod.counted(family, f"echo-{class_id}") for class_id in (1, 2)] == [1, 0]
    assert pod.counted(family, "tcp-1") == 0
    assert pod.counted(family, "tcp-2") >= 3


ECHO = {Family.V4: "-p icmp --icmp-type echo-request", Family.V6: "-p icmpv6 --icmpv6-type echo-request"}


def ping(world: World) -> None:
    """Send one echo request. A raw socket: ping(8) is not everywhere."""
    family = world.family
    number = socket.IPPROTO_ICMP if family is Family.V4 else socket.IPPROTO_ICMPV6
    with world.pod.host.namespace.entered():
        raw = socket.socket(socket.AF_INET if family is Family.V4 else socket.AF_INET6, socket.SOCK_RAW, number)
    with raw:
        raw.sendto(echo_request(family), (world.address, 0))


ELSEWHERE = ["198.51.100.0/24", "2001:db8:ffff::/48"]


def test_the_source_decides_what_is_captured_and_which_class(world: World) -> None:
    pod, family = world.pod, world.family
    pod.count_mark(family, "ssh", class_mark(2), "-p tcp")
    for source, holds in ((ELSEWHERE, False), ([*ELSEWHERE, world.here], True)):
        pod.install(ruleset({**CONTENT, "source": source, "port": WEB}, {"port": SSH, "source": source}))
        assert world.captured(WEB) == holds
        before = pod.counted(family, "ssh")
        assert not world.captured(SSH)
        assert (pod.counted(family, "ssh") > before) == holds


def echo_request(family: Family) -> bytes:
    """ICMP echo without payload; the kernel fills in ICMPv6's checksum (RFC 3542 3.1)."""
    kind = 8 if family is Family.V4 else 128
    checksum = 0xFFFF - ((kind << 8) + 1) if family is Family.V4 else 0
    return struct.pack("!BBHHH", kind, 0, checksum, 0, 1)


def test_others_bits_of_the_mark_stay(world: World) -> None:
    pod, family = world.pod, world.family
    pod.install(NO_CONTENT)
    pod.count(family, "both", f"-p tcp -m mark --mark {0x1000539 | 0x40000:#x}")
    assert not world.captured(SSH, mark=0x539 | 0x40000)
    assert pod.counted(family, "both") >= 3


def test_captured_packets_do_not_leave(world: World) -> None:
    world.pod.install(RULES)
    world.pod.count_mark(world.family, "diverted", DIVERT)
    world.pod.count(world.family, "all", f"-p tcp --dport {WEB}")
    assert world.captured(WEB)
    assert world.pod.counted(world.family, "diverted") == 0
    assert world.pod.counted(world.family, "all") == 0


# --- while connections run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "later",
    [
        ruleset(CONTENT, {"port": SSH}, capture=False),
        ruleset({"port": SSH}, keep_captured=True),
        ruleset({"port": SSH}, CONTENT),
        ruleset(CONTENT, {"port": [SSH, WEB]}, {"cidr": ["10.0.0.0/8", "fd00::/8"]}),
        ruleset(CONTENT, settings=CaptureSettings(route_table=999, rule_preference=998)),
    ],
    ids=["draining", "no content any more", "another order", "more classes", "another table"],
)
def test_captured_connections_go_on_when_the_rules_change(world: World, later: Ruleset) -> None:
    world.pod.install(RULES)
    running = world.open(WEB)
    assert running.captured
    assert talks(running.client, running.peer)
    world.pod.install(later)
    assert talks(running.client, running.peer)
    running.client.shutdown(socket.SHUT_WR)
    assert running.peer.recv(1) == b""


def test_draining_sends_new_connections_directly_in_the_class_of_their_port(world: World) -> None:
    world.pod.install(RULES)
    world.pod.count_mark(world.family, "ssh", class_mark(2), "-p tcp")
    assert world.captured(SSH)
    world.pod.install(ruleset(CONTENT, {"port": SSH}, capture=False))
    assert not world.captured(SSH)
    assert not world.captured(WEB)
    assert world.pod.counted(world.family, "ssh") >= 3
    world.pod.install(RULES)
    assert world.captured(SSH)


def test_direct_connections_go_on_when_capture_begins_and_ends(world: World) -> None:
    running = world.open(WEB)
    assert not running.captured
    for change in (lambda: world.pod.install(RULES), world.pod.remove):
        change()
        assert talks(running.client, running.peer)


def test_a_tuple_that_was_captured_can_be_used_again_directly(world: World) -> None:
    world.pod.install(RULES)

    def from_one_port(client: socket.socket) -> None:
        from_port(client, 45_000)

    first = world.open(WEB, setup=from_one_port)
    assert first.captured
    first.client.close()
    with pytest.raises(ConnectionResetError):
        first.peer.recv(1)
    world.pod.install(ruleset(CONTENT, capture=False))
    again = world.open(WEB, setup=from_one_port)
    assert not again.captured
    assert talks(again.client, again.peer)


def queue_and_close(sender: socket.socket, receiver: socket.socket) -> tuple[int, int]:
    """Send until the sender's buffer is full, close it, read everything: (bytes sent, bytes received)."""
    sender.setblocking(False)
    sent = 0
    try:
        while True:
            sent += sender.send(b"x" * 65536)
    except BlockingIOError:
        sender.close()
    received = 0
    while data := receiver.recv(1 << 20):
        received += len(data)
    return sent, received


def test_what_a_closed_socket_left_behind_arrives_at_the_proxy(world: World) -> None:
    """Packets of an orphaned socket have no owner: only the connmark can lead them the right way."""
    world.pod.install(RULES)
    connection = world.open(WEB)
    assert connection.captured
    sent, received = queue_and_close(connection.client, connection.peer)
    assert received == sent > BEYOND_ONE_SEGMENT


def test_what_the_proxy_left_behind_arrives_at_the_server(world: World) -> None:
    """The proxy dies with data queued upstream: the mark stays with the socket and keeps exempting it."""
    world.pod.install(RULES)
    connection = world.open(WEB, mark=OWN.value)
    assert not connection.captured
    sent, received = queue_and_close(connection.client, connection.peer)
    assert received == sent > BEYOND_ONE_SEGMENT


def test_a_syn_that_found_no_proxy_goes_directly_once_capture_has_ended(world: World) -> None:
    """The retransmitted SYN (after a second) is decided anew, though its first try left DIVERT in the connmark."""
    world.pod.install(RULES)
    world.proxy.close()
    with world.pod.client(world.family) as client:
        client.setblocking(False)
        assert client.connect_ex((world.address, WEB)) == errno.EINPROGRESS
        world.pod.install(ruleset(CONTENT, capture=False))
        client.setblocking(True)
        client.settimeout(10)
        _, peer = accepted_by(world.server[WEB])
        with peer:
            assert talks(client, peer)
