"""The first datagrams of a real QUIC client: aioquic, which needs no network. Its server is the other side.

(On real networks, and Chromium: tests/kernel/test_classify_quic.py.)
"""

from __future__ import annotations

import datetime

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import encode_quic_retry
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from quic_datagrams import VERSIONS, feed

from datapath.protocols.client_hello import ClientHello
from datapath.protocols.quic_initial import QuicInitialReader
from datapath.protocols.quic_packets import VERSION_1, VERSION_2
from datapath.protocols.result import NeedMore

SERVER, CLIENT = ("192.0.2.1", 443), ("192.0.2.2", 40_000)
MANY = tuple(f"protocol-{number:03d}" for number in range(200))
both_versions = pytest.mark.parametrize("version", VERSIONS, ids=["version 1", "version 2"])


def client(version: int, *offers: str, supported: tuple[int, ...] = ()) -> QuicConnection:
    configuration = QuicConfiguration(
        is_client=True,
        server_name="API.example.com",
        alpn_protocols=list(offers),
        original_version=version,
        supported_versions=list(supported or (version,)),
        verify_mode=0,
    )
    connection = QuicConnection(configuration=configuration)
    connection.connect(SERVER, now=0.0)
    return connection


def server(original_id: bytes) -> QuicConnection:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    day = datetime.datetime(2026, 1, 1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + datetime.timedelta(365))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3", MANY[0]], certificate=certificate)
    configuration.private_key = key
    configuration.supported_versions = [VERSION_2, VERSION_1]
    return QuicConnection(configuration=configuration, original_destination_connection_id=original_id)


def sent(connection: QuicConnection, now: float = 0.0) -> list[bytes]:
    return [datagram for datagram, _ in connection.datagrams_to_send(now=now)]


@both_versions
def test_a_hello_in_one_datagram(version: int) -> None:
    datagrams = sent(client(version, "h3", "hq-interop"))
    assert feed(datagrams) == (ClientHello(sni="api.example.com", alpn=("h3", "hq-interop")), 1)


@both_versions
def test_a_hello_in_several_datagrams(version: int) -> None:
    datagrams = sent(client(version, *MANY))
    assert len(datagrams) >= 3
    for order in (datagrams, datagrams[::-1]):
        assert feed(order) == (ClientHello(sni="api.example.com", alpn=MANY), len(datagrams))
    for without in range(len(datagrams)):
        assert isinstance(feed(datagrams[:without] + datagrams[without + 1 :])[0], NeedMore)


@both_versions
def test_retry(version: int) -> None:
    """The client is made to begin anew before half of its hello had come through."""
    connection = client(version, *MANY)
    first = sent(connection)
    size = first[0][5]
    first_id = first[0][6 : 6 + size]
    source_id = first[0][7 + size : 7 + size + first[0][6 + size]]
    retry = encode_quic_retry(
        version=version,
        source_cid=b"retried!",
        destination_cid=source_id,
        original_destination_cid=first_id,
        retry_token=b"token",
    )
    connection.receive_datagram(retry, SERVER, now=0.1)
    again = sent(connection, 0.1)
    assert all(b"retried!" in datagram[:20] for datagram in again)
    assert isinstance(feed(again[1:])[0], NeedMore)
    assert feed([first[0], *again]) == (ClientHello(sni="api.example.com", alpn=MANY), 1 + len(again))


@pytest.mark.parametrize(
    "supported", [(VERSION_1,), (VERSION_1, VERSION_2)], ids=["version 1", "from version 1 to version 2"]
)
@pytest.mark.parametrize("offers", [("h3",), MANY], ids=["small", "large"])
def test_a_whole_handshake_is_opened_in_the_client_s_direction_only(
    supported: tuple[int, ...], offers: tuple[str, ...]
) -> None:
    ours = client(VERSION_1, *offers, supported=supported)
    up, down = sent(ours), list[bytes]()
    size = up[0][5]
    theirs = server(up[0][6 : 6 + size])
    new = up
    for turn in range(1, 6):
        for datagram in new:
            theirs.receive_datagram(datagram, CLIENT, now=turn / 10)
        answers = sent(theirs, turn / 10)
        down += answers
        for datagram in answers:
            ours.receive_datagram(datagram, SERVER, now=turn / 10)
        new = sent(ours, turn / 10)
        up += new
    assert ours._handshake_complete
    assert feed(up)[0] == ClientHello(sni="api.example.com", alpn=offers)
    reader = QuicInitialReader()
    assert isinstance(feed(down, reader)[0], NeedMore)
    assert not reader.opened
