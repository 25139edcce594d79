"""Who gets a certificate, and for which name; and the roots that sign it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fleet_bench import Agent, Bench, new_request, running_bench

from control_plane.certificates.authority import LIFETIME, Authority, new_root, read_root, utc
from control_plane.certificates.identity import agent_of
from control_plane.certificates.root_files import LoadedAuthority, RootFiles, RootFolder
from control_plane.domain.commands import RevokeAgent
from control_plane.gateway.rpc import GrpcStatus, RpcError
from daemon.errors import CertificateError
from fleet_api.agent_pb2 import Credentials, EnrolRequest

NOW = utc(1_800_000_000)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield bench


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def refused(bench: Bench, *arguments: object, **more: object) -> RpcError:
    with pytest.raises(RpcError) as error:
        bench.enrol(*arguments, **more)  # type: ignore[arg-type]
    return error.value


def test_a_join_token_gets_one_certificate_with_the_name_that_we_say(bench: Bench) -> None:
    token, key = bench.join_token(), new_key()
    answer = bench.unary(
        EnrolRequest(join_token=f"{token}.{'0' * 64}", node="n1", csr=new_request(key)).SerializeToString()
    )
    assert isinstance(answer, bytes)
    credentials = Credentials.FromString(answer)
    certificate = x509.load_pem_x509_certificate(credentials.certificate_chain.encode())
    root = x509.load_pem_x509_certificate(credentials.roots.encode())
    certificate.verify_directly_issued_by(root)
    assert certificate.public_key() == key.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://podlane/tenant/default/cluster/east/node/n1"
    ], "the request's own name is ignored"
    assert certificate.not_valid_after_utc == utc(bench.clock[0]) + timedelta(hours=24)
    assert credentials.renew_at == bench.clock[0] + 12 * 3600
    with bench.plane.reading("default") as tenant:
        agent = tenant.clusters["east"].agents["n1"]
    assert agent.serial == f"{certificate.serial_number:x}" == agent_of(certificate, "podlane").enrolment
    other = refused(bench, token, "n2")
    assert (other.status, "Issue another" in str(other)) == (GrpcStatus.PERMISSION_DENIED, True)


def test_who_did_not_get_the_answer_gets_it_by_asking_again(bench: Bench) -> None:
    token, key = bench.join_token(), new_key()
    bench.enrol(token, "n1", key)
    again = Agent(bench, bench.enrol(token, "n1", key)).hello()
    bench.until("it is let in", lambda: bench.state().value != "away")
    assert again.call.ended is None
    for wrong in (refused(bench, token, "n1", new_key()), refused(bench, token, "n2", key)):
        assert wrong.status == GrpcStatus.PERMISSION_DENIED
    bench.clock[0] += 3600
    assert "was used" in str(refused(bench, token, "n1", key))
    token = bench.join_token(node="n1")
    bench.enrol(token, "n1", key)
    bench.do(RevokeAgent("east", "n1"))
    assert "was used" in str(refused(bench, token, "n1", key)), "it was revoked since"


def test_a_join_token_cannot_take_the_place_of_a_node(bench: Bench) -> None:
    bench.enrol(bench.join_token(), "n1")
    token = bench.join_token()
    assert "podlane join-token east --node n1" in str(refused(bench, token, "n1"))
    bench.enrol(token, "n2")
    bound = bench.join_token(node="n1")
    assert "is for the node n1, not for n3" in str(refused(bench, bound, "n3"))
    bench.enrol(bound, "n1")


def test_an_expired_or_foreign_join_token_is_refused(bench: Bench) -> None:
    token = bench.join_token(expires_in=60)
    assert "not valid" in str(refused(bench, token, "n1", cluster="west"))
    assert "not valid" in str(refused(bench, token[:-1] + ("a" if token[-1] != "a" else "b"), "n1"))
    assert "not valid" in str(refused(bench, token.replace("default", "platform"), "n1"))
    assert "no join token" in str(refused(bench, "secret", "n1"))
    bench.clock[0] += 60
    assert "has expired" in str(refused(bench, token, "n1"))
    for node in ("", "N1", "n1/../n2", "n" * 300):
        assert refused(bench, bench.join_token(), node).status == GrpcStatus.INVALID_ARGUMENT


def test_requests_that_prove_nothing_are_refused(bench: Bench) -> None:
    key = new_key()
    good = bytearray(new_request(key))
    good[-1] ^= 1
    rsa_key = rsa.generate_private_key(65537, 2048)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    of_rsa = builder.sign(rsa_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    for csr, words in (
        (bytes(good), "not signed by its own key"),
        (b"", "no PKCS #10"),
        (of_rsa, "P-256"),
        (b"x" * 20_000, "at most"),
    ):
        answer = bench.unary(EnrolRequest(join_token=bench.join_token(), node="n1", csr=csr).SerializeToString())
        assert isinstance(answer, RpcError)
        assert (answer.status, words in str(answer)) == (GrpcStatus.INVALID_ARGUMENT, True), str(answer)
    for request in (b"\xff\xff", EnrolRequest(node="n1", csr=new_request(key)).SerializeToString()):
        assert isinstance(bench.unary(request), RpcError)
    assert isinstance(bench.unary(b"", "/podlane.agent.v1.Agents/Leave"), RpcError)
    with bench.plane.reading("default") as tenant:
        assert tenant.clusters["east"].agents == {}


def test_the_port_has_a_certificate_for_its_names(tmp_path: Path) -> None:
    authority = RootFolder(tmp_path, "podlane").load(NOW)
    issued, key = authority.issue_server(["fleet.example.com", "127.0.0.1"], NOW)
    leaf, root = x509.load_pem_x509_certificates(issued.chain)
    leaf.verify_directly_issued_by(root)
    assert root == authority.signer(NOW).certificate
    (tmp_path / "chain").write_bytes(issued.chain)
    (tmp_path / "key").write_bytes(key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "chain", tmp_path / "key")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "fleet.example.com" in names.get_values_for_type(x509.DNSName)


def test_a_root_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "ca"
    first = RootFolder(folder, "podlane").load(NOW)
    again = RootFolder(folder, "podlane").load(NOW + LIFETIME)
    assert [root.digest for root in again.roots] == [root.digest for root in first.roots]
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*.pem")} == {"1.pem": 0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "1.pem").write_bytes(b"damaged")
    with pytest.raises(CertificateError, match=r"1\.pem cannot be read"):
        RootFolder(folder, "podlane").load(NOW)


def test_a_root_is_rotated_with_an_overlap(tmp_path: Path) -> None:
    folder = RootFolder(tmp_path, "podlane")
    old = folder.load(NOW).roots[0]
    loaded = LoadedAuthority(folder, NOW)
    begun = NOW + timedelta(days=300)
    new = folder.rotate(begun)
    with pytest.raises(CertificateError, match="under way"):
        folder.rotate(begun + timedelta(hours=47))
    for hours, signer, trusted in (
        (0, old, [old, new]),
        (23, old, [old, new]),
        (24, new, [old, new]),
        (48, new, [new]),
    ):
        authority = folder.load(begun + timedelta(hours=hours))
        at = begun + timedelta(hours=hours)
        assert (authority.signer(at).digest, [root.digest for root in authority.trusted(at)]) == (
            signer.digest,
            [root.digest for root in trusted],
        ), hours
    assert loaded.refresh(begun), "another is trusted"
    assert not loaded.refresh(begun + timedelta(hours=1))
    assert loaded.refresh(begun + timedelta(hours=24)), "another signs"
    folder.rotate(begun + timedelta(hours=48))
    assert sorted(path.name for path in tmp_path.glob("*.pem")) == ["2.pem", "3.pem"]


def test_roots_of_others_are_as_their_files_say(tmp_path: Path) -> None:
    old, new = new_root(NOW), new_root(NOW + timedelta(days=300))
    certificates, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    files = RootFiles(certificates, key, "podlane")
    with pytest.raises(CertificateError, match="Name files"):
        files.load(NOW)
    certificates.write_bytes(b"# ours\n" + old.pem + new.pem)
    for signs, at in ((old, 301), (new, 600)):
        key.write_bytes(signs.key_pem)
        authority = files.load(NOW + timedelta(days=at))
        assert authority.signer(NOW + timedelta(days=at)).certificate == signs.certificate
        assert authority.bundle(NOW + timedelta(days=at)) == old.pem + new.pem
    key.write_bytes(new_root(NOW).key_pem)
    with pytest.raises(CertificateError, match="do not belong together"):
        files.load(NOW)
    certificates.write_bytes(b"")
    with pytest.raises(CertificateError, match="no certificate"):
        files.load(NOW)


def test_a_certificate_does_not_outlive_its_root() -> None:
    root = new_root(NOW)
    late = root.certificate.not_valid_after_utc - timedelta(hours=1)
    issued, _ = Authority([root], "podlane").issue_server([], late)
    assert issued.expires == root.certificate.not_valid_after_utc


def test_only_a_ca_can_be_a_root() -> None:
    root = new_root(NOW)
    issued, key = Authority([root], "podlane").issue_server([], NOW)
    with pytest.raises(CertificateError, match="not a CA's"):
        read_root(issued.chain, key, "x")
