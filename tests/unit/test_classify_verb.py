"""``podlane classify`` as its users meet it: lines, JSON, summary, notes, errors, exit codes. Nothing here needs root.

What only a process of its own has (pipes, terminals, signals) is in tests/kernel/test_classify_process.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from captured import RAW, Talk
from click.testing import CliRunner
from first_bytes import alpn, hello, records, sni
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapWriter

from podlane.classify.command import classify
from podlane.classify.flow import CaptureSummary
from podlane.classify.notes import notes

ROOT = Path(__file__).parents[2]
KEYS = [
    "src", "sport", "dst", "dport", "protocol", "detected", "sni", "host", "alpn", "ech", "class", "why",
    "bytes_up", "packets_up", "bytes_down", "packets_down",
]  # fmt: skip
POLICY = """
total: 10Mbit
classes: [{name: web, rate: 1Mbit, match: [{sni: ["*.example.com"]}, {host: [b.example.com, b.example.org]}]}]
"""


def conversation() -> list[Packet]:
    talk = Talk().open()
    talk.up(records(hello(sni(b"a.example.com"), alpn(b"h2", b"http/1.1"))))
    talk.down(b"x" * 500)
    return talk.close().packets


UP = sum(len(p) for p in conversation() if p[IP].src == "10.0.0.2")
DOWN = sum(len(p) for p in conversation() if p[IP].src == "10.0.0.1")


def capture(path: Path, packets: Sequence[Packet | bytes]) -> Path:
    with path.open("wb") as file:
        writer = RawPcapWriter(file, linktype=RAW)
        writer._write_header(b"")
        for index, packet in enumerate(packets):
            writer._write_packet(bytes(packet), RAW, sec=index, usec=0)
    return path


@pytest.fixture
def cli() -> CliRunner:
    return CliRunner()


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    udp = IP(src="10.0.0.2", dst="10.0.0.3") / UDP(sport=5000, dport=53) / Raw(b"query")
    return str(capture(tmp_path / "capture.pcap", [*conversation(), udp]))


def test_one_json_object_per_flow_with_exactly_these_keys(cli: CliRunner, policy: str, file: str) -> None:
    done = cli.invoke(classify, ["--policy", policy, "--json", "--detection-timeout", "2s", file])
    assert done.exit_code == 0, done.output
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert list(first) == list(second) == KEYS
    assert first == {
        "src": "10.0.0.2", "sport": 40_000, "dst": "10.0.0.1", "dport": 443, "protocol": "tcp", "detected": "tls",
        "sni": "a.example.com", "host": None, "alpn": ["h2", "http/1.1"], "ech": False, "class": "web",
        "why": "web takes TLS connections to any name below example.com",
        "bytes_up": UP, "packets_up": 5, "bytes_down": DOWN, "packets_down": 3,
    }  # fmt: skip
    assert (second["protocol"], second["detected"], second["class"]) == ("udp", "unknown", "default")
    assert re.search(r"podlane: 9 packets \(981 B\), 2 flows in \d+\.\d s: [\d,]+ packets/s", done.stderr)


def test_the_keys_in_the_docs_are_those_keys() -> None:
    rows = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)?", (ROOT / "docs/how-to/classify.md").read_text(), re.MULTILINE)
    assert [key for row in rows for key in row if key] == KEYS


def test_lines_for_people_have_names_ends_amounts_and_the_reason(cli: CliRunner, policy: str, file: str) -> None:
    done = cli.invoke(classify, ["--policy", policy, "--detection-timeout", "2s", file])
    first, second = done.stdout.splitlines()
    assert first.split()[:6] == ["web", "tcp", "tls", "a.example.com", "10.0.0.2:40000", ">"]
    assert first.endswith("web takes TLS connections to any name below example.com")
    assert second.split()[:3] == ["default", "udp", "–"]


def test_the_summary_has_a_bar_for_each_class(cli: CliRunner, policy: str, file: str) -> None:
    arguments = ["--policy", policy, "--summary", "--detection-timeout", "2s", file]
    done = cli.invoke(classify, arguments, env={"COLUMNS": "120"})
    head, web, default = done.stdout.splitlines()
    assert head.split() == ["class", "flows", "sent", "received", "share", "█", "sent", "░", "received"]
    assert web.split()[:8] == ["web", "1", str(UP), "B", str(DOWN), "B", "96.6", "%"]
    assert default.split()[:8] == ["default", "1", "33", "B", "0", "B", "3.4", "%"]
    assert web.count("█") / web.count("░") == pytest.approx(UP / DOWN, rel=0.05)


def test_the_summary_as_json(cli: CliRunner, policy: str, file: str) -> None:
    done = cli.invoke(classify, ["--policy", policy, "--summary", "--json", "--detection-timeout", "2s", file])
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"class": "web", "flows": 1, "bytes_up": UP, "packets_up": 5, "bytes_down": DOWN, "packets_down": 3},
        {"class": "default", "flows": 1, "bytes_up": 33, "packets_up": 1, "bytes_down": 0, "packets_down": 0},
    ]


def test_what_is_missing_is_said_and_the_rest_is_classified(cli: CliRunner, policy: str, tmp_path: Path) -> None:
    ping = IP(src="10.0.0.2", dst="10.0.0.1") / ICMP()
    path = capture(tmp_path / "cut.pcap", [ping, *conversation()[3:]])
    path.write_bytes(path.read_bytes()[:-5])
    done = cli.invoke(classify, ["--policy", policy, "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sni"] == "a.example.com"
    assert "it is cut off in the middle of a packet. What comes before that is classified." in done.stderr
    assert "1 connection began before the capture" in done.stderr
    assert "1 packet is not captured whole" in done.stderr
    assert "1 packet of IP without ports is left out: ICMP 1." in done.stderr
    assert "other protocols than IP" not in done.stderr


def test_a_whole_capture_leaves_nothing_to_say() -> None:
    assert list(notes("x.pcap", None, CaptureSummary(packets=5))) == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (CaptureSummary(), "x.pcap has no packets."),
        (
            CaptureSummary(packets=1, unknown_links={127: 1200}),
            "1,200 packets of link type 127 cannot be read and are left out",
        ),
        (CaptureSummary(packets=1, in_the_middle=2), "2 connections began before the capture"),
        (CaptureSummary(packets=1, broken=1), "1 packet is left out: cut off before the ports, or not valid."),
        (CaptureSummary(packets=1, fragments_given_up=2), "2 fragmented packets are left out: parts are missing."),
        (CaptureSummary(packets=1, evicted=3), "3 flows had to be judged before the end"),
        (CaptureSummary(packets=1, not_ip=1), "1 packet of other protocols than IP (ARP ...) is left out."),
        (
            CaptureSummary(packets=4, other=Counter({58: 1, 47: 1200, 253: 2})),
            "1,203 packets of IP without ports are left out: GRE 1,200, ICMPv6 1, protocol 253 2. What tunnels carry",
        ),
    ],
    ids=["empty", "link type", "middle", "broken", "fragments", "evicted", "not IP", "protocols"],
)
def test_what_is_not_as_it_should_be_is_said(seen: CaptureSummary, words: str) -> None:
    (note,) = notes("x.pcap", None, seen)
    assert words in note


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        pytest.param(None, 1, "cannot be read: No such file or directory", id="missing"),
        pytest.param(b"", 1, "is empty. Capture something first", id="empty"),
        pytest.param(b"hello, world", 1, "is not a capture", id="no capture"),
    ],
)
def test_what_cannot_be_read_is_named(
    cli: CliRunner, policy: str, tmp_path: Path, content: bytes | None, code: int, words: str
) -> None:
    path = tmp_path / "capture"
    if content is not None:
        path.write_bytes(content)
    done = cli.invoke(classify, ["--policy", policy, str(path)])
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr


def test_a_capture_without_packets_is_no_error(cli: CliRunner, policy: str, tmp_path: Path) -> None:
    done = cli.invoke(classify, ["--policy", policy, "--json", str(capture(tmp_path / "none.pcap", []))])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "none.pcap has no packets." in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["capture.pcap"], "Missing option '--policy'"),
        (["--policy", "/nowhere", "capture.pcap"], "cannot be read"),
        (["--policy", "{policy}"], "Missing argument 'CAPTURE'"),
        (["--policy", "{policy}", "--detection-timeout", "soon", "x"], "soon"),
    ],
    ids=["no policy", "unreadable policy", "no capture", "no duration"],
)
def test_misuse_ends_with_2(cli: CliRunner, policy: str, arguments: list[str], words: str) -> None:
    done = cli.invoke(classify, [a.replace("{policy}", policy) for a in arguments])
    assert done.exit_code == 2, done.output
    assert words in done.output


def test_a_policy_that_the_sidecar_cannot_use_is_refused(cli: CliRunner, tmp_path: Path, file: str) -> None:
    path = tmp_path / "marks.yaml"
    path.write_text("total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: [{mark: 3}]}]")
    done = cli.invoke(classify, ["--policy", str(path), file])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "classes[0].match[0].mark: The sidecar writes the mark itself" in done.stderr


def test_standard_input_is_a_capture_too(cli: CliRunner, policy: str, file: str) -> None:
    done = cli.invoke(classify, ["--policy", policy, "--json", "-"], input=Path(file).read_bytes())
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_beside_istio_its_names_of_services_are_read(cli: CliRunner, policy: str, tmp_path: Path) -> None:
    talk = Talk(dport=8443).open()
    talk.up(records(hello(sni(b"outbound_.80_._.b.example.org"))))
    file = str(capture(tmp_path / "mesh.pcap", talk.close().packets))
    for options, name in (([], "default"), (["--mesh", "linkerd"], "default"), (["--mesh", "istio"], "web")):
        done = cli.invoke(classify, ["--policy", policy, "--json", *options, file])
        assert json.loads(done.stdout)["class"] == name, options
    assert cli.invoke(classify, ["--policy", policy, "--mesh", "auto", file]).exit_code == 2
