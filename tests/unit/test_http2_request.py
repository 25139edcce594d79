"""HTTP/2 with prior knowledge: the authority of the first request, whatever stands before it. Streams are h2's own."""

from __future__ import annotations

import h2.config
import h2.connection
import hpack
import pytest
from first_bytes import count_calls, cut, detect, detect_every_way, http2, malformed, run, singly
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.protocols.http2 import MAX_FRAMES
from datapath.protocols.sniff import HTTP2_PREFACE

MALFORMED = malformed(Protocol.HTTP2)
LIMIT = Detection(Protocol.HTTP2, Reason.LIMIT)
FOUND = http2("api.example.com")
SETTINGS = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 20})
REQUEST = [(":method", "GET"), (":scheme", "http"), (":authority", "API.example.com:8080"), (":path", "/")]


def stream(*frames: Frame) -> bytes:
    return HTTP2_PREFACE + b"".join(frame.serialize() for frame in frames)


def unknown(kind: int, body: bytes) -> ExtensionFrame:
    """A frame of a type that hyperframe does not know."""
    frame = ExtensionFrame(kind, 0)
    frame.parse_body(memoryview(body))
    return frame


def headers(fields: list[tuple[str, str]], *flags: str, **attributes: int) -> HeadersFrame:
    frame = HeadersFrame(1, data=hpack.Encoder().encode(fields), flags=["END_HEADERS", "END_STREAM", *flags])
    for name, value in attributes.items():
        setattr(frame, name, value)
    return frame


def h2_client(fields: list[tuple[str, str]]) -> bytes:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.increment_flow_control_window(1 << 20)
    client.send_headers(1, fields, end_stream=False, priority_weight=16, priority_depends_on=0)
    client.send_data(1, b"body" * 100, end_stream=True)
    return client.data_to_send()


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        pytest.param(REQUEST, "api.example.com", id="authority"),
        pytest.param([*REQUEST, ("host", "API.example.com:8080")], "api.example.com", id="authority and the same host"),
        pytest.param(
            [*REQUEST[:2], (":authority", "bücher.example"), REQUEST[3]], "xn--bcher-kva.example", id="raw UTF-8"
        ),
        pytest.param([*REQUEST[:2], (":authority", "[2001:db8::1]:80"), REQUEST[3]], "2001:db8::1", id="IPv6 literal"),
        pytest.param([*REQUEST[:2], (":authority", "not a name"), REQUEST[3]], None, id="authority that is no name"),
        pytest.param([*REQUEST[:2], REQUEST[3], ("host", "b.example")], "b.example", id="host only"),
        pytest.param([(":method", "CONNECT"), (":authority", "a.example:443")], "a.example", id="CONNECT"),
        pytest.param([*REQUEST, ("cookie", "c" * 500)], "api.example.com", id="large header"),
        pytest.param(REQUEST[:2], None, id="neither authority nor path"),
        # What some server overlooks does not hide the name.
        pytest.param([*REQUEST, ("host", "b.example")], "api.example.com", id="host that differs"),
        pytest.param([*REQUEST, ("Upper", "x")], "api.example.com", id="capital letters"),
        pytest.param([*REQUEST, ("connection", "close")], "api.example.com", id="a field of HTTP/1"),
        pytest.param([*REQUEST, ("x", " y")], "api.example.com", id="a space before a value"),
        pytest.param([*REQUEST, ("x y", "z")], "api.example.com", id="a space in a name"),
        pytest.param([("x", "y"), *REQUEST], "api.example.com", id="pseudo fields late"),
    ],
)
def test_authority_of_the_first_request(fields: list[tuple[str, str]], host: str | None) -> None:
    assert detect_every_way(stream(SETTINGS, headers(fields))) == http2(host)


def test_stream_of_the_h2_client() -> None:
    assert detect_every_way(h2_client(REQUEST)) == FOUND


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([SETTINGS], id="SETTINGS"),
        pytest.param([SettingsFrame(0)], id="empty SETTINGS"),
        pytest.param([SETTINGS, WindowUpdateFrame(0, window_increment=1 << 24)], id="WINDOW_UPDATE"),
        pytest.param(
            [SETTINGS, PriorityFrame(3, stream_weight=200), PriorityFrame(5, depends_on=3)],
            id="PRIORITY, as old Firefox",
        ),
        pytest.param([SETTINGS, PingFrame(0, opaque_data=b"12345678")], id="PING"),
        pytest.param([SETTINGS, unknown(0x0B, b"grease")], id="unknown frame"),
        pytest.param([SETTINGS, unknown(0x10, b"\0\0\0\1u=1")], id="PRIORITY_UPDATE"),
        pytest.param([SETTINGS, SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: 0})], id="SETTINGS twice"),
    ],
)
def test_frames_before_the_request(before: list[Frame]) -> None:
    assert detect_every_way(stream(*before, headers(REQUEST))) == FOUND


@pytest.mark.parametrize(
    "request_frame",
    [
        pytest.param(headers(REQUEST, "PADDED", pad_length=200), id="padded"),
        pytest.param(headers(REQUEST, "PRIORITY", stream_weight=255, depends_on=0), id="with priority"),
        pytest.param(headers(REQUEST, "PADDED", "PRIORITY", pad_length=3, stream_weight=1, depends_on=0), id="both"),
    ],
)
def test_headers_in_every_dress(request_frame: HeadersFrame) -> None:
    assert detect_every_way(stream(SETTINGS, request_frame)) == FOUND


@pytest.mark.parametrize("size", [1, 7, 20], ids=lambda size: f"{size} bytes a frame")
def test_header_block_in_continuation_frames(size: int) -> None:
    block = hpack.Encoder().encode(REQUEST)
    pieces = cut(block, *range(size, len(block), size))
    frames: list[Frame] = [HeadersFrame(1, data=pieces[0], flags=["END_STREAM"])]
    frames += [ContinuationFrame(1, data=piece) for piece in pieces[1:]]
    frames[-1].flags.add("END_HEADERS")
    assert detect_every_way(stream(SETTINGS, *frames)) == FOUND


def test_broken_frames_behind_the_request_do_not_matter() -> None:
    good = stream(SETTINGS, headers(REQUEST))
    assert detect(good + b"\0\0\1\0\0\0\0\0\0x") == FOUND
    assert detect(good + b"\xff" * 100) == FOUND


SETTINGS_FRAME = SETTINGS.serialize()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(stream(SETTINGS, headers([*REQUEST, REQUEST[2]])), id="authority twice"),
        pytest.param(stream(SETTINGS, headers([*REQUEST[:2], ("host", "a"), ("host", "b")])), id="two hosts alone"),
        pytest.param(
            stream(SETTINGS, HeadersFrame(1, data=b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"])),
            id="HPACK rubbish",
        ),
        pytest.param(
            stream(SETTINGS, HeadersFrame(2, data=hpack.Encoder().encode(REQUEST), flags=["END_HEADERS"])),
            id="even stream",
        ),
        pytest.param(stream(SETTINGS, DataFrame(1, data=b"x")), id="DATA first"),
        pytest.param(stream(SETTINGS, ContinuationFrame(1, data=b"x")), id="CONTINUATION first"),
        pytest.param(stream(SETTINGS, HeadersFrame(1, data=b""), PingFrame(0)), id="PING within the header block"),
        pytest.param(stream(SETTINGS, RstStreamFrame(1)), id="RST_STREAM first"),
        pytest.param(stream(SETTINGS, WindowUpdateFrame(0, window_increment=(1 << 31) - 1)), id="window overflow"),
        pytest.param(stream(SettingsFrame(0, settings={SettingsFrame.MAX_FRAME_SIZE: 1})), id="impossible setting"),
        pytest.param(HTTP2_PREFACE + b"\0\0\5\4\0\0\0\0\0hello", id="SETTINGS of 5 bytes"),
        pytest.param(HTTP2_PREFACE + SETTINGS_FRAME + b"\0\0\2\1\x0c\0\0\0\1\xc8x", id="padding longer than the frame"),
        pytest.param(HTTP2_PREFACE + b"\0\x40\1\1\4\0\0\0\1", id="frame over 2^14, by its header"),
        pytest.param(HTTP2_PREFACE + b"GET / HTTP/1.1\r\n", id="HTTP/1 behind the preface"),
    ],
)
def test_what_is_not_http2_behind_the_preface_is_malformed(data: bytes) -> None:
    assert detect_every_way(data) == MALFORMED


def test_goodbye_before_a_request_finds_nothing() -> None:
    assert detect_every_way(stream(SETTINGS, GoAwayFrame(0))) is None


def test_client_that_waits_for_the_servers_settings_is_undecided() -> None:
    assert detect_every_way(stream(SETTINGS)) is None


def test_hpack_bomb_is_refused() -> None:
    encoder = hpack.Encoder()
    block = encoder.encode([*REQUEST, ("x", "y" * 3900)])
    block += encoder.encode([("x", "y" * 3900)]) * 5000
    assert detect(stream(SETTINGS, HeadersFrame(1, data=block, flags=["END_HEADERS"]))) == MALFORMED


def test_frames_beyond_the_limit_are_given_up_by_their_header() -> None:
    data = stream(SETTINGS, *[unknown(0x0B, b"x" * (1 << 14))] * 5, headers(REQUEST))
    dripped = run(cut(data, *range(500, len(data), 500)), 40_000)
    assert detect(data, 40_000) == dripped.detection == LIMIT
    # The header of the third of 16 KiB stands at 32,834.
    assert dripped.fed == 33_000
    assert detect(data) == LIMIT


def test_flood_of_tiny_frames_is_given_up() -> None:
    ping = PingFrame(0, opaque_data=b"12345678")
    enough = stream(SETTINGS, *[ping] * (MAX_FRAMES - 2), headers(REQUEST))
    assert detect(enough) == FOUND
    flood = stream(SETTINGS, *[ping] * 3000, headers(REQUEST))
    assert detect(flood) == LIMIT
    assert run(singly(flood)).fed == len(stream(SETTINGS, *[ping] * (MAX_FRAMES - 1))) + 9


def test_needed_leads_from_frame_to_frame() -> None:
    data = stream(SETTINGS, WindowUpdateFrame(0, window_increment=1), headers([*REQUEST, ("cookie", "c" * 9000)]))
    dripped = run(singly(data), heed_needed=True)
    # The preface byte by byte, since each may show that it is none; then headers and payloads of three frames.
    assert (dripped.detection, dripped.calls) == (FOUND, len(HTTP2_PREFACE) + 6)


def test_work_is_linear_in_the_bytes_of_a_dripping_request() -> None:
    def drip(size: int) -> None:
        data = stream(SETTINGS, unknown(0x0B, b"x" * size), headers(REQUEST))
        assert run(singly(data)).detection == FOUND

    small, large = count_calls(lambda: drip(3000)), count_calls(lambda: drip(12000))
    assert large < 4.2 * small
