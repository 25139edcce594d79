"""ClientHellos in QUIC Initials: published packets, hellos cut and mixed in every way, Retry, what is no Initial, bounds.

The packets are encrypted by aioquic, another implementation than the one that opens them here.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import pytest
from aioquic.quic.crypto import CryptoPair
from first_bytes import alpn, count_calls, extension, hello, sni
from hypothesis import given, settings
from hypothesis import strategies as st
from quic_datagrams import ACK, ID, PING, VERSIONS, crypto, feed, initial, long_packet, odd_datagrams, variable

from datapath.protocols.client_hello import ClientHello
from datapath.protocols.quic_crypto import KEYS_SIZE
from datapath.protocols.quic_initial import MAX_BYTES, MAX_HELLO, MAX_STREAMS, QuicInitialReader
from datapath.protocols.quic_packets import DRAFTS, MIN_DATAGRAM, VERSION_1, VERSION_2, PacketType
from datapath.protocols.result import NeedMore, Reason, Rejected

PUBLISHED_FRAMES = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000"
    "000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e00050005010000"
    "0000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d00"
    "10000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ff"
    "ff0801100104800075300901100f088394c8f03e51570806048000ffff"
) + bytes(917)
"""RFC 9001 A.2 and RFC 9369 A.2: the same CRYPTO frame and PADDING."""
PUBLISHED = {
    VERSION_1: (
        "c300000001088394c8f03e5157080000449e00000002",
        "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
        "e221af44860018ab0856972e194cd934",
    ),
    VERSION_2: (
        "d36b3343cf088394c8f03e5157080000449e00000002",
        "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
        "a18b2faa745b6fe189cf772a9f84cbfc",
    ),
}
"""The header before protection; how the protected packet begins; and its tag, which stands for every byte of it."""
PUBLISHED_SERVER = bytes.fromhex(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede"
    "4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06ed"
    "bb7aaf2f58891850abbdca3d20398c276456cbc42158407dd074ee"
)
"""RFC 9001 A.3."""
PUBLISHED_RETRY = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
"""RFC 9001 A.4."""

MESSAGE = hello(
    sni(b"API.example.com"), alpn(b"h3", b"h3-29"), extension(0xFE0D, b"e" * 90), extension(51, b"k" * 1300)
)
FOUND = ClientHello(sni="api.example.com", alpn=("h3", "h3-29"), ech=True)
HALVES = (crypto(0, MESSAGE[:800]), crypto(800, MESSAGE[800:]))
SMALL = crypto(0, hello(sni(b"small.example.com")))
SMALL_FOUND = ClientHello(sni="small.example.com")
MAX_HELD = MAX_STREAMS * (KEYS_SIZE + 2 * MAX_HELLO)
"""Bytes of memory for one client: its keys, and twice the size of the largest hello for each of them."""
MALFORMED, LIMIT, NOT_THIS = Reason.MALFORMED, Reason.LIMIT, Reason.NOT_THIS
both_versions = pytest.mark.parametrize("version", VERSIONS, ids=["version 1", "version 2"])


def published(version: int) -> bytes:
    header, head, tag = (bytes.fromhex(text) for text in PUBLISHED[version])
    pair = CryptoPair()
    pair.setup_initial(cid=ID, is_client=True, version=version)
    packet: bytes = pair.encrypt_packet(header, PUBLISHED_FRAMES, 2)
    assert packet.startswith(head)
    assert packet.endswith(tag)
    assert len(packet) == MIN_DATAGRAM
    return packet


def reason(datagrams: list[bytes]) -> Reason:
    outcome, fed = feed(datagrams)
    assert isinstance(outcome, Rejected)
    assert fed == len(datagrams)
    return outcome.reason


@both_versions
def test_the_published_packet(version: int) -> None:
    assert feed([published(version)]) == (ClientHello(sni="example.com", alpn=("alpn",)), 1)


@pytest.mark.parametrize("draft", DRAFTS, ids=lambda version: f"draft {version & 0xFF}")
def test_drafts(draft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another salt made the keys up to draft-ietf-quic-tls-32; all else is as in version 1."""
    if draft & 0xFF < 33:
        salt = bytes.fromhex("afbfec289993d24c9e9786f19c6111e04390a899")
        monkeypatch.setattr("aioquic.quic.crypto.INITIAL_SALT_VERSION_1", salt)
    assert feed([initial(SMALL, version=draft)]) == (SMALL_FOUND, 1)


@both_versions
def test_no_prefix_of_a_datagram_says_anything(version: int) -> None:
    """Nor does a whole packet, in a datagram of less than 1,200 bytes."""
    packet = published(version)
    for size in range(len(packet)):
        assert reason([packet[:size]]) is NOT_THIS
    reader = QuicInitialReader()
    assert reader.feed(long_packet(SMALL, version=version)) == NeedMore()
    assert not reader.opened


@both_versions
@pytest.mark.parametrize("number_size", [1, 2, 3, 4])
def test_packet_numbers_of_every_size(version: int, number_size: int) -> None:
    datagram = initial(SMALL, version=version, number=0x2A, number_size=number_size)
    assert feed([datagram]) == (SMALL_FOUND, 1)


@both_versions
def test_a_hello_over_several_datagrams_in_every_order(version: int) -> None:
    pieces = [crypto(at, MESSAGE[at : at + 400]) for at in range(0, len(MESSAGE), 400)]
    datagrams = [initial(piece, version=version, number=i) for i, piece in enumerate(pieces)]
    assert len(datagrams) == 4
    for order in itertools.permutations(datagrams):
        assert feed(order) == (FOUND, 4)


def test_what_is_missing_is_told_once_the_message_s_length_is_known() -> None:
    reader = QuicInitialReader()
    assert reader.feed(initial(HALVES[0])) == NeedMore(len(MESSAGE) - 800)
    assert reader.opened
    assert reader.feed(initial(HALVES[1], number=1)) == FOUND


def test_a_hello_of_single_bytes_among_other_frames() -> None:
    rng = random.Random(7)
    message = hello(sni(b"x.example.com"))
    pieces = [crypto(at, message[at : at + 1]) for at in range(len(message))]
    ack_ecn = b"\x03" + variable(9) + variable(0) + variable(1) + variable(2) + variable(0) * 2 + variable(1) * 3
    others = [PING, ACK, bytes(3), crypto(5, b""), ack_ecn]
    pieces += [rng.choice(others) for _ in pieces]
    rng.shuffle(pieces)
    assert feed([initial(b"".join(pieces))]) == (ClientHello(sni="x.example.com"), 1)


@pytest.mark.parametrize("at", [0, 850], ids=["in order", "behind a gap"])
def test_bytes_that_come_twice_must_be_the_same(at: int) -> None:
    """Else one copy is a decoy: whoever can lose a packet on the way could show us another name than the server."""
    first, again = MESSAGE[at : at + 200], MESSAGE[at + 90 : at + 300]
    outcome, fed = feed([initial(crypto(at, first)), initial(crypto(at + 90, again), number=1)])
    assert (type(outcome), fed) == (NeedMore, 2)
    changed = again[:100] + bytes([again[100] ^ 1]) + again[101:]
    assert reason([initial(crypto(at, first)), initial(crypto(at + 90, changed), number=1)]) is MALFORMED


@settings(max_examples=40)
@given(
    name=st.from_regex(r"[a-z0-9]{1,20}\.example\.com", fullmatch=True),
    offers=st.lists(st.sampled_from([b"h3", b"hq-interop", b"doq"]), unique=True),
    key_share=st.integers(0, 3000),
    version=st.sampled_from(VERSIONS),
    data=st.data(),
)
def test_any_hello_cut_anywhere_in_any_order(
    name: str, offers: list[bytes], key_share: int, version: int, data: st.DataObject
) -> None:
    message = hello(extension(51, bytes(key_share)), sni(name.encode()), *([alpn(*offers)] if offers else []))
    edges = sorted({0, len(message), *data.draw(st.lists(st.integers(0, len(message)), max_size=8))})
    overlaps = data.draw(st.lists(st.integers(0, 40), min_size=len(edges), max_size=len(edges)))
    pieces = [
        crypto(max(a - more, 0), message[max(a - more, 0) : b])
        for (a, b), more in zip(itertools.pairwise(edges), overlaps, strict=False)
    ]
    order = data.draw(st.permutations(range(len(pieces))))
    datagrams = [initial(pieces[i], version=version, number=i) for i in order]
    again = data.draw(st.lists(st.sampled_from(datagrams[:-1]), max_size=3)) if len(datagrams) > 1 else []
    outcome, fed = feed([*datagrams[:-1], *again, datagrams[-1]])
    assert outcome == ClientHello(sni=name, alpn=tuple(offer.decode() for offer in offers))
    assert fed == len(datagrams) + len(again) or any(overlaps)


# Retry, versions, other packets --------------------------------------------------------------------------------------


@both_versions
def test_after_a_retry_the_keys_come_from_the_new_id(version: int) -> None:
    first = initial(HALVES[0], version=version)
    after = [
        initial(half, version=version, to=b"retried!", token=b"t" * 60, number=1 + i) for i, half in enumerate(HALVES)
    ]
    assert feed([first, *after]) == (FOUND, 3)
    late = initial(HALVES[0], version=version, number=7)
    assert feed([first, after[0], late, after[1]]) == (FOUND, 4)


def test_halves_from_before_and_after_a_retry_make_no_whole() -> None:
    other = hello(sni(b"other.example.com"), extension(51, b"k" * 1370))
    halves = crypto(0, MESSAGE[:800]), crypto(800, other[800:])
    assert isinstance(feed([initial(halves[0]), initial(halves[1], to=b"retried!")])[0], NeedMore)


def test_the_server_s_id_takes_the_place_of_the_first_one_but_the_keys_stay() -> None:
    second = initial(HALVES[1], to=b"by the server", keys_of=ID, number=1)
    assert feed([initial(HALVES[0]), second]) == (FOUND, 2)


def test_a_client_that_must_change_its_version_is_found_with_the_new_one() -> None:
    unknown = b"\xc0\x1a\x2a\x3a\x4a" + initial(SMALL)[5:]
    assert feed([unknown, initial(SMALL, version=VERSION_2, to=b"other id")]) == (SMALL_FOUND, 2)
    assert reason([unknown[: MIN_DATAGRAM - 1]]) is NOT_THIS


@both_versions
def test_0rtt_beside_and_before_an_initial(version: int) -> None:
    early = long_packet(bytes(300), version=version, kind=PacketType.ZERO_RTT, keys_of=b"other keys")
    assert feed([long_packet(SMALL + bytes(700), version=version) + early]) == (SMALL_FOUND, 1)
    assert feed([early, initial(SMALL, version=version)]) == (SMALL_FOUND, 2)


@both_versions
def test_handshake_packets_and_short_ones_behind_an_initial(version: int) -> None:
    handshake = long_packet(bytes(300), version=version, kind=PacketType.HANDSHAKE)
    short = b"\x43" + bytes(200)
    datagrams = [
        initial(HALVES[0], version=version),
        handshake + short,
        short,
        handshake + initial(HALVES[1], version=version, number=1) + short,
    ]
    assert feed(datagrams) == (FOUND, 4)


def test_two_initials_in_one_datagram() -> None:
    assert feed([long_packet(HALVES[1], number=1) + long_packet(HALVES[0])]) == (FOUND, 1)


def test_several_datagrams_captured_as_one() -> None:
    assert feed([initial(HALVES[0], size=1252) + initial(HALVES[1], size=1252, number=1)]) == (FOUND, 1)


def test_a_packet_for_another_id_in_the_same_datagram_is_passed_over() -> None:
    decoy = initial(crypto(0, hello(sni(b"decoy.example.com"))), to=b"other id")
    assert feed([long_packet(HALVES[0]) + decoy, initial(HALVES[1], number=1)]) == (FOUND, 2)


def test_a_small_datagram_is_passed_over_as_by_servers() -> None:
    decoy = initial(crypto(0, hello(sni(b"decoy.example.com"))), size=MIN_DATAGRAM - 1)
    assert len(decoy) == MIN_DATAGRAM - 1
    assert feed([decoy, initial(SMALL)]) == (SMALL_FOUND, 2)


@pytest.mark.parametrize("keys", [{"keys_version": VERSION_2}, {"keys_of": b"other id"}], ids=["version", "id"])
def test_a_packet_with_other_keys_is_passed_over(keys: dict[str, object]) -> None:
    reader = QuicInitialReader()
    assert feed([initial(SMALL, **keys)], reader) == (NeedMore(), 1)
    assert not reader.opened
    assert feed([initial(SMALL)], reader) == (SMALL_FOUND, 1)


def test_a_server_s_initials_are_not_opened() -> None:
    reader = QuicInitialReader()
    server_hello = crypto(0, b"\x02" + bytes(80))
    for datagram in (
        PUBLISHED_SERVER + bytes(MIN_DATAGRAM),
        initial(server_hello, to=b"client id", keys_of=ID, from_client=False),
        initial(server_hello, from_client=False),
    ):
        assert reader.feed(datagram) == NeedMore()
    assert not reader.opened


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc0", id="one byte"),
        pytest.param(b"\x40" + bytes(1300), id="a short header"),
        pytest.param(b"\xc0" + bytes(1300), id="Version Negotiation"),
        pytest.param(PUBLISHED_RETRY + bytes(1300), id="Retry"),
        pytest.param(PUBLISHED_RETRY[:15] + b"\x20" + bytes(1300), id="Retry, its token like a packet with a length"),
        pytest.param(b"\xc0\0\0\0\1\x15" + bytes(1300), id="a destination id of 21 bytes"),
        pytest.param(b"\xc0\0\0\0\1\x08" + bytes(8) + b"\x15" + bytes(1300), id="a source id of 21 bytes"),
        pytest.param(b"\xc0\0\0\0\1\x08" + bytes(8) + b"\0\0\x13" + bytes(1300), id="too short for a sample"),
        pytest.param(b"\xc0\0\0\0\1\x08" + bytes(8) + b"\0\0\x7f\xff" + bytes(1300), id="longer than the datagram"),
        pytest.param(b"\xc0\0\0\0\1\x08" + bytes(8) + b"\0" + b"\xff" * 1300, id="a token of 2^62 bytes"),
    ],
)
def test_what_is_no_client_s_first_datagram(datagram: bytes) -> None:
    assert reason([datagram]) is NOT_THIS


# what no server accepts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"\x08" + bytes(20), id="a STREAM frame"),
        pytest.param(b"\x1d" + bytes(20), id="an application's CONNECTION_CLOSE"),
        pytest.param(b"\x06\x00", id="CRYPTO without a length"),
        pytest.param(b"\x06\x00\x7f\xff", id="CRYPTO longer than its packet"),
        pytest.param(b"\x02\x00\x00\xff" + b"\xff" * 7, id="ACK with 2^62 ranges"),
        pytest.param(crypto(0, b"\x02"), id="a ServerHello"),
        pytest.param(crypto(0, b"\x01\x00\x00\x00"), id="an empty ClientHello"),
        pytest.param(crypto(0, b"\x01\x00\x00\x03\x03\x03\x00"), id="a broken ClientHello"),
    ],
)
def test_malformed_contents(frames: bytes) -> None:
    datagram = long_packet(bytes(MIN_DATAGRAM - 60 - len(frames)) + frames)
    assert len(datagram) >= MIN_DATAGRAM - 30
    assert reason([datagram + bytes(30)]) is MALFORMED


def test_a_client_that_gives_up_has_said_nothing() -> None:
    close = b"\x1c" + variable(7) + variable(6) + variable(4) + b"why?"
    assert isinstance(feed([initial(close)])[0], NeedMore)


@given(st.binary(max_size=1400))
def test_garbage_never_raises(data: bytes) -> None:
    reader = QuicInitialReader()
    for head in (b"", b"\xc0\0\0\0\1", b"\xd0\x6b\x33\x43\xcf"):
        reader.feed(head + data)


@settings(max_examples=60)
@given(st.integers(0, MIN_DATAGRAM * 8 - 1))
def test_a_datagram_with_a_flipped_bit_says_nothing(bit: int) -> None:
    damaged = bytearray(initial(SMALL))
    damaged[bit // 8] ^= 1 << bit % 8
    reader = QuicInitialReader()
    assert not isinstance(reader.feed(bytes(damaged)), ClientHello)
    assert not reader.opened


@given(st.binary(max_size=200))
def test_garbage_in_a_packet_never_raises(frames: bytes) -> None:
    feed([long_packet(bytes(MIN_DATAGRAM) + frames)])


# bounds --------------------------------------------------------------------------------------------------------------


def test_a_hello_above_the_limit_is_given_up_when_its_length_is_known() -> None:
    size = (MAX_HELLO - 4).to_bytes(3, "big")
    too_large = (MAX_HELLO - 3).to_bytes(3, "big")
    assert isinstance(feed([initial(crypto(0, b"\x01" + size))])[0], NeedMore)
    assert reason([initial(crypto(0, b"\x01" + too_large))]) is LIMIT


def test_the_largest_hello_is_read_even_when_all_of_it_comes_twice() -> None:
    message = hello(sni(b"large.example.com"), extension(21, b"p" * 16_200), extension(51, bytes(20)))
    message = hello(
        sni(b"large.example.com"), extension(21, b"p" * (16_200 + MAX_HELLO - len(message))), extension(51, bytes(20))
    )
    assert len(message) == MAX_HELLO
    pieces = [crypto(at, message[at : at + 1100]) for at in range(0, len(message), 1100)]
    datagrams = [initial(piece, number=i) for i, piece in enumerate(pieces)]
    found = ClientHello(sni="large.example.com")
    assert feed(datagrams[:-1] * 2 + datagrams) == (found, 3 * len(datagrams) - 2)


def test_no_more_datagrams_are_looked_at_than_the_limit_allows() -> None:
    small = long_packet(PING * 10)
    assert reason([small] * (MAX_BYTES // MIN_DATAGRAM + 1)) is LIMIT
    assert isinstance(feed([small] * (MAX_BYTES // MIN_DATAGRAM))[0], NeedMore)


def test_memory_is_bounded() -> None:
    reader = QuicInitialReader()
    for i in range(MAX_STREAMS + 4):
        reader.feed(initial(crypto(MAX_HELLO - 1, b"x" * 500), to=b"id no. %d" % i))
    assert reader.held == MAX_HELD
    far = QuicInitialReader()
    assert isinstance(far.feed(initial(crypto(1 << 29, b"x" * 500))), NeedMore)
    assert far.held == KEYS_SIZE


def test_the_memory_of_keys_is_what_held_says() -> None:
    """Most of it is OpenSSL's, so only the process can tell."""
    program = (
        "from pathlib import Path\nfrom datapath.protocols.quic_crypto import KEYS_SIZE, InitialKeys\n"
        "def pages(): return int(Path('/proc/self/statm').read_text().split()[1])\n"
        "InitialKeys(1, b'first'); before = pages()\n"
        "keys = [InitialKeys(1, i.to_bytes(8, 'big')) for i in range(4000)]\n"
        "size = (pages() - before) * 4096 / 4000\n"
        "assert KEYS_SIZE / 4 < size < KEYS_SIZE * 1.5, size\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@settings(max_examples=100)
@given(st.lists(odd_datagrams(), max_size=12))
def test_whatever_comes_nothing_raises_and_memory_is_bounded(sent: list[bytes]) -> None:
    reader = QuicInitialReader()
    for datagram in sent:
        outcome = reader.feed(datagram)
        assert reader.held <= MAX_HELD
        assert reader.opened == bool(reader.held)
        if not isinstance(outcome, NeedMore):
            break


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"".join(crypto(at, b"x") for at in range(6000, 0, -2)), id="bytes with holes"),
        pytest.param(PING * 60_000, id="PING"),
        pytest.param((ACK + bytes(1)) * 10_000, id="ACK"),
    ],
)
def test_work_is_bounded_by_the_bytes(frames: bytes) -> None:
    datagram = long_packet(frames)
    assert count_calls(lambda: QuicInitialReader().feed(datagram)) < 6 * len(frames) + 500


# the dependency ------------------------------------------------------------------------------------------------------


def test_cryptography_is_imported_for_the_first_initial_only() -> None:
    program = (
        "import sys; from datapath.protocols.quic_initial import QuicInitialReader\n"
        "QuicInitialReader().feed(bytes(1200))\n"
        "assert not [name for name in sys.modules if name.startswith('cryptography')]\n"
        f"QuicInitialReader().feed(bytes.fromhex('{initial(SMALL).hex()}'))\n"
        "assert 'cryptography' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_without_cryptography_an_initial_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography.hazmat.primitives.ciphers")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        QuicInitialReader().feed(initial(SMALL))
