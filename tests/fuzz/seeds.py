"""The inputs that fuzzing begins with: small, one of each kind. ``python -m tests.fuzz.seeds`` writes them anew.

Beside them the corpus has what fuzzing has learnt, and whatever has once been found.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final

from tests.fuzz.targets import CORPUS

ROOT: Final = Path(__file__).parents[2]
_REQUEST: Final = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
_POST: Final = b"POST / HTTP/1.1\r\nHost: b.example\r\n%b\r\n%b"
_FIELDS: Final = b":method GET\n:scheme http\n:authority a.example\n:path /"


def _vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def _extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + _vector(2, data)


def _extensions() -> bytes:
    name = _vector(2, b"\0" + _vector(2, b"a.example.com"))
    alpn = _vector(2, _vector(1, b"h2") + _vector(1, b"http/1.1"))
    usual = bytes.fromhex("000a00040002001d000d000400020804")
    return _extension(0, name) + _extension(16, alpn) + usual + _extension(0xFE0D, b"\0" * 8)


def _hello() -> bytes:
    fixed = b"\x03\x03" + b"R" * 32 + b"\0" + b"\0\x06\x13\x01\xc0\x2f\0\x2f" + b"\x01\0"
    return fixed + _vector(2, _extensions())


def _client_hello() -> dict[str, bytes]:
    message = b"\x01" + _vector(3, _hello())
    return {
        "stream": b"\0\x16\x03\x01" + _vector(2, message),
        "two-records": b"\0\x16\x03\x01" + _vector(2, message[:40]) + b"\x16\x03\x03" + _vector(2, message[40:]),
        "empty-record": b"\0\x16\x03\x01\0\0\x16\x03\x01" + _vector(2, message),
        "body": b"\x01" + _hello(),
        "body-in-small-records": b"\x1d" + _hello(),
        "extensions": b"\x02" + _extensions(),
        "name": b"\x03www.example.com",
        "name-with-dot": b"\x03www.example.com.",
        "name-with-nul": b"\x03www.exam\0ple.com",
        "address": b"\x03192.0.2.1",
        "a-label": b"\x03xn--bcher-kva.example",
    }


def _http1() -> dict[str, bytes]:
    return {
        "plain": _REQUEST,
        "two": _REQUEST + b"\r\n" + _REQUEST,
        "absolute": b"GET http://u:p@a.example:80/x HTTP/1.1\r\nHost: b.example\r\n\r\n" + _REQUEST,
        "connect": b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n\x16\x03\x01",
        "upgrade": b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x05hello",
        "length": _POST % (b"Content-Length: 5\r\n", b"hello") + _REQUEST,
        "chunks": _POST % (b"Transfer-Encoding: chunked\r\n", b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n") + _REQUEST,
        "both": _POST % (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n") + _REQUEST,
        "folded": b"GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n z\r\n\r\n",
        "line-feeds": b"GET / HTTP/1.1\nHost: a.example\n\n",
        "two-hosts": b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "old": b"GET / HTTP/1.0\r\n\r\n",
        "answers": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 204 No\r\n\r\nHTTP/1.1 101 Yes\r\n\r\n",
        "answer-in-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    }


def _http2() -> dict[str, bytes]:
    return {
        "fields": b"\x02" + _FIELDS,
        "two-requests": b"\x02" + _FIELDS + b"\n\n" + _FIELDS.replace(b"a.example", b"b.example"),
        "host-field": b"\x02" + _FIELDS.replace(b":authority", b"host"),
        "both-names": b"\x02" + _FIELDS + b"\nhost a.example",
        "trailers": b"\x02" + _FIELDS + b"\n\nx y",
        "frames": b"\x01\0\0\x04\x08\0\0\0\0\0\0\0\x40\0\0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x84\x41\x09a.example",
        "continuation": b"\x01\0\0\x03\x01\x01\0\0\0\x01\x82\x86\x84\0\0\x0b\x09\x04\0\0\0\x01\x41\x09a.example",
        "preface": b"\0PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    }


def _quic_initial() -> dict[str, bytes]:
    message = b"\x01" + _vector(3, _hello())
    half = len(message) // 2

    def crypto(at: int, data: bytes) -> bytes:
        return b"\x06" + (at | 0x80000000).to_bytes(4, "big") + (len(data) | 0x80000000).to_bytes(4, "big") + data

    header = b"\xc3\0\0\0\x01\x08\x83\x94\xc8\xf0\x3e\x51\x57\x08\0\0\x44\x9e"
    return {
        "datagram": b"\0" + _vector(2, header + bytes(60)),
        "other-version": b"\0" + _vector(2, b"\xc3\x0a\x0a\x0a\x0a\x08\x83\x94\xc8\xf0\x3e\x51\x57\x08\0"),
        "frames": b"\x01" + _vector(2, b"\0" + crypto(0, message)),
        "two-datagrams": b"\x01"
        + _vector(2, b"\0" + crypto(half, message[half:]))
        + _vector(2, b"\0\x01" + crypto(0, message[:half])),
        "ack-and-close": b"\x01" + _vector(2, b"\0\x02\0\0\0\0\x1c\0\0\0"),
        "hello": b"\x02" + _hello(),
    }


def _policy() -> dict[str, bytes]:
    return {
        "example": (ROOT / "examples/policy.yaml").read_bytes(),
        "small": b"total: 10Mbit\nclasses: [{name: a, rate: 1Mbit, match: {port: 80}}]\n",
        "cake": b"{total: 20Mbit, shaper: cake}",
        "rehearsal": b"total: 50Mbit\nrehearsal: {delay: 40ms, jitter: 5ms, loss: 0.5%}\n",
        "ingress": b"total: 20Mbit\ningress: {total: 90Mbit}\nclasses:\n"
        b"- {name: m, rate: 4Mbit, ingress: {rate: 10Mbit}, match: {protocol: udp, port: ['1-2']}}\n",
        "inbound": b"total: 1Gbit\nrequests: follow\nclasses:\n"
        b"- {name: s, rate: 4Mbit, ceil: 5Mbit, queue: fair, match: [{sni: '*.a.example', direction: both, alpn: h2}]}\n",
        "marks": b"total: 1Gbit\nshaper: prio\nclasses: [{name: a, ceil: 1Mbit, match: {mark: 0x10/0xff, cidr: '::/0'}}]\n",
        "aliases": b"total: 1Gbit\nclasses: [{name: a, rate: &r 1Mbit, match: {application: ssh}}]\ndefault: {rate: *r}\n",
        "json": b'{"total": "10M", "classes": [{"name": "a", "rate": "1M", "match": {"host": "b\\u00fccher.example"}}]}',
    }


def _annotations() -> dict[str, bytes]:
    classes = '[{name: api, rate: 1Mbit, match: {sni: \\"*.example.com\\"}}]'
    return {
        "total": b'podlane.io/egress-bandwidth="10M"\n',
        "classes": f'podlane.io/classes="{classes}"\npodlane.io/egress-bandwidth="10M"\n'.encode(),
        "policy": b'podlane.io/policy="lanes"\npodlane.io/ingress-bandwidth="5M"\n',
        "more": b'podlane.io/cpu-limit="1"\npodlane.io/cpu-request="20m"\npodlane.io/datapath="step-aside"\n'
        b'podlane.io/default-class="{rate: 1Mbit}"\npodlane.io/detection-timeout="250ms"\npodlane.io/egress-bandwidth="10M"\n'
        b'podlane.io/exclude-outbound-cidrs="10.0.0.0/8"\npodlane.io/exclude-outbound-ports="25,100-200"\n'
        b'podlane.io/log-level="debug"\npodlane.io/memory-limit="64Mi"\npodlane.io/on-failure="closed"\n',
        "kubernetes": b'kubernetes.io/egress-bandwidth="10M"\nkubernetes.io/ingress-bandwidth="1G"\nx="\\u00e9\\n"\n',
    }


def _review() -> dict[str, bytes]:
    def review(annotations: dict[str, str], operation: str = "CREATE", **spec: object) -> bytes:
        pod = {
            "metadata": {"generateName": "web-", "labels": {"podlane.io/inject": "true"}, "annotations": annotations},
            "spec": {"containers": [{"name": "web", "image": "nginx"}], **spec},
        }
        request = {"uid": "1", "kind": {"kind": "Pod"}, "namespace": "shop", "operation": operation, "object": pod}
        document = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        return json.dumps(document, separators=(",", ":")).encode()

    limits = {"podlane.io/egress-bandwidth": "10M"}
    own = {"name": "podlane", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}
    return {
        "plain": review(limits),
        "shared": review({"podlane.io/policy": "lanes"}),
        "classes": review({**limits, "podlane.io/classes": "[{name: a, rate: 1Mbit, match: {sni: a.example}}]"}),
        "host-network": review(limits, hostNetwork=True),
        "init": review(limits, initContainers=[{"name": "first"}], volumes=[{"name": "data", "emptyDir": {}}]),
        "own": review(limits, initContainers=[own]),
        "update": review(limits, operation="UPDATE"),
        "wrong": review({"podlane.io/egress-bandwidth": "10Mbps"}),
    }


def _pcap() -> dict[str, bytes]:
    def ipv4(protocol: int, payload: bytes, source: int = 2, place: int = 0) -> bytes:
        ends = bytes([10, 0, 0, source, 10, 0, 0, 3 - source])
        return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, place, 64, protocol, 0) + ends + payload

    def tcp(flags: int, sequence: int, data: bytes = b"", ports: tuple[int, int] = (40000, 80)) -> bytes:
        return struct.pack(">HHIIBBHHH", *ports, sequence, 1, 0x50, flags, 99, 0, 0) + data

    udp = struct.pack(">HHHH", 4000, 443, 8 + 20, 0) + b"\xc0\0\0\0\x01" + bytes(15)
    ipv6 = b"\x60\0\0\0" + _vector(2, b"")[:2] + b"\x06\x40" + bytes(15) + b"\x01" + bytes(15) + b"\x02"
    frames = [
        ipv4(6, tcp(2, 9)), ipv4(6, tcp(0x12, 0, ports=(80, 40000)), source=1), ipv4(6, tcp(0x10, 10, _REQUEST)),
        ipv4(6, tcp(0x11, 10 + len(_REQUEST))), ipv4(17, udp), ipv4(1, b"\x08\0\0\0"), ipv6 + tcp(2, 1),
    ]  # fmt: skip
    pieces = [ipv4(17, udp[:16], place=0x2000), ipv4(17, udp[16:], place=2)]
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    packets = b"".join(struct.pack("<IIII", n, 0, len(f), len(f)) + f for n, f in enumerate(frames))
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    interface = struct.pack("<IIHHII", 1, 20, 101, 0, 0, 20)
    padded = frames[2] + bytes(-len(frames[2]) % 4)
    block = struct.pack("<IIIIIII", 6, 32 + len(padded), 0, 0, 1, len(frames[2]), len(frames[2])) + padded
    block += struct.pack("<I", 32 + len(padded))
    ethernet = bytes(12) + b"\x08\0"
    return {
        "file": b"\0" + header + packets,
        "next-generation": b"\0" + section + interface + block,
        "frames": b"\x03" + b"".join(_vector(2, frame) for frame in frames),
        "ethernet": b"\x01" + b"".join(_vector(2, ethernet + frame) for frame in frames),
        "fragments": b"\x03" + b"".join(_vector(2, frame) for frame in pieces),
    }


_MAKERS: Final = {
    "client_hello": _client_hello, "http1": _http1, "http2": _http2, "quic_initial": _quic_initial,
    "policy": _policy, "annotations": _annotations, "review": _review, "pcap": _pcap,
}  # fmt: skip


def main() -> None:
    """Write them, and leave what else is there."""
    for name, make in _MAKERS.items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed, data in make().items():
            (folder / f"seed-{seed}").write_bytes(data)


if __name__ == "__main__":
    main()
