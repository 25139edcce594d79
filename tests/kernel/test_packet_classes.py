"""Packets of every kind find their class in the real kernel, by nothing but themselves.

Ordinary ones are sent by ordinary sockets, the odd ones (fragments, extension headers, packets cut short) as whole frames
by a packet socket (packet(7)), which go through the interface's qdisc like all others. Which class took a packet is read
from the classes' counters.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from bpf_machine import Skb
from packet_meaning import ARP, extension, fragment_header, ipv4, ipv6, ports_of, verdict
from tclab import CLIENT, DEVICE, SERVER, Pair, inside, run, set_mark, veth_pair
from waiting import until

from tc_core.bpf.packet_program import MAX_INSTRUCTIONS, PacketRule, filters
from tc_core.handles import ROOT, Handle
from tc_core.kernel import AddClass, AddFilter, AddQdisc, Change, DeleteFilter
from tc_core.model import Bfifo, HtbClass, HtbQdisc, Prio
from traffic_policy.marks import Mark
from traffic_policy.policy import Network, PortRange
from traffic_policy.units import ByteCount, Rate

pytestmark = pytest.mark.root

ROOT_HANDLE = Handle(1)
A, B, C, D, DEFAULT = (Handle(1, minor) for minor in (0x10, 0x11, 0x12, 0x13, 0xFF))
CLASSES = (A, B, C, D, DEFAULT)
CLIENT6, SERVER6 = "fd87::1", "fd87::2"
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
RATE, BURST = Rate(1_000_000_000), ByteCount(1 << 20)


def _works_here(command: str) -> bool:
    """Whether this kernel has what the command uses, found by trying in a namespace that is gone at once."""
    tried = subprocess.run(["unshare", "--net", "sh", "-c", command], capture_output=True, check=False)
    return os.geteuid() == 0 and tried.returncode == 0


@pytest.fixture
def pair() -> Iterator[Pair]:
    with veth_pair() as made:
        yield made


@pytest.fixture
def both_families(pair: Pair) -> Pair:
    """With IPv6 too. The addresses are on lo: a multicast report for one on the interface would be counted as well."""
    for name, address, peer, mac in (
        (pair.client, CLIENT6, SERVER6, "02:00:00:00:00:02"),
        (pair.server, SERVER6, CLIENT6, "02:00:00:00:00:01"),
    ):
        for setting in (f"{DEVICE}.addr_gen_mode=1", f"{DEVICE}.disable_ipv6=0", "lo.disable_ipv6=0"):
            run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{setting}")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "address", "add", f"{address}/128", "dev", "lo", "nodad")
        run("ip", "-n", name, "neigh", "replace", peer, "lladdr", mac, "dev", DEVICE)
        run("ip", "-n", name, "-6", "route", "add", peer, "dev", DEVICE, "src", address)
    return pair


def nets(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def ports(*values: int | str) -> tuple[PortRange, ...]:
    return tuple(PortRange.parse(value) for value in values)


def install(pair: Pair, rules: Sequence[PacketRule], device: str = DEVICE, *, mirrored: bool = False) -> None:
    """An HTB root with five classes, and the filters of these rules."""
    changes: list[Change] = [AddQdisc(HtbQdisc(ROOT_HANDLE, DEFAULT.minor))]
    for handle in CLASSES:
        changes.append(AddClass(HtbClass(handle, ROOT_HANDLE, RATE, RATE, BURST, BURST, 0, ByteCount(60_000))))
    changes += [AddFilter(f) for f in filters(rules, ROOT_HANDLE, mirrored=mirrored)]
    for change in changes:
        pair.kernel.apply(device, change)


@dataclass
class Counted:
    """How many packets each class has sent since the last time this was asked."""

    pair: Pair
    device: str = DEVICE
    _before: Mapping[Handle, int] = field(default_factory=dict)

    def _packets(self) -> dict[Handle, int]:
        counters = self.pair.kernel.counters(self.device)
        return {handle: counters[handle].packets for handle in CLASSES}

    def __call__(self, at_least: int = 1) -> dict[Handle, int]:
        """The classes that have sent something, once there are ``at_least`` packets in all."""

        def new() -> dict[Handle, int]:
            now = self._packets()
            return {handle: now[handle] - self._before.get(handle, 0) for handle in CLASSES}

        until(f"{at_least} packets to be counted", lambda: sum(new().values()) >= at_least)
        found = new()
        self._before = self._packets()
        return {handle: packets for handle, packets in found.items() if packets}


class Frames:
    """Sends packets byte for byte from the client, behind an Ethernet header."""

    def __init__(self, pair: Pair, device: str = DEVICE) -> None:
        self._socket = inside(pair.client, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._device = device

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def send(self, skb: Skb) -> None:
        set_mark(self._socket, skb.mark)
        ethernet = bytes.fromhex("020000000002 020000000001") + skb.protocol.to_bytes(2)
        self._socket.sendto(ethernet + skb.network, (self._device, skb.protocol))


# --- ordinary sockets ----------------------------------------------------------------------------------------------------


def datagram(pair: Pair, address: str, port: int) -> None:
    """A UDP datagram from the client; nobody has to listen."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(pair.client, lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
        sender.sendto(b"x", (address, port))


def test_sockets_of_both_families_find_their_class(both_families: Pair) -> None:
    rules = [
        PacketRule(A, destination=nets(f"{SERVER}/32", "fd87::/64"), ports=ports(53)),
        PacketRule(B, protocols=(UDP,), ports=ports("1000-1999")),
        PacketRule(C, destination=nets("10.0.0.0/8"), protocols=(UDP,)),
    ]
    install(both_families, rules)
    counted = Counted(both_families)
    for address, port, expected in (
        (SERVER, 53, A), (SERVER6, 53, A), (SERVER, 1000, B), (SERVER6, 1999, B), (SERVER, 2000, C), (SERVER6, 2000, DEFAULT),
    ):  # fmt: skip
        datagram(both_families, address, port)
        assert counted() == {expected: 1}, (address, port)


def test_a_connection_is_in_the_class_of_its_destination_port(pair: Pair) -> None:
    """The SYN and everything after it; a connection from that port to another is not."""
    listeners = [pair.listen(8443), pair.listen(9000)]
    install(pair, [PacketRule(A, protocols=(TCP,), ports=ports(8443))])
    counted = Counted(pair)
    for listener, source_port, expected in ((listeners[0], 0, A), (listeners[1], 8443, DEFAULT)):
        with inside(pair.client, socket.socket) as client:
            client.bind((CLIENT, source_port))
            client.connect(listener.getsockname())
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"x" * 100_000)
                client.shutdown(socket.SHUT_WR)
                while accepted.recv(1 << 16):
                    pass
        assert list(counted(at_least=5)) == [expected]


def test_echo_requests_are_found_by_protocol(both_families: Pair) -> None:
    install(both_families, [PacketRule(A, protocols=(ICMP, ICMPV6))])
    counted = Counted(both_families)
    for family, protocol, address, kind in (
        (socket.AF_INET, ICMP, SERVER, 8), (socket.AF_INET6, ICMPV6, SERVER6, 128),
    ):  # fmt: skip
        with inside(both_families.client, lambda f=family, p=protocol: socket.socket(f, socket.SOCK_RAW, p)) as sender:  # type: ignore[misc]
            request = bytes([kind, 0, 0, 0, 0, 1, 0, 1])
            checksum = 0xFFFF ^ (kind << 8) + 2
            sender.sendto(request[:2] + checksum.to_bytes(2) + request[4:], (address, 0))
        assert counted() == {A: 1}


def test_a_large_datagram_has_its_class_by_address_in_all_fragments_by_port_in_the_first(both_families: Pair) -> None:
    """4,000 bytes are three fragments; IPv6 ones have a fragment header."""
    rules = [PacketRule(A, ports=ports(53)), PacketRule(B, protocols=(UDP,))]
    install(both_families, rules)
    counted = Counted(both_families)
    for family, address in ((socket.AF_INET, SERVER), (socket.AF_INET6, SERVER6)):
        with inside(both_families.client, lambda f=family: socket.socket(f, socket.SOCK_DGRAM)) as sender:  # type: ignore[misc]
            sender.sendto(bytes(4000), (address, 53))
        assert counted(at_least=3) == {A: 1, B: 2}


def test_real_extension_headers_are_walked_over(both_families: Pair) -> None:
    """Hop-by-hop and destination options as the kernel itself writes them (ipv6(7))."""
    install(both_families, [PacketRule(A, protocols=(UDP,), ports=ports(53))])
    counted = Counted(both_families)
    options = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # PadN
    with inside(both_families.client, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, options)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
        sender.sendto(b"x", (SERVER6, 53))
    assert counted() == {A: 1}


def test_marks_of_sockets_are_compared_under_their_mask(pair: Pair) -> None:
    install(
        pair,
        [PacketRule(A, mark=Mark(0x80000000, 0xFF000000)), PacketRule(B, ports=ports(53), mark=Mark(0, 0xFF000000))],
    )
    counted = Counted(pair)
    with inside(pair.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        for mark, expected in ((0x80004080, A), (0x4080, B), (0x81000000, DEFAULT)):
            set_mark(sender, mark)
            sender.sendto(b"x", (SERVER, 53))
            assert counted() == {expected: 1}, hex(mark)


BAND = Handle(1, 3)
ROOTS = [
    pytest.param(
        [
            AddQdisc(HtbQdisc(ROOT_HANDLE, 0xFF)),
            AddClass(HtbClass(BAND, ROOT_HANDLE, RATE, RATE, BURST, BURST, 0, BURST)),
        ],
        id="htb",
    )
]
if _works_here("ip link add name one type veth peer name two && tc qdisc add dev one root handle 1: prio"):
    ROOTS.append(pytest.param([AddQdisc(Prio(ROOT_HANDLE, ROOT))], id="prio"))


@pytest.mark.parametrize("changes", ROOTS)
def test_classes_of_htb_and_bands_of_prio_alike(pair: Pair, changes: list[Change]) -> None:
    queue = Handle(0x30)
    rules = [PacketRule(BAND, ports=ports(53))]
    for change in (
        *changes,
        AddQdisc(Bfifo(queue, BAND, ByteCount(100_000))),
        *(AddFilter(f) for f in filters(rules, ROOT_HANDLE)),
    ):
        pair.kernel.apply(DEVICE, change)
    datagram(pair, SERVER, 54)
    datagram(pair, SERVER, 53)
    until("the datagrams to be sent", lambda: pair.kernel.qdisc_counters(DEVICE)[ROOT_HANDLE].packets == 2)
    assert pair.kernel.qdisc_counters(DEVICE)[queue].packets == 1


# --- whole frames --------------------------------------------------------------------------------------------------------

RULES = [
    PacketRule(A, destination=nets("10.2.0.0/16", "fd00:2::/32"), protocols=(TCP,), ports=ports(443)),
    PacketRule(B, destination=nets("10.2.0.0/16", "fd00:2::/32"), protocols=(TCP,)),
    PacketRule(C, source=nets("10.1.0.0/16", "fd00:1::1/128")),
    PacketRule(D, mark=Mark(7, 0xFF)),
]
CHAIN = [extension(0), extension(60), extension(43, 2), fragment_header(0), extension(51, 4), extension(60, 1)]
PACKETS = {
    "IPv4": ipv4(),
    "IPv4, UDP": ipv4(protocol=UDP),
    "IPv4, options": ipv4(options=bytes(40)),
    "IPv4, header length 16": ipv4(header_words=4),
    "IPv4, first fragment": ipv4(fragment=0x2000),
    "IPv4, second fragment": ipv4(fragment=0x2001),
    "IPv4, other addresses": ipv4(source="10.9.0.1", destination="10.9.0.2", mark=7),
    "IPv6": ipv6(),
    "IPv6, port 80": ipv6(ports_of(443, 80)),
    "IPv6, six headers": ipv6(headers=CHAIN),
    "IPv6, second fragment": ipv6(headers=[extension(0), fragment_header(1)]),
    "IPv6, eight headers": ipv6(headers=[extension(60)] * 8),
    "IPv6, nine headers": ipv6(headers=[extension(60)] * 9),
    "IPv6, long headers": ipv6(headers=[extension(0, 20), extension(51, 255)]),
    "IPv6, ESP": ipv6(headers=[extension(50)]),
    "IPv6, IPv4-mapped": ipv6(destination="::ffff:10.2.0.1", source="::1", mark=7),
    "ARP": replace(ipv4(), protocol=ARP),
    "ARP, marked": replace(ipv4(mark=7), protocol=ARP),
}


def test_odd_packets_get_the_class_that_the_rules_mean(pair: Pair) -> None:
    install(pair, RULES)
    counted = Counted(pair)
    with Frames(pair) as frames:
        for name, skb in PACKETS.items():
            frames.send(skb)
            assert counted() == {Handle.from_int(verdict(RULES, skb) or int(DEFAULT)): 1}, name


def test_packets_cut_short_get_the_class_that_needs_no_more(pair: Pair) -> None:
    """Cut at every byte; and no load leaves the packet, which would make it one of the default class."""
    rules = [*RULES, PacketRule(D)]
    install(pair, rules)
    counted = Counted(pair)
    with Frames(pair) as frames:
        for whole in (ipv4(options=bytes(4)), ipv6(headers=[extension(0), extension(51, 1)])):
            for size in range(1, len(whole.network) + 1):
                skb = replace(whole, network=whole.network[:size])
                frames.send(skb)
                assert counted() == {Handle.from_int(verdict(rules, skb)): 1}, size


# --- other interfaces ----------------------------------------------------------------------------------------------------


def test_what_an_ifb_receives_is_found_from_the_other_side(both_families: Pair) -> None:
    """Policy names the server and its port as the destination; the packets come from there."""
    both_families.on_client("ip", "link", "add", "ifb0", "type", "ifb")
    both_families.on_client("ip", "link", "set", "ifb0", "up")
    both_families.on_client("tc", "qdisc", "add", "dev", DEVICE, "clsact")
    everything = "1,6 0 0 4294967295"
    both_families.on_client(
        *f"tc filter add dev {DEVICE} ingress protocol all prio 1 bpf bytecode".split(),
        everything,
        *("action", "mirred", "egress", "redirect", "dev", "ifb0"),
    )
    rules = [PacketRule(A, destination=nets(f"{SERVER}/32", f"{SERVER6}/128"), protocols=(UDP,), ports=ports(53))]
    install(both_families, rules, "ifb0", mirrored=True)
    counted = Counted(both_families, "ifb0")
    for family, server, client in ((socket.AF_INET, SERVER, CLIENT), (socket.AF_INET6, SERVER6, CLIENT6)):
        for source_port, port, expected in ((53, 4000, A), (4000, 53, DEFAULT)):
            with (
                inside(both_families.client, lambda f=family: socket.socket(f, socket.SOCK_DGRAM)) as receiver,  # type: ignore[misc]
                inside(both_families.server, lambda f=family: socket.socket(f, socket.SOCK_DGRAM)) as sender,  # type: ignore[misc]
            ):
                receiver.bind((client, port))
                sender.bind((server, source_port))
                sender.sendto(b"x", (client, port))
                receiver.settimeout(20)
                assert receiver.recv(10) == b"x", "shaped, and still delivered"
            assert counted() == {expected: 1}


def _loopback(pair: Pair) -> AbstractContextManager[object]:
    """Where every address of the network is local."""
    pair.on_client("ip", "link", "set", "lo", "name", "link9")
    return nullcontext()


def _tun(pair: Pair) -> AbstractContextManager[object]:
    """A device whose packets begin with the IP header. Held open at its other end, without which it carries nothing."""
    pair.on_client("ip", "tuntap", "add", "link9", "mode", "tun")
    return inside(pair.client, lambda: _attach_tun("link9"))


def _vlan(pair: Pair) -> AbstractContextManager[object]:
    """A VLAN on the interface: what it sends is shaped underneath, with the tag in a field beside the packet."""
    pair.on_client("ip", "link", "add", "link", DEVICE, "name", "link9", "type", "vlan", "id", "9")
    pair.on_client("ip", "neigh", "add", "10.89.0.2", "lladdr", "02:00:00:00:00:02", "dev", "link9")
    return nullcontext()


LINKS = [pytest.param(_loopback, "link9", id="loopback")]
if Path("/dev/net/tun").exists():
    LINKS.append(pytest.param(_tun, "link9", id="tun"))
if _works_here("ip link add name one type veth peer name two && ip link add link one name three type vlan id 9"):
    LINKS.append(pytest.param(_vlan, DEVICE, id="vlan"))


@pytest.mark.parametrize(("make", "shaped"), LINKS)
def test_other_links_than_plain_ethernet(
    pair: Pair, make: Callable[[Pair], AbstractContextManager[object]], shaped: str
) -> None:
    with make(pair):
        pair.on_client("ip", "link", "set", "link9", "up")
        pair.on_client("ip", "address", "add", "10.89.0.1/24", "dev", "link9")
        rules = [PacketRule(A, destination=nets("10.89.0.0/24"), ports=ports(53)), PacketRule(B, ports=ports(54))]
        install(pair, rules, shaped)
        counted = Counted(pair, shaped)
        for port, expected in ((53, A), (54, B)):
            datagram(pair, "10.89.0.2", port)
            assert counted().get(expected) == 1


def _attach_tun(name: str) -> AbstractContextManager[object]:
    """The other end of a tun device (TUNSETIFF with IFF_TUN and IFF_NO_PI, linux/if_tun.h)."""
    tun = Path("/dev/net/tun").open("r+b", buffering=0)  # noqa: SIM115 - the caller closes it
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))
    return tun


# --- size ----------------------------------------------------------------------------------------------------------------


def test_the_longest_programs_are_taken_listed_and_removed(pair: Pair) -> None:
    """Two thousand networks: programs near the limit, found again as they were, and one decides after the other."""
    networks = tuple(ipaddress.IPv4Network((0x0B000000 + i * 512, 24)) for i in range(2100))
    rules = [PacketRule(A, destination=networks), PacketRule(B, ports=ports(53))]
    rules += [
        PacketRule(C, destination=(ipaddress.IPv4Network((0x0C000000 + i * 512, 24)),), ports=ports(80))
        for i in range(700)
    ]
    install(pair, rules)
    wanted = filters(rules, ROOT_HANDLE)
    assert len(wanted) > 2
    assert max(len(f.instructions) for f in wanted) > 0.9 * MAX_INSTRUCTIONS
    assert pair.kernel.observe(DEVICE).filters == wanted
    counted = Counted(pair)
    with Frames(pair) as frames:
        for destination, port, expected in (
            ("11.0.0.7", 1, A), ("11.0.1.7", 1, DEFAULT), (str(networks[-1][9]), 1, A), ("11.0.1.7", 53, B), ("12.0.0.9", 80, C), ("12.5.118.1", 80, C),
        ):  # fmt: skip
            frames.send(ipv4(ports_of(1, port), destination=destination))
            assert counted() == {expected: 1}, destination
    for each in wanted:
        pair.kernel.apply(DEVICE, DeleteFilter(each))
    assert pair.kernel.observe(DEVICE).filters == ()
