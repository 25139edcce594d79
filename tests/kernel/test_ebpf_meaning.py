"""The programs of ``datapath: ebpf`` mean what the routing table and the readers of first bytes mean.

Whatever the program decides by data, they decide alike; what it leaves open (0) goes by the packet, on which both agree always.
"""

from __future__ import annotations

import ipaddress
import itertools
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest
from ebpf_judge import FIRST_PACKETS, MOST_TRIED, Judge, frame, judge_for, mutated, require_programs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datapath.mesh.types import ISTIO, LINKERD, MeshProxy
from datapath.routing.flow import Address, Destination
from traffic_policy.policy import Bound, Match, TrafficClass, TrafficPolicy, TransportProtocol
from traffic_policy.policy_file import parse_policy

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # as its tests see it

from first_bytes import alpn, extension, hello, records, server_names, sni

pytestmark = pytest.mark.root

POLICY = parse_policy(
    """
total: 1Gbit
classes:
  - {name: api, rate: 1Mbit, match: [{sni: [api.example.com, "*.api.example.com"]}, {host: api.example.com, port: [80, "8000-8100"]}]}
  - {name: h2, rate: 1Mbit, match: {alpn: [h2], cidr: [10.0.0.0/8, "fd00::/8"]}}
  - {name: www, rate: 1Mbit, match: [{sni: ["*.example.org"], alpn: [http/1.1]}, {host: ["*.example.org", 192.0.2.7]}]}
  - {name: db, rate: 1Mbit, match: [{port: 5432}, {sni: db.example.com, port: 6379}]}
  - {name: backup, rate: 1Mbit, match: [{cidr: [10.1.0.0/16], port: 873}, {source: 10.9.0.0/16, protocol: tcp}]}
  - {name: dns, rate: 1Mbit, match: {protocol: udp, port: 53}}
  - {name: ping, rate: 1Mbit, match: {protocol: icmp}}
  - {name: any, rate: 1Mbit, match: {sni: "*.com"}}
  - {name: clients, rate: 1Mbit, match: [{host: "*.example.org", port: 8000, direction: inbound}, {sni: "*.com", direction: both}]}
"""
)
HERE = ipaddress.ip_address("10.9.0.2")


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    require_programs()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with judge_for(POLICY) as made:
        yield made


def seeds() -> list[bytes]:
    corpus = Path(__file__).parents[1] / "fuzz" / "corpus"
    found = [p.read_bytes()[:MOST_TRIED] for p in FIRST_PACKETS]
    found += [
        p.read_bytes()[:MOST_TRIED]
        for name in ("client_hello", "http1", "http2")
        for p in sorted((corpus / name).iterdir())
    ]
    names = (
        b"api.example.com",
        b"x.api.example.com",
        b"www.example.org",
        b"db.example.com",
        b"a.com",
        b"com",
        b"A_-.Example.Org.",
    )
    found += [records(hello(sni(name), alpn(b"h2", b"http/1.1"))) for name in names]
    found += [b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % name for name in (*names, b"192.0.2.7", b"a.b.example.org:80")]
    found += [records(hello(extension(21, b"\0" * 300), alpn(b"http/1.1"), sni(b"www.example.org")))]
    return found


@pytest.mark.parametrize("path", FIRST_PACKETS, ids=lambda p: p.name)
@pytest.mark.parametrize("address", ["192.0.2.1", "10.1.2.3", "fd00::1", "2001:db8::1"])
def test_what_real_programs_send_first(judge: Judge, path: Path, address: str) -> None:
    data = path.read_bytes()
    source: Address = HERE if ":" not in address else ipaddress.ip_address("fd00::2")
    for port in (80, 443, 6379, 8080, 5432):
        found = judge.agree(Destination.parse(address, port), source, data)
        # All of them can be read here but HTTP/2 without TLS, requests to a proxy, and what is neither.
        assert bool(found.by_data) is not (path.name in {"curl-h2c", "nghttp", "curl-proxy", "redis"})


def test_packets_without_names(judge: Judge) -> None:
    for protocol in TransportProtocol:
        for address in ("192.0.2.1", "10.1.2.3", "10.200.0.1", "fd00::1", "fe80::1"):
            source: Address = HERE if ":" not in address else ipaddress.ip_address("fd00::2")
            for port in (
                (1, 25, 53, 79, 80, 443, 873, 5432, 6379, 7999, 8000, 8100, 8101, 65535) if protocol.has_ports else (0,)
            ):
                judge.agree(Destination.parse(address, port, protocol), source, b"x")
                if protocol.has_ports:
                    judge.agree(Destination.parse(address, port, protocol, bound=Bound.INBOUND), source, b"x")


def test_names_of_every_shape(judge: Judge) -> None:
    labels = ("api", "example", "com", "a" * 63, "a" * 64, "-", "_x", "xn--bcher-kva", "1")
    rng = random.Random(18)
    destination = Destination.parse("10.1.2.3", 443)
    decided = 0
    for _ in range(3000):
        name = ".".join(rng.choice(labels) for _ in range(rng.randrange(1, 8))).encode() + rng.choice(
            (b"", b"", b".", b"..", b":443")
        )
        name = name.upper() if rng.random() < 0.3 else name
        decided += bool(judge.agree(destination, HERE, records(hello(sni(name)))).by_data)
        decided += bool(judge.agree(destination, HERE, b"GET /x HTTP/1.1\r\nHost: " + name + b"\r\n\r\n").by_data)
    assert decided > 2000


def test_offers_of_every_shape(judge: Judge) -> None:
    destination = Destination.parse("10.1.2.3", 443)
    for offers in (
        (b"h2",),
        (b"http/1.1", b"h2"),
        (b"\0h2",),
        (b"h2\0",),
        (b"h",),
        (b"x" * 255, b"h2"),
        (b"a",) * 16,
        (b"a",) * 17 + (b"h2",),
    ):
        found = judge.agree(destination, HERE, records(hello(alpn(*offers))))
        assert bool(found.by_data) == (len(offers) <= 16)
    many = [extension(1000 + i) for i in range(70)]
    assert judge.agree(destination, HERE, records(hello(*many[:60], sni(b"api.example.com")))).by_data
    assert not judge.agree(destination, HERE, records(hello(*many, sni(b"api.example.com")))).by_data
    two = server_names((0, b"a.com"), (1, b"b.com"))
    assert not judge.agree(destination, HERE, records(hello(two))).by_data


def named(i: int) -> str:
    return f"n{i}.example.net" if i % 2 else f"*.d{i}.example.net"


def test_five_thousand_names_in_254_classes() -> None:
    classes = tuple(
        TrafficClass(
            name=f"c{c}",
            rate="8kbit",
            match=(Match(sni=tuple(named(i) for i in range(c, 5000, 254))), Match(host=(named(c),))),
        )
        for c in range(254)
    )
    rng = random.Random(5000)
    destination = Destination.parse("192.0.2.1", 443)
    with judge_for(TrafficPolicy(total="1Gbit", classes=classes)) as judge:
        for i in rng.sample(range(5100), 400):
            name = named(i).replace("*", "a.b").encode()
            assert judge.agree(destination, HERE, records(hello(sni(name)))).by_data
            assert judge.agree(destination, HERE, b"GET / HTTP/1.1\r\nHost: " + name + b"\r\n\r\n").by_data


@pytest.mark.alone
@pytest.mark.nightly
def test_five_thousand_names_cost_what_one_costs() -> None:
    """Prints the medians of 11 interleaved rounds; the bound is loose, for a busy machine."""
    few, many = (
        TrafficPolicy(
            total="1Gbit",
            classes=tuple(
                TrafficClass(
                    name=f"c{c}",
                    rate="8kbit",
                    match=(Match(sni=tuple(f"n{i}.example.net" for i in range(c, names, classes))),),
                )
                for c in range(classes)
            ),
        )
        for names, classes in ((1, 1), (5000, 254))
    )
    destination = Destination.parse("192.0.2.1", 443)
    with judge_for(few) as one, judge_for(many) as all_:
        for path in (path for path in FIRST_PACKETS if path.name in {"curl-tls", "curl-http", "curl-post"}):
            packet = frame(destination, HERE, path.read_bytes())
            rounds = [(one.cost(packet), all_.cost(packet)) for _ in range(11)]
            first, second, ratio = (median(values) for values in zip(*((a, b, b / a) for a, b in rounds), strict=True))
            print(f"{path.name}: {first:.0f} ns, with 5,000 names {second:.0f} ns, ratio {ratio:.3f}")
            assert ratio < 2


def fuzz(judge: Judge, rounds: int, seed: int, more: Sequence[bytes] = ()) -> int:
    """Judge that many mutated first packets; how many were decided by data."""
    rng = random.Random(seed)
    those = [*seeds(), *more]
    destinations = [
        Destination.parse(a, p, bound=bound)
        for a in ("10.1.2.3", "192.0.2.1")
        for p in (80, 443, 8000)
        for bound in (Bound.OUTBOUND, Bound.INBOUND)
    ]
    return sum(bool(judge.agree(rng.choice(destinations), HERE, mutated(rng, those)).by_data) for _ in range(rounds))


def test_mutated_first_packets(judge: Judge) -> None:
    assert fuzz(judge, 20_000, 18) > 4_000


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_million_mutated_first_packets(judge: Judge) -> None:
    assert fuzz(judge, 1_000_000, 1818) > 200_000


# --- beside a mesh -----------------------------------------------------------------------------------------------------

SERVICES = (
    b"outbound_.8000_._.api.example.com",
    b"OUTBOUND_.8000_.V1_.API.Example.Com.",
    b"outbound_.443_.canary_.x.api.example.com",
    b"outbound_.6379_._.db.example.com",
    b"outbound_.25_._.db.example.com",
    b"outbound_.65535_._.www.example.org",
    b"outbound_.8050_." + b"s" * 62 + b"_.api.example.com",
    b"outbound_.8000_._.unknown.example",
    b"outbound_.1_._.com",
)
NO_SERVICES = (
    b"outbound_.08000_._.api.example.com",
    b"outbound_.0_._.api.example.com",
    b"outbound_.65536_._.api.example.com",
    b"outbound_.123456_._.api.example.com",
    b"outbound_.80_.v1.api.example.com",
    b"outbound_.80.v1_.api.example.com",
    b"outbound_._.v1_.api.example.com",
    b"outbound_.80_._",
    b"outbound_.80_._.",
    b"outbound_.80_",
    b"outbound.80_._.api.example.com",
    b"inbound_.8000_._.api.example.com",
    b"xoutbound_.8000_._.api.example.com",
    b"outbound_",
)


@pytest.fixture(scope="module")
def beside_istio() -> Iterator[Judge]:
    with judge_for(POLICY, ISTIO) as made:
        yield made


def test_names_of_services(beside_istio: Judge, judge: Judge) -> None:
    ports = (25, 80, 443, 5432, 6379, 8000, 9999, 15000, 15090, 15091)
    classes = set()
    for address, port, bound in itertools.product(("10.1.2.3", "192.0.2.1"), ports, (Bound.OUTBOUND, Bound.INBOUND)):
        destination = Destination.parse(address, port, bound=bound)
        for name in (*SERVICES, *NO_SERVICES, b"api.example.com", b"a.com"):
            for offers in ((), (alpn(b"istio-http/1.0", b"istio"),), (alpn(b"http/1.1", b"h2"),)):
                found = beside_istio.agree(destination, HERE, records(hello(sni(name), *offers)))
                assert found.by_data
                classes.add(found.by_data)
                if bound is Bound.OUTBOUND:  # without a mesh it is a name like any other
                    judge.agree(destination, HERE, records(hello(sni(name), *offers)))
        beside_istio.agree(destination, HERE, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % SERVICES[0])
    assert len(classes) >= 6


def test_mutated_first_packets_beside_istio(beside_istio: Judge) -> None:
    hellos = [records(hello(sni(name), alpn(b"istio"))) for name in (*SERVICES, *NO_SERVICES)]
    assert fuzz(beside_istio, 10_000, 1337, hellos * 20) > 2_000


LABELS = st.sampled_from(["a", "b", "c"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PATTERNS = st.one_of(NAMES, NAMES.map("*.{}".format))
PORTS = st.one_of(
    st.sampled_from(["1", "25", "80", "443", "65535"]),
    st.tuples(st.integers(1, 600), st.integers(0, 70)).map(lambda p: f"{p[0]}-{sum(p)}"),
)
NETWORKS = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "::/0", "fd00::/8", "fd00::1/128"])


@st.composite
def matches(draw: st.DrawFn) -> Match:
    def maybe(strategy: st.SearchStrategy[str]) -> list[str]:
        return draw(st.lists(strategy, max_size=3)) if draw(st.integers(0, 2)) == 0 else []

    given = {
        "sni": maybe(PATTERNS),
        "host": maybe(PATTERNS),
        "alpn": maybe(st.sampled_from(["h2", "http/1.1", "x"])),
        "port": maybe(PORTS),
        "cidr": maybe(NETWORKS),
        "source": maybe(NETWORKS),
        "protocol": maybe(st.sampled_from(["tcp", "udp", "icmp"])),
        "direction": draw(st.sampled_from(["outbound", "outbound", "inbound", "both"])),
    }
    return Match.model_validate({key: value for key, value in given.items() if value})


POLICIES = st.lists(st.lists(matches(), min_size=1, max_size=3), min_size=1, max_size=6).map(
    lambda all_: TrafficPolicy(
        total="1Gbit",
        classes=tuple(TrafficClass(name=f"c{i}", rate="1Mbit", match=tuple(m)) for i, m in enumerate(all_)),
    )
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    policy=POLICIES,
    names=st.lists(NAMES, min_size=1, max_size=4),
    ports=st.lists(st.integers(1, 700), min_size=1, max_size=4),
    mesh=st.sampled_from([None, ISTIO, LINKERD]),
)
def test_any_policy_means_the_same(
    policy: TrafficPolicy, names: list[str], ports: list[int], mesh: MeshProxy | None
) -> None:
    if mesh is not None:
        ports = [*ports[:2], mesh.ports[0].first]
        names = [*names[:2], *(f"outbound_.{port}_._.{name}" for name, port in zip(names, ports, strict=False))]
    with judge_for(policy, mesh) as judge:
        for address, source in (
            ("10.1.2.3", "10.1.0.9"),
            ("192.0.2.1", "192.0.2.9"),
            ("fd00::1", "fd00::9"),
            ("2001:db8::1", "fd00::9"),
        ):
            here = ipaddress.ip_address(source)
            for port, bound in itertools.product((25, 80, 443, *ports), (Bound.OUTBOUND, Bound.INBOUND)):
                destination = Destination.parse(address, port, bound=bound)
                for name in names:
                    for data in (
                        records(hello(sni(name.encode()), alpn(b"http/1.1", b"y"))),
                        records(hello(sni(name.encode()))),
                        b"GET / HTTP/1.1\r\nHost: " + name.encode() + b"\r\n\r\n",
                    ):
                        assert judge.agree(destination, here, data).by_data
            udp = Destination.parse(address, ports[0], TransportProtocol.UDP)
            judge.agree(udp, here, b"x")
            judge.agree(Destination.parse(address, 0, TransportProtocol.ICMP), here, b"x")
