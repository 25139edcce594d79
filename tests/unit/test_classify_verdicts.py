"""From a flow to its class and the reason in plain words; the class is always the proxy's own answer."""

from __future__ import annotations

import pytest
from captured import Talk, flows
from first_bytes import alpn, extension, hello, records, sni
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from datapath.mesh.types import ISTIO
from datapath.routing.flow import Content, Destination, parse_address
from datapath.routing.table import RoutingTable
from podlane.classify.totals import Totals, chart
from podlane.classify.verdicts import DETECTION_TIMEOUT, FlowClassifier, Verdict
from sidecar.config.settings import SidecarSettings
from traffic_policy.policy import TransportProtocol
from traffic_policy.policy_file import parse_policy

POLICY = parse_policy("""
total: 100Mbit
classes:
  - name: api
    rate: 20Mbit
    match:
      - sni: [api.example.com, "*.api.example.com", other.example.com]
        port: [443, "8000-8100"]
      - host: [api.example.com, b.example.com]
  - {name: grpc, rate: 1Mbit, match: [{alpn: [h2, grpc-exp], cidr: [10.0.0.0/8, 192.168.0.0/16]}]}
  - {name: mail, rate: 1Mbit, match: [{sni: [mail.example.com], port: [25]}]}
  - {name: backup, rate: 1Mbit, match: [{cidr: [10.9.0.0/16], port: [873], protocol: tcp}]}
  - {name: udp, rate: 1Mbit, match: [{protocol: udp, port: ["4000-5000"]}]}
  - name: ops
    rate: 1Mbit
    match:
      - application: [ssh, dns, ntp]
        source: [10.7.0.0/16, 10.8.0.0/16]
      - {sni: [ops.example.com], application: [https, imaps]}
""")


def tls_to(name: bytes, port: int = 443, server: str = "10.0.0.1", *extensions: bytes) -> list[Packet]:
    talk = Talk(server=server, dport=port).open()
    talk.up(records(hello(sni(name), *extensions)))
    return talk.packets


def http_to(host: bytes, port: int = 80) -> list[Packet]:
    talk = Talk(dport=port).open()
    talk.up(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    return talk.packets


def says(data: bytes, port: int = 5000) -> list[Packet]:
    talk = Talk(dport=port).open()
    talk.up(data)
    return talk.packets


def udp_to(port: int, data: bytes = b"x", source: str = "10.0.0.2") -> list[Packet]:
    return [IP(src=source, dst="10.0.0.1") / UDP(sport=40_000, dport=port) / Raw(data)]


def verdict_of(packets: list[Packet], *, seconds: float = 0.001) -> Verdict:
    found, _ = flows(packets, seconds=seconds)
    assert len(found) == 1
    return FlowClassifier(POLICY).verdict(found[0])


CASES = [
    pytest.param(
        tls_to(b"API.example.com."), "api", "api takes TLS connections to api.example.com on port 443", id="exact name"
    ),
    pytest.param(
        tls_to(b"x.y.api.example.com", 8042),
        "api",
        "api takes TLS connections to any name below api.example.com on port 8000-8100",
        id="wildcard and range: only what held is named",
    ),
    pytest.param(
        http_to(b"api.example.com:80"),
        "api",
        "api takes HTTP requests to api.example.com (Host or :authority)",
        id="host",
    ),
    pytest.param(
        tls_to(b"z.example.com", 443, "10.1.2.3", alpn(b"h2", b"http/1.1")),
        "grpc",
        "grpc takes TLS connections offering h2 by ALPN in 10.0.0.0/8",
        id="ALPN and network",
    ),
    pytest.param(
        [IP(src="10.0.0.2", dst="10.9.1.1") / TCP(sport=40_000, dport=873, flags="S")],
        "backup",
        "backup takes TCP on port 873 to 10.9.0.0/16; the client sent nothing",
        id="port and network",
    ),
    pytest.param(udp_to(4500), "udp", "udp takes UDP on port 4000-5000", id="UDP"),
    pytest.param(udp_to(53), "default", "no class takes UDP on port 53", id="UDP, default"),
    pytest.param(
        [IP(src="10.8.0.2", dst="10.0.0.1") / TCP(sport=40_000, dport=22, flags="S")],
        "ops",
        "ops takes ssh (port 22, TCP) from 10.8.0.0/16; the client sent nothing",
        id="a service and a source",
    ),
    pytest.param(
        udp_to(53, source="10.7.0.2"),
        "ops",
        "ops takes domain (port 53, UDP) from 10.7.0.0/16",
        id="a service of both protocols",
    ),
    pytest.param(
        tls_to(b"ops.example.com"),
        "ops",
        "ops takes TLS connections to ops.example.com on port 443 (https)",
        id="a service and a name",
    ),
    pytest.param(
        udp_to(443, b"\xc0\0\0\0\x01\x08" + b"i" * 8 + bytes(40)),
        "default",
        "no class takes UDP on port 443; its first packets are not in the capture, or not whole",
        id="QUIC",
    ),
    pytest.param(
        tls_to(b"z.example.com"),
        "default",
        "no class takes TLS connections to z.example.com on port 443",
        id="a name that nobody takes",
    ),
    pytest.param(
        http_to(b"z.example.com", 8080),
        "default",
        "no class takes HTTP requests to z.example.com (Host or :authority) on port 8080",
        id="a host that nobody takes",
    ),
    pytest.param(
        says(records(hello(alpn(b"imap")))),
        "default",
        "no class takes TLS connections offering imap by ALPN on port 5000; it names no server",
        id="TLS without a name",
    ),
    pytest.param(says(b"SSH-2.0-x\r\n", 22), "default", "no class takes TCP on port 22", id="neither TLS nor HTTP"),
    pytest.param(
        tls_to(b"mail.example.com", 25),
        "mail",
        "mail takes TLS connections to mail.example.com on port 25",
        id="port 25",
    ),
    pytest.param(
        http_to(b"b.example.com", 25),
        "default",
        "no class takes HTTP requests to b.example.com (Host or :authority) on port 25; "
        "names do not decide on port 25, where the server speaks first",
        id="a port where the server speaks first",
    ),
    pytest.param(
        tls_to(b"api.example.com", 443, "10.0.0.1", extension(0xFE0D)),
        "api",
        "api takes TLS connections to api.example.com on port 443; the true name may be encrypted (ECH)",
        id="ECH",
    ),
    pytest.param(
        tls_to(b"api.example.com")[3:],
        "api",
        "api takes TLS connections to api.example.com on port 443; the capture starts in mid-connection",
        id="middle of a connection",
    ),
    pytest.param(
        says(b"\x16\x03\x01\0\x05\x02\0\0\x01\0"),
        "default",
        "no class takes TCP on port 5000; what it says in tls is not valid",
        id="malformed",
    ),
    pytest.param(
        says(b"GET / HTTP/1.1\r\nHost: api"),
        "default",
        "no class takes TCP on port 5000; the client said too little to tell",
        id="too little",
    ),
    pytest.param(
        Talk(dport=9000).open().packets,
        "default",
        "no class takes TCP on port 9000; the client sent nothing",
        id="nothing",
    ),
]


@pytest.mark.parametrize(("packets", "class_name", "why"), CASES)
def test_the_class_and_why(packets: list[Packet], class_name: str, why: str) -> None:
    verdict = verdict_of(packets)
    assert (verdict.class_name, verdict.why) == (class_name, why)


@pytest.mark.parametrize(("packets", "class_name", "why"), CASES)
def test_the_class_is_what_the_proxy_would_choose(packets: list[Packet], class_name: str, why: str) -> None:
    verdict = verdict_of(packets)
    destination = Destination.parse(verdict.dst, verdict.dport, TransportProtocol(verdict.protocol))
    content = Content(verdict.sni, verdict.host, verdict.alpn)
    route = RoutingTable.from_policy(POLICY).route(destination, content, source=parse_address(verdict.src))
    assert route.class_name == class_name, why


def test_a_lost_segment_is_told() -> None:
    talk = Talk().open()
    data = records(hello(sni(b"api.example.com")))
    for start in range(0, len(data), 30):
        talk.up(data[start : start + 30])
    verdict = verdict_of(talk.packets[:4] + talk.packets[5:])
    assert verdict.detected == "tls"
    assert verdict.sni is None
    assert verdict.why == "no class takes TCP on port 443; some of the first bytes are not in the capture"


def test_a_name_that_comes_after_the_detection_timeout_does_not_decide() -> None:
    late = verdict_of(tls_to(b"api.example.com"), seconds=1.5)
    assert late.class_name == "default"
    assert late.sni == "api.example.com"
    assert late.why.endswith("; the first bytes took 1.5 s and the proxy waits 1 s for them")
    assert verdict_of(tls_to(b"api.example.com"), seconds=0.9).class_name == "api"


def test_the_timeout_does_not_matter_where_nobody_waits() -> None:
    talk = Talk(server="10.9.0.1", dport=873).open()
    talk.up(b"@RSYNCD: 31.0\n")
    assert verdict_of(talk.packets, seconds=9.0).why == "backup takes TCP on port 873 to 10.9.0.0/16"


def test_the_default_timeout_is_the_sidecars() -> None:
    assert SidecarSettings.model_fields["detection_timeout"].default.nanoseconds == DETECTION_TIMEOUT * 1e9


def test_addresses_are_written_as_people_do() -> None:
    talk = Talk(client="2001:db8::2", server="2001:db8::1").open()
    verdict = verdict_of(talk.packets)
    assert (verdict.src, verdict.sport, verdict.dst, verdict.dport) == ("2001:db8::2", 40_000, "2001:db8::1", 443)


def test_totals_have_every_class_and_bars_in_proportion() -> None:
    totals = Totals(POLICY)
    found, _ = flows([*tls_to(b"api.example.com"), *udp_to(53, bytes(1000))])
    for flow in found:
        totals.add(FlowClassifier(POLICY).verdict(flow))
    by_name = {c.name: c for c in totals.classes}
    assert list(by_name) == ["api", "grpc", "mail", "backup", "udp", "ops", "default"]
    assert (by_name["api"].flows, by_name["default"].flows, totals.flows) == (1, 1, 2)
    assert by_name["default"].bytes == by_name["default"].bytes_up == 1028
    lines = list(chart(totals.classes, 80))
    assert all(len(line) <= 80 for line in lines)
    bars = {line.split()[0]: line.count("█") + line.count("░") for line in lines[1:]}
    longest = bars["default"]
    assert bars["api"] == round(longest * by_name["api"].bytes / 1028)
    assert [bars[name] for name in ("grpc", "mail", "backup", "udp", "ops")] == [0, 0, 0, 0, 0]


def test_a_chart_of_nothing() -> None:
    lines = list(chart(Totals(POLICY).classes, 40))
    assert len(lines) == 8
    assert lines[-1].split() == ["default", "0", "0", "B", "0", "B", "–"]


def test_beside_istio_a_service_is_known_by_istios_name_for_it() -> None:
    policy = parse_policy(
        "total: 1Mbit\nclasses: [{name: api, rate: 8kbit, match: {host: [a.svc, b.svc], port: [80, 8000]}}]"
    )
    (found,), _ = flows(tls_to(b"outbound_.8000_.v1_.a.svc", 8443), seconds=0.001)
    verdict = FlowClassifier(policy, mesh=ISTIO).verdict(found)
    assert verdict.class_name == "api"
    assert verdict.sni == "outbound_.8000_.v1_.a.svc"
    assert verdict.why == (
        "api takes HTTP requests to a.svc (Host or :authority) on port 8000; the name is Istio's for port 8000 of a service"
    )
    outside = FlowClassifier(policy).verdict(found)
    assert outside.class_name == "default"
    assert "Istio" not in outside.why
