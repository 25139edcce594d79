"""Certificates that are exchanged while the server runs: in files behind symbolic links, and what cannot be used."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization

from daemon.errors import CertificateError
from daemon.http_server import HttpServer
from injector.server.certificate_files import CertificateFiles
from injector.server.certificates import names_of
from injector.server.http import open_listeners, webhook_limits
from injector.server.tls import ServerTls, TlsVersion
from tests.injector_server import HOST, authority, identity, trusting


def issue(*names: str) -> tuple[bytes, bytes]:
    made = authority().issue_cert(HOST, *names, key_type=trustme.KeyType.ECDSA)
    return made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()


def mount(folder: Path, version: str, chain: bytes, key: bytes) -> None:
    """Put files there as the kubelet does: a folder for each version, and a link that is swapped (AtomicWriter)."""
    (folder / version).mkdir()
    (folder / version / "tls.crt").write_bytes(chain)
    (folder / version / "tls.key").write_bytes(key)
    (folder / "..new").symlink_to(version)
    os.replace(folder / "..new", folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


async def seen_names(port: int, context: ssl.SSLContext | None = None) -> set[str]:
    """The names in the certificate that a new connection is shown."""
    stream = trio.SSLStream(await trio.open_tcp_stream(HOST, port), context or trusting(), server_hostname=HOST)
    try:
        await stream.do_handshake()
        names = stream.getpeercert()["subjectAltName"]
        return {str(value) for kind, value in names if kind == "DNS"}
    finally:
        await trio.aclose_forcefully(stream)


async def serve_with(tls: ServerTls, nursery: trio.Nursery) -> int:
    listeners = await open_listeners(HOST, 0, "port")
    nursery.start_soon(HttpServer({}, webhook_limits(9.0), tls=lambda: tls.context).run, listeners)
    port = listeners[0].socket.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.mark.trio
async def test_swapped_files_are_served_to_new_connections(tmp_path: Path) -> None:
    tls, loads = ServerTls(), list[bool]()
    files = CertificateFiles([tmp_path / "tls.crt", tmp_path / "tls.key"], tls.use, "", loads.append)
    mount(tmp_path, "..1", *issue("one.svc"))
    assert files.load_changed()
    assert not files.load_changed()
    async with trio.open_nursery() as nursery:
        port = await serve_with(tls, nursery)
        assert await seen_names(port) == {"one.svc"}
        mount(tmp_path, "..2", *issue("two.svc"))
        assert files.load_changed()
        assert await seen_names(port) == {"two.svc"}
        mount(tmp_path, "..3", issue("three.svc")[0], issue("three.svc")[1])
        with pytest.raises(CertificateError, match="do not belong together"):
            files.load_changed()
        assert not files.load_changed()  # told once
        assert await seen_names(port) == {"two.svc"}
        mount(tmp_path, "..4", *issue("four.svc"))
        assert files.load_changed()
        assert await seen_names(port) == {"four.svc"}
        nursery.cancel_scope.cancel()
    assert loads == [True, True, False, True]


@pytest.mark.trio
async def test_files_are_followed(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:  # noqa: ARG001
    tls = ServerTls()
    tell, loads = trio.open_memory_channel[bool](1)
    files = CertificateFiles([tmp_path / "tls.crt", tmp_path / "tls.key"], tls.use, "", tell.send_nowait)
    mount(tmp_path, "..1", *issue("one.svc"))
    files.load_changed()
    assert await loads.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.follow)
        mount(tmp_path, "..2", issue("two.svc")[0], b"")
        assert not await loads.receive()
        assert tls.served is not None
        assert "one.svc" in names_of(tls.served)
        mount(tmp_path, "..3", *issue("three.svc"))
        assert await loads.receive()
        assert "three.svc" in names_of(tls.served)
        nursery.cancel_scope.cancel()


def test_files_that_are_not_there_are_named_with_the_remedy(tmp_path: Path) -> None:
    files = CertificateFiles([tmp_path / "tls.crt", tmp_path / "tls.key"], ServerTls().use, "Name others.")
    with pytest.raises(CertificateError, match=r"tls\.crt cannot be read: No such file or directory\. Name others\."):
        files.load_changed()
    assert not files.load_changed()
    mount(tmp_path, "..1", *identity())
    assert files.load_changed()


@pytest.mark.parametrize(
    ("oldest", "spoken", "works"),
    [
        (TlsVersion.TLS_1_3, ssl.TLSVersion.TLSv1_3, True),
        (TlsVersion.TLS_1_3, ssl.TLSVersion.TLSv1_2, False),
        (TlsVersion.TLS_1_2, ssl.TLSVersion.TLSv1_2, True),
        (TlsVersion.TLS_1_2, ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.trio
async def test_no_version_older_than_the_oldest_is_spoken(
    oldest: TlsVersion, spoken: ssl.TLSVersion, works: bool
) -> None:
    tls = ServerTls(oldest)
    tls.use(*identity())
    client = trusting()
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = spoken
    async with trio.open_nursery() as nursery:
        port = await serve_with(tls, nursery)
        if works:
            assert await seen_names(port, client) == {"localhost"}
        else:
            with pytest.raises(trio.BrokenResourceError):
                await seen_names(port, client)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_of_tls_1_2_only_forward_secret_ciphers_are_spoken() -> None:
    tls = ServerTls(TlsVersion.TLS_1_2)
    tls.use(*identity())
    client = trusting()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("AES256-SHA256:ECDHE-ECDSA-AES256-SHA384")
    async with trio.open_nursery() as nursery:
        port = await serve_with(tls, nursery)
        with pytest.raises(trio.BrokenResourceError):
            await seen_names(port, client)
        nursery.cancel_scope.cancel()


def _encrypted(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )


@pytest.mark.parametrize(
    ("chain", "key", "says"),
    [
        pytest.param(b"", identity()[1], "certificate cannot be read", id="no certificate"),
        pytest.param(identity()[0], b"rubbish", "cannot be used", id="no key"),
        pytest.param(identity()[0], _encrypted(identity()[1]), "without a password", id="key with a password"),
        pytest.param(identity()[0], issue()[1], "do not belong together", id="another's key"),
    ],
)
def test_what_cannot_be_used_leaves_the_old_one(chain: bytes, key: bytes, says: str) -> None:
    tls = ServerTls()
    tls.use(*identity())
    before = tls.context, tls.served
    with pytest.raises(CertificateError, match=says):
        tls.use(chain, key)
    assert (tls.context, tls.served) == before
    assert not tls.use(*identity())  # nothing new


def test_keys_leave_no_file_behind() -> None:
    before = os.listdir("/proc/self/fd")
    ServerTls().use(*identity())
    assert len(os.listdir("/proc/self/fd")) == len(before)
