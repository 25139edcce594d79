"""QUIC datagrams for tests, encrypted by aioquic: packets, frames, and the ways to cut a ClientHello into them."""

from __future__ import annotations

from collections.abc import Iterable

from aioquic.quic.crypto import CryptoPair
from first_bytes import alpn, extension, hello, sni
from hypothesis import strategies as st

from datapath.protocols.client_hello import ClientHello
from datapath.protocols.quic_initial import MAX_HELLO, QuicInitialReader
from datapath.protocols.quic_packets import MIN_DATAGRAM, VERSION_1, VERSION_2, PacketType
from datapath.protocols.result import NeedMore, Rejected

VERSIONS = (VERSION_1, VERSION_2)
ID = bytes.fromhex("8394c8f03e515708")
HELLO = hello(sni(b"odd.example.com"), alpn(b"h3"), extension(51, b"k" * 1300))
PING, ACK = b"\x01", bytes.fromhex("02000000 00".replace(" ", ""))
_TAG = 16
_ORDER = (PacketType.INITIAL, PacketType.ZERO_RTT, PacketType.HANDSHAKE, PacketType.RETRY)


def variable(number: int) -> bytes:
    """RFC 9000 16, in four bytes."""
    return (number | 0x80000000).to_bytes(4, "big")


def crypto(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame."""
    return b"\x06" + variable(offset) + variable(len(data)) + data


def long_packet(
    frames: bytes,
    *,
    version: int = VERSION_1,
    kind: PacketType = PacketType.INITIAL,
    to: bytes = ID,
    keys_of: bytes | None = None,
    token: bytes = b"",
    number: int = 0,
    number_size: int = 2,
    keys_version: int | None = None,
    from_client: bool = True,
) -> bytes:
    """A protected packet addressed to the id ``to``, with the Initial keys that the id ``keys_of`` makes."""
    pair = CryptoPair()
    pair.setup_initial(cid=keys_of or to, is_client=from_client, version=keys_version or version)
    bits = (_ORDER.index(kind) + (version == VERSION_2)) % 4
    header = bytes([0xC0 | bits << 4 | number_size - 1]) + version.to_bytes(4, "big")
    header += bytes([len(to)]) + to + b"\x04from"
    if kind is PacketType.INITIAL:
        header += variable(len(token)) + token
    header += variable(number_size + len(frames) + _TAG) + number.to_bytes(number_size, "big")
    packet: bytes = pair.encrypt_packet(header, frames, number)
    return packet


def initial(frames: bytes, *, size: int = MIN_DATAGRAM, **options: object) -> bytes:
    """A datagram with one Initial, filled up by PADDING."""
    missing = size - len(long_packet(frames, **options))  # type: ignore[arg-type]
    return long_packet(frames + bytes(max(missing, 0)), **options)  # type: ignore[arg-type]


_FRAMES = st.one_of(
    st.sampled_from([crypto(0, HELLO[:800]), crypto(800, HELLO[800:]), PING, ACK, bytes(5)]),
    st.builds(crypto, st.integers(1, MAX_HELLO + 50), st.binary(max_size=60)),
    st.builds(crypto, st.integers(1, (1 << 30) - 1), st.binary(max_size=9)),
)
_PACKETS = st.builds(
    long_packet,
    # Four bytes more are enough for a sample.
    st.one_of(*[st.lists(_FRAMES, max_size=4).map(b"".join)] * 3, st.binary(max_size=60)).map(lambda f: f + bytes(4)),
    version=st.sampled_from(VERSIONS),
    kind=st.sampled_from([PacketType.INITIAL] * 4 + [PacketType.ZERO_RTT, PacketType.HANDSHAKE]),
    to=st.sampled_from([ID, b"", b"other id", b"retried!", b"the fourth", bytes(20)]),
    keys_of=st.sampled_from([None, None, None, ID]),
    token=st.binary(max_size=5),
    number_size=st.integers(1, 4),
    from_client=st.sampled_from([True] * 5 + [False]),
)


@st.composite
def odd_datagrams(draw: st.DrawFn) -> bytes:
    """Packets behind each other in a datagram that is large enough; or it is not, or was cut off, or has wrong bits."""
    made = bytearray(b"".join(draw(st.lists(_PACKETS, max_size=3))))
    damage = draw(st.sampled_from(["none"] * 5 + ["small", "cut", "wrong bits"]))
    made += draw(st.binary(max_size=40)) if damage == "small" else bytes(MIN_DATAGRAM)
    if damage == "cut":
        del made[draw(st.integers(0, len(made))) :]
    elif damage == "wrong bits":
        for at in draw(st.lists(st.integers(0, 60), min_size=1, max_size=2)):
            made[min(at, len(made) - 1)] ^= 1 << draw(st.integers(0, 7))
    return bytes(made)


def feed(
    datagrams: Iterable[bytes], reader: QuicInitialReader | None = None
) -> tuple[ClientHello | NeedMore | Rejected, int]:
    """The outcome of these datagrams, up to the first final one, and how many they were."""
    reader = reader or QuicInitialReader()
    outcome: ClientHello | NeedMore | Rejected = NeedMore()
    fed = 0
    for datagram in datagrams:
        fed += 1
        outcome = reader.feed(datagram)
        if not isinstance(outcome, NeedMore):
            break
    return outcome, fed
