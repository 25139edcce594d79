"""The harnesses by name, with what the fuzzer is told of each. Nothing is imported here before it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.shares import Harness

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"


@dataclass(frozen=True, slots=True)
class Target:
    """A harness ``module.name``; ``code`` is what it is to explore, ``most`` the longest input in bytes."""

    name: str
    module: str
    code: tuple[str, ...]
    most: int
    words: tuple[str, ...] = ()
    """What a mutation may put in whole; ``\\xNN`` stands for a byte."""

    is_json: bool = False
    share: int = 32
    """One input in so many is checked in full (:mod:`tests.fuzz.shares`)."""

    def load(self) -> Harness:
        """The harness itself."""
        harness: Harness = getattr(importlib.import_module(self.module), self.name)
        return harness

    @property
    def corpus(self) -> list[Path]:
        """Its inputs that are kept."""
        return sorted((CORPUS / self.name).iterdir())


_YAML = (
    "total", "classes", "name", "rate", "ceil", "priority", "match", "sni", "host", "alpn", "port", "cidr", "source", "protocol",
    "direction", "inbound", "both", "mark", "ingress", "requests", "follow", "shaper", "prio", "tbf", "cake", "queue", "fq_codel",
    "rehearsal", "delay", "jitter", "loss", "duplicate", "corrupt", "burst", "default", "application", "https", "Mbit", "kbit",
    "10M", "5ms", "1%", "\\x0a  - ", ": ", "[", "]", "{", "}", ", ", "*.a", "0x10/0xff", "::/0", "10.0.0.0/8", "1-9", "<<", "&a ", "*a", "!!",
)  # fmt: skip
_KEYS = tuple(
    f"podlane.io/{name}"
    for name in (
        "egress-bandwidth", "ingress-bandwidth", "classes", "default-class", "policy", "exclude-outbound-ports", "datapath",
        "exclude-outbound-cidrs", "exclude-inbound-ports", "exclude-inbound-cidrs", "on-failure", "detection-timeout", "log-level",
        "cpu-request", "cpu-limit", "memory-request", "memory-limit", "status", "inject",
    )
)  # fmt: skip
_POD = (
    '"metadata"', '"annotations"', '"labels"', '"spec"', '"containers"', '"initContainers"', '"volumes"', '"name"', '"podlane"',
    '"podlane-prepare"', '"securityContext"', '"capabilities"', '"add"', '"NET_ADMIN"', '"hostNetwork"', '"restartPolicy"', '"Always"',
    '"operation"', '"CREATE"', '"UPDATE"', '"oldObject"', '"object"', "true", "false", "null", "[]", "{}", '"lanes"', '"ports"', '"env"',
)  # fmt: skip
_LINES = (
    "GET ", "HTTP/1.1 200 ", "HTTP/1.1 101 ", "CONNECT ", "POST ", " HTTP/1.1\\x0d\\x0a", " HTTP/1.0\\x0d\\x0a", "Host: ", "Content-Length: ", "Transfer-Encoding: ",
    "chunked", "Upgrade: ", "\\x0d\\x0a\\x0d\\x0a", "\\x0d\\x0a ", "http://", "a.example", "@", "5\\x0d\\x0a", "0\\x0d\\x0a\\x0d\\x0a",
)  # fmt: skip

TARGETS: Final = {
    target.name: target
    for target in (
        Target(
            "client_hello", "tests.fuzz.streams", ("datapath.protocols", "traffic_policy.names"), 4096,
            ("\\x16\\x03\\x01", "\\x00\\x00", "\\x00\\x10", "\\xfe\\x0d", "a.example.com", "xn--", "\\x00\\x05"),
        ),
        Target("http1", "tests.fuzz.streams", ("datapath.protocols", "traffic_policy.names"), 2048, _LINES),
        Target(
            "http2", "tests.fuzz.streams", ("datapath.protocols", "traffic_policy.names"), 2048,
            (":method GET", ":path /", ":scheme http", ":authority a.example", "host ", "te trailers", "\\x0a\\x0a", "content-length ",
             "\\x00\\x00\\x00\\x09\\x04", "\\x01\\x05", "\\x01\\x0c", "\\x82\\x86\\x84\\x41"),
        ),
        Target(
            "quic_initial", "tests.fuzz.datagrams", ("datapath.protocols",), 4096,
            ("\\xc0\\x00\\x00\\x00\\x01", "\\x6b\\x33\\x43\\xcf", "\\x06\\x00", "\\x1c", "\\x02", "\\x03"),
        ),
        Target("policy", "tests.fuzz.documents", ("traffic_policy", "datapath.routing"), 2048, _YAML),
        Target("annotations", "tests.fuzz.documents", ("traffic_policy",), 2048, (*_KEYS, *_YAML, '=\\\\"', '\\\\"\\x0a')),
        Target("review", "tests.fuzz.documents", ("injector", "traffic_policy.pod"), 4096, (*_POD, *(f'"{key}"' for key in _KEYS)), is_json=True),
        Target("pcap", "tests.fuzz.captures", ("podlane.classify", "datapath.protocols"), 4096, ()),
    )
}  # fmt: skip
