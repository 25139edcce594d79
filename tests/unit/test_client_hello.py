"""ClientHello: structure, names, records cut anywhere; hellos of Python's ssl and of scapy. (Of curl: test_detect_clients.)"""

from __future__ import annotations

import ssl

import pytest
from first_bytes import (
    alpn,
    cut,
    detect,
    detect_every_way,
    extension,
    hello,
    malformed,
    records,
    run,
    server_names,
    singly,
    sni,
    tls,
    vector,
)

from datapath.protocols import client_hello
from datapath.protocols.client_hello import ClientHelloReader
from datapath.protocols.detect import MAX_BYTES, Detection, Protocol, Reason
from datapath.protocols.result import Rejected

MALFORMED = malformed(Protocol.TLS)
LIMIT = Detection(Protocol.TLS, Reason.LIMIT)
NAME = sni(b"api.example.com")
FOUND = tls("api.example.com")


def python_hello(
    server_name: str | None, *, offers: tuple[str, ...] = (), newest: ssl.TLSVersion | None = None
) -> bytes:
    """The first flight of Python's ssl module, that is, of OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if offers:
        context.set_alpn_protocols(list(offers))
    if newest is not None:
        context.maximum_version = newest
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls_object = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        tls_object.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("offers", [(), ("h2", "http/1.1")], ids=["no ALPN", "ALPN"])
@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (None, None),
        ("API.Example.com", "api.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.0.2.1", None),
    ],
    ids=["no name", "name", "IDN", "address"],
)
def test_hello_of_python_ssl(
    asked: str | None, name: str | None, offers: tuple[str, ...], newest: ssl.TLSVersion
) -> None:
    assert detect_every_way(python_hello(asked, offers=offers, newest=newest)) == tls(name, offers)


def test_hello_of_scapy() -> None:
    from scapy.layers.tls import extensions, handshake, record

    message = handshake.TLSClientHello(
        ciphers=[0x1301, 0xC02F],
        ext=[
            extensions.TLS_Ext_ServerName(servernames=[extensions.ServerName(servername=b"scapy.example")]),
            extensions.TLS_Ext_SupportedVersion_CH(versions=[0x0304, 0x0303]),
            extensions.TLS_Ext_ALPN(protocols=[extensions.ProtocolName(protocol=b"h2")]),
        ],
    )
    assert detect_every_way(bytes(record.TLS(msg=[message]))) == tls("scapy.example", ("h2",))


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (3, 1), (4, 4000), (5, 4000), (40, 7, 1, 4000), (4000,)], ids=str)
def test_message_cut_into_records_anywhere(sizes: tuple[int, ...]) -> None:
    stream = records(hello(NAME, alpn(b"h2")), sizes)
    assert detect_every_way(stream) == tls("api.example.com", ("h2",))


def test_segments_that_end_with_the_records() -> None:
    stream = records(hello(NAME), (33,))
    edges = range(38, len(stream), 38)
    assert run(cut(stream, *edges)).detection == FOUND


@pytest.mark.parametrize("version", [0x0300, 0x0301, 0x0302, 0x0303, 0x0304, 0x03FF], ids=hex)
@pytest.mark.parametrize("legacy", [0x0301, 0x0302, 0x0303, 0x0304], ids=hex)
def test_any_version_of_major_3_is_read(version: int, legacy: int) -> None:
    assert detect(records(hello(NAME, version=legacy), version=version)) == FOUND


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(hello(block=b"", version=0x0301), tls(), id="no extensions block"),
        pytest.param(hello(), tls(), id="empty extensions block"),
        pytest.param(hello(NAME, session=b""), FOUND, id="no session id"),
        pytest.param(
            hello(extension(0x0A0A), NAME, extension(0xFAFA, b"\0"), suites=b"\x2a\x2a\x13\x01"), FOUND, id="GREASE"
        ),
        pytest.param(hello(alpn(b"\x0a\x0a", b"h2")), tls(None, ("\n\n", "h2")), id="GREASE in ALPN"),
        pytest.param(hello(NAME, extension(0xFE0D, b"\0" * 200)), tls("api.example.com", ech=True), id="ECH"),
        pytest.param(hello(extension(0xFE0D)), tls(ech=True), id="ECH without a name"),
        pytest.param(
            hello(extension(51, b"\x11\xec" + vector(2, b"k" * 1216)), NAME), FOUND, id="post-quantum key share"
        ),
        pytest.param(
            hello(alpn(b"h2", b"http/1.1", b"\xff")), tls(None, ("h2", "http/1.1", "ÿ")), id="ALPN in order, as latin-1"
        ),
        pytest.param(
            hello(server_names((7, b"other"), (0, b"a.example"))), tls("a.example"), id="another type of name first"
        ),
        pytest.param(hello(server_names((7, b"other"))), tls(), id="no host_name among the names"),
        pytest.param(hello(NAME) + b"\x0b\0\0\0", FOUND, id="another message in the same record"),
        pytest.param(hello(NAME, version=0x1800), FOUND, id="a version that is not known"),
        pytest.param(hello(NAME, extension(0x0A0A), extension(0x0A0A)), FOUND, id="unknown extension twice"),
        pytest.param(hello(NAME, extension(51), extension(51)), FOUND, id="extension twice that names nothing"),
    ],
)
def test_what_a_hello_may_hold(message: bytes, expected: Detection) -> None:
    assert detect_every_way(records(message)) == expected


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"API.Example.COM", "api.example.com"),
        (b"api.example.com.", "api.example.com"),
        (b"outbound_.80_._.db.ns.svc", "outbound_.80_._.db.ns.svc"),
        (b"localhost", "localhost"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"", None),
        (b"192.0.2.1", "192.0.2.1"),
        (b"192.0.2.1.", "192.0.2.1"),
        (b"192.0.2.1:443", "192.0.2.1"),
        (b"2001:DB8:0::1", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8::1]:443", "2001:db8::1"),
        (b"2001:db8::1%eth0", "2001"),  # as nginx reads it
        (b"[api.example.com]", None),
        (b"api.example.com:443", "api.example.com"),
        (b"api.example.com.:443", "api.example.com"),
        (b"api.example.com:", "api.example.com"),
        (b"api.example.com:x:\xff", "api.example.com"),
        (b"api.example.com:/", None),
        (b"api.example.com:4 3", None),
        (b"api.example.com:443\0", None),
        (b":443", None),
        (b" api.example.com", None),
        (b"a..example", None),
        (b".", None),
        (b"-a.example", "-a.example"),
        (b"foo-.example.com", "foo-.example.com"),
        (b"a\0.example", None),
        ("bücher.example".encode(), None),
        (b"\xff\xfe", None),
        (b"*.example.com", None),
        (b"a" * 64 + b".example", None),
        (b"a." * 126 + b"a", "a." * 126 + "a"),
        (b"a." * 127 + b"a", None),
        (b"n" * 40_000, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_names_that_are_none_count_as_absent(raw: bytes, name: str | None) -> None:
    assert detect(records(hello(sni(raw), alpn(b"h2")))) == tls(name, ("h2",))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(hello(NAME, NAME), id="extension twice"),
        pytest.param(hello(server_names((0, b"a.example"), (0, b"b.example"))), id="two names of a type"),
        pytest.param(hello(server_names()), id="no names"),
        pytest.param(hello(extension(0)), id="empty server_name"),
        pytest.param(hello(extension(0, vector(2, b"\0\0\1a") + b"x")), id="bytes behind the names"),
        pytest.param(hello(extension(0, vector(2, b"\0\0\2a"))), id="name longer than its list"),
        pytest.param(hello(extension(16)), id="empty ALPN"),
        pytest.param(hello(alpn()), id="no offers"),
        pytest.param(hello(alpn(b"")), id="empty offer"),
        pytest.param(hello(extension(16, vector(2, b"\2h2") + b"x")), id="bytes behind the offers"),
        pytest.param(hello(block=vector(2, extension(10, b"x") + b"\0")), id="torn extension"),
        pytest.param(hello(block=b"\0\5" + extension(10)), id="extensions longer than the message"),
        pytest.param(hello(block=vector(2, extension(10)) + b"x"), id="bytes behind the extensions"),
        pytest.param(hello(block=b"\0"), id="half a length"),
        pytest.param(hello(NAME, session=b"s" * 33), id="long session id"),
        pytest.param(hello(NAME, suites=b""), id="no suites"),
        pytest.param(hello(NAME, suites=b"\x13\x01\x13"), id="half a suite"),
        pytest.param(hello(NAME, compression=b""), id="no compression methods"),
        pytest.param(b"\x01\0\0\0", id="empty message"),
        pytest.param(b"\x01\0\0\x02\x03\x03", id="message of a version only"),
        pytest.param(b"\x02" + hello(NAME)[1:], id="ServerHello"),
    ],
)
def test_broken_structure_is_malformed(message: bytes) -> None:
    assert detect_every_way(records(message)) == MALFORMED
    assert detect_every_way(records(message, (9, 50))) == MALFORMED


@pytest.mark.parametrize("number", [1, 32])
def test_empty_records_are_passed_over_as_openssl_does(number: int) -> None:
    empty, message = b"\x16\x03\x01\0\0" * number, hello(NAME)
    assert detect_every_way(empty + records(message)) == FOUND
    assert detect_every_way(records(message[:9]) + empty + records(message[9:])) == FOUND


def test_empty_records_without_end_are_given_up() -> None:
    stream = b"\x16\x03\x01\0\0" * (MAX_BYTES // 5 + 1)
    whole, pieces = detect(stream), run(cut(stream, *range(777, len(stream), 777)))
    assert whole == pieces.detection == LIMIT
    assert pieces.fed <= MAX_BYTES + 777


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"\x16\x03\x01\x40\x01", id="record over 2^14"),
        pytest.param(records(hello(NAME)[:50]) + records(b"\2\x28", kind=0x15), id="alert in between"),
        pytest.param(records(hello(NAME)[:50]) + records(b"\1", kind=0x14), id="ChangeCipherSpec in between"),
        pytest.param(records(hello(NAME)[:50]) + records(b"x", version=0x0201), id="later record of major version 2"),
    ],
)
def test_broken_records_are_malformed(stream: bytes) -> None:
    assert detect_every_way(stream) == MALFORMED


def large_hello(body_size: int) -> bytes:
    """A hello whose body has this size, by a padding extension (RFC 7685)."""
    bare = len(hello(NAME, extension(21))) - 4
    return hello(NAME, extension(21, b"\0" * (body_size - bare)))


def test_hello_of_64_kib() -> None:
    message = hello(extension(21, b"\0" * (65_535 - 4 - len(NAME))), NAME, session=b"", suites=b"\x13\x01")
    assert len(message) > 65_535
    stream = records(message)
    assert detect(stream) == FOUND
    assert run(cut(stream, *range(1448, len(stream), 1448))).detection == FOUND
    assert run(singly(stream), heed_needed=True).detection == FOUND


def test_hello_of_64_kib_in_records_of_350_bytes() -> None:
    stream = records(large_hello(65_535), (350,))
    assert len(stream) <= MAX_BYTES
    assert detect(stream) == FOUND


@pytest.mark.parametrize("size", [MAX_BYTES, 1 << 20, (1 << 24) - 1])
def test_hello_over_the_limit_is_given_up_by_its_length_alone(size: int) -> None:
    stream = records(b"\x01" + size.to_bytes(3, "big") + b"\0" * 20_000)
    dripped = run(singly(stream))
    assert (dripped.detection, dripped.fed) == (LIMIT, 9)
    assert detect(stream) == LIMIT


def test_records_too_small_for_the_limit_are_given_up() -> None:
    stream = records(large_hello(60_000), (1,))
    whole, pieces = detect(stream), run(cut(stream, *range(777, len(stream), 777)))
    assert whole == pieces.detection == LIMIT
    assert pieces.fed <= MAX_BYTES + 777


def test_the_limit_is_exact() -> None:
    stream = records(hello(NAME), (60,))
    assert detect_every_way(stream, len(stream)) == FOUND
    for limit in range(2, len(stream)):
        assert run([stream], limit).detection == run(singly(stream), limit).detection == LIMIT, limit


def test_a_dripping_hello_is_parsed_once_and_touched_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    real = client_hello.parse_client_hello
    monkeypatch.setattr(client_hello, "parse_client_hello", lambda body: parsed.append(len(body)) or real(body))
    stream = records(large_hello(65_000), (1000,))
    dripped = run(singly(stream), heed_needed=True)
    assert dripped.detection == FOUND
    assert parsed == [65_000]
    # One call for each record, and five for the opening, the first record's header and the message's.
    assert dripped.calls <= 66 + 5


def test_rejections_say_why() -> None:
    outcome = ClientHelloReader(MAX_BYTES).feed(records(hello(NAME, NAME)))
    assert outcome == Rejected(Reason.MALFORMED, "the extension 0 comes twice")
    outcome = ClientHelloReader(MAX_BYTES).feed(records(hello(block=b"\0\x09" + extension(10))))
    assert outcome == Rejected(Reason.MALFORMED, "the ClientHello ends 5 bytes too early")
