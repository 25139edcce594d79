"""Who may ask the webhooks where client-ca says so: certificates of clients, over TLS with the real process."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from daemon.errors import CertificateError
from daemon.http import HttpRequest, HttpResponse, RequestError
from daemon.http_server import HttpServer
from daemon.kubernetes.http_client import HttpAnswer, HttpClient, HttpError
from daemon.turns import LoopTurns
from injector.server.certificate_files import CertificateFiles
from injector.server.clients import Clients
from injector.server.http import open_listeners, webhook_limits
from injector.server.tls import ServerTls, TlsVersion
from tests.injector_server import HOST, body_of, document_of, identity, patch_of, review, trusting
from tests.webhook.test_injector_process import PATIENCE, Running, started

BODY = body_of(review({"podlane.io/egress-bandwidth": "10M"}))
JSON = {"content-type": "application/json"}


class Authority:
    """Signs clients' certificates. (trustme's are for servers, too, and have no expiry of the past.)"""

    def __init__(self, name: str, parent: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = parent or self
        self.certificate = (
            x509.CertificateBuilder().subject_name(self.name).issuer_name(issuer.name).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(NOW - timedelta(days=2))
            .not_valid_after(NOW + timedelta(days=2)).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(issuer.key, hashes.SHA256())
        )  # fmt: skip

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def client(
        self,
        folder: Path,
        name: str,
        *,
        days: float = 1,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> ssl.SSLContext:
        """A client's context with a certificate for this name, as openssl makes it: without alternative names."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = (
            x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=2)).not_valid_after(NOW + timedelta(days=days))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False).sign(self.key, hashes.SHA256())
        )  # fmt: skip
        pair = folder / f"{os.urandom(8).hex()}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pair.write_bytes(made.public_bytes(Encoding.PEM) + private)
        context = trusting("http/1.1")
        context.load_cert_chain(pair)
        return context


NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def ours() -> Authority:
    return Authority("podlane-clients")


@pytest.fixture
def folder(tmp_path: Path, ours: Authority) -> Path:
    chain, key = identity()
    (tmp_path / "tls.crt").write_bytes(chain)
    (tmp_path / "tls.key").write_bytes(key)
    (tmp_path / "ca.crt").write_bytes(ours.pem)
    return tmp_path


OPTIONS = (
    "--certificate",
    "tls.crt",
    "--key",
    "tls.key",
    "--client-ca",
    "ca.crt",
    "--client-names",
    "kube-apiserver,spare",
)


@pytest.fixture
def injector(folder: Path) -> Iterator[Running]:
    read, write = os.pipe()
    with started(folder, (*OPTIONS, "--tls-version", "1.2", "--ready-fd", str(write)), write) as process:
        os.close(write)
        with os.fdopen(read) as ready:
            line = ready.readline()
        assert line, process.communicate(timeout=PATIENCE)[1]
        yield Running(process, *map(int, line.split()))


def client_of(port: int, context: ssl.SSLContext) -> HttpClient:
    return HttpClient(HOST, port, lambda: context, HOST)


def ask(injector: Running, context: ssl.SSLContext, path: str = "/mutate", method: str = "POST") -> HttpAnswer:
    client, body = client_of(injector.port, context), BODY if method == "POST" else b""
    return trio.run(client.request, method, path, JSON if body else {}, body)


# --- who is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)
def test_the_webhooks_answer_api_servers_and_nobody_else(
    injector: Running, folder: Path, ours: Authority, version: ssl.TLSVersion
) -> None:
    server = ours.client(folder, "kube-apiserver")
    server.maximum_version = version
    assert patch_of(ask(injector, server))
    for path in ("/mutate", "/mutate/enforced", "/validate", "/validate/enforced"):
        refused = ask(injector, trusting("http/1.1"), path)
        status = document_of(refused)
        assert (refused.status, status["kind"], status["reason"]) == (403, "Status", "Forbidden")
        assert "has shown none" in status["message"]
        assert "--admission-control-config-file" in status["message"]
        refused = ask(injector, ours.client(folder, "system:node:a"), path)
        assert refused.status == 403
        assert "has the name system:node:a" in document_of(refused)["message"]
    metrics = injector.get("/metrics").body.decode()
    assert 'podlane_injector_admissions_total{result="forbidden",webhook="mutate"} 4.0' in metrics


def test_kubelets_probe_without_a_certificate(injector: Running) -> None:
    for path in ("/healthz", "/readyz"):
        assert ask(injector, trusting("http/1.1"), path, "GET").status == 200


def test_what_the_authority_did_not_sign_or_not_for_clients_ends_the_handshake(
    injector: Running, folder: Path, ours: Authority
) -> None:
    wrong = [
        Authority("podlane-clients").client(folder, "kube-apiserver"),
        ours.client(folder, "kube-apiserver", days=-1),
        ours.client(folder, "kube-apiserver", usage=ExtendedKeyUsageOID.SERVER_AUTH),
    ]
    for context in wrong:
        with pytest.raises(HttpError):
            ask(injector, context)
    assert ask(injector, ours.client(folder, "spare")).status == 200


def test_an_authority_is_exchanged_while_it_runs(injector: Running, folder: Path, ours: Authority) -> None:
    """As the kubelet swaps files; who has a connection by the old authority keeps it for one answer."""
    old, other = ours.client(folder, "kube-apiserver"), Authority("others")

    async def exchange() -> None:
        client = client_of(injector.port, old)
        assert (await client.request("POST", "/mutate", JSON, BODY)).status == 200
        (folder / "new").write_bytes(other.pem)
        os.replace(folder / "new", folder / "ca.crt")
        await trio.to_thread.run_sync(injector.logged, "a new certificate is used")
        new = client_of(injector.port, other.client(folder, "kube-apiserver"))
        assert (await new.request("POST", "/mutate", JSON, BODY)).status == 200
        assert (await client.request("POST", "/mutate", JSON, BODY)).status == 200, "no review is lost"
        with pytest.raises(HttpError):
            await client.request("POST", "/mutate", JSON, BODY)

    trio.run(exchange)


def test_an_authority_that_is_damaged_later_changes_nothing(injector: Running, folder: Path, ours: Authority) -> None:
    (folder / "ca.crt").write_bytes(b"rubbish")
    injector.logged("the certificate is not exchanged; the old one stays")
    assert ask(injector, trusting("http/1.1")).status == 403
    assert ask(injector, ours.client(folder, "spare")).status == 200


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "Name with --client-ca the file"), (b"", "There is no certificate (PEM)"), (b"rubbish", "ca.crt: There is no certificate (PEM)")],
)  # fmt: skip
def test_without_its_authority_it_does_not_start(folder: Path, content: bytes | None, says: str) -> None:
    (folder / "ca.crt").unlink()
    if content is not None:
        (folder / "ca.crt").write_bytes(content)
    with started(folder, OPTIONS) as process:
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert says in said


def test_names_without_an_authority_are_refused(folder: Path) -> None:
    with started(folder, (*OPTIONS[:4], "--client-names", "kube-apiserver")) as process:
        assert "--client-names: nobody is asked for a certificate" in process.communicate(timeout=PATIENCE)[1]


# --- the parts -------------------------------------------------------------------------------------------------------


def test_a_certificate_that_expires_during_its_connection_ends_it() -> None:
    certificate = {"subject": ((("commonName", "kube-apiserver"),),), "notAfter": "Jan  1 00:00:00 2026 GMT"}
    end = ssl.cert_time_to_seconds(certificate["notAfter"])  # type: ignore[arg-type]
    Clients().refuse_others(certificate, end)
    with pytest.raises(RequestError, match="has expired"):
        Clients().refuse_others(certificate, end + 1)


def test_any_common_name_counts_and_nothing_else_is_one() -> None:
    subject = ((("organizationName", "kube-apiserver"),), (("commonName", "a"),), (("commonName", "b"),))
    certificate = {"subject": subject, "notAfter": "Jan  1 00:00:00 2126 GMT", "subjectAltName": (("DNS", "kube-apiserver"),)}  # fmt: skip
    Clients(("b",)).refuse_others(certificate)
    with pytest.raises(RequestError, match="has the name a, b"):
        Clients(("kube-apiserver",)).refuse_others(certificate)
    with pytest.raises(RequestError, match="has the name of nobody"):
        Clients(("a",)).refuse_others({**certificate, "subject": ()})


def test_an_intermediate_authority_will_do(folder: Path) -> None:
    middle = Authority("middle", parent=Authority("root"))
    tls = ServerTls(TlsVersion.TLS_1_3)
    tls.trust(middle.pem)
    tls.use(*identity())
    seen: list[object] = []

    async def serve() -> None:
        async def handler(request: object) -> object:
            seen.append(request.client)  # type: ignore[attr-defined]
            raise RequestError(418, "seen")

        server = HttpServer({"/": handler}, webhook_limits(9.0), tls=lambda: tls.context)  # type: ignore[dict-item]
        listeners = await open_listeners(HOST, 0, "port")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run, listeners)
            port = listeners[0].socket.getsockname()[1]
            for context in (middle.client(folder, "a"), trusting("http/1.1")):
                assert (await client_of(port, context).request("GET", "/")).status == 418
            nursery.cancel_scope.cancel()

    trio.run(serve)
    assert [bool(certificate) for certificate in seen] == [True, False]


def test_a_client_with_a_certificate_has_turns_of_its_own_and_comes_before_those_who_are_new(
    folder: Path, ours: Authority
) -> None:
    tls, seen = ServerTls(TlsVersion.TLS_1_3), list[tuple[str, bool]]()
    tls.trust(ours.pem)
    tls.use(*identity())

    async def serve() -> None:
        async def handler(request: HttpRequest) -> HttpResponse:
            seen.append((request.sharer, turns.order.client(request.sharer).proven))
            return HttpResponse.text(404, "no")

        turns = LoopTurns()
        server = HttpServer({"/": handler}, webhook_limits(9.0), tls=lambda: tls.context, turns=turns)
        listeners = await open_listeners(HOST, 0, "port")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run, listeners)
            port = listeners[0].socket.getsockname()[1]
            for context in (ours.client(folder, "a"), ours.client(folder, "b"), trusting("http/1.1")):
                await client_of(port, context).request("GET", "/")
            nursery.cancel_scope.cancel()

    trio.run(serve)
    (first, second, neither) = seen
    assert len({first[0], second[0], neither[0]}) == 3
    assert (first[1], second[1], neither) == (True, True, (HOST, False))


def test_the_same_content_keeps_the_context_and_with_it_all_connections(folder: Path, ours: Authority) -> None:
    tls = ServerTls()
    files = CertificateFiles([folder / "ca.crt"], tls.trust, "")
    assert files.load_changed()
    tls.use(*identity())
    context = tls.context
    assert context.verify_mode is ssl.CERT_OPTIONAL
    assert not tls.use(*identity())
    (folder / "ca.crt").write_bytes(b"# with a comment\n" + ours.pem)
    assert not files.load_changed()
    assert tls.context is context
    with pytest.raises(CertificateError):
        tls.trust(b"")
    assert tls.context is context
