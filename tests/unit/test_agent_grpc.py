"""The agent's calls, against Google's own server of gRPC."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import grpc
import pytest
import trio
import trustme
from fleet_server import FleetServer, fleet_server

from fleet_api.agent_pb2 import Answer, Credentials, Desired, EnrolRequest, FromAgent, Policy, ToAgent
from fleet_api.limits import CONNECT, ENROL
from node_agent.fleet.errors import CallEndedError, UnreachableError
from node_agent.fleet.fleet_settings import Address
from node_agent.fleet.grpc_call import GrpcCall
from node_agent.fleet.transport import calling, unary


@pytest.fixture(name="ca", scope="module")
def _ca() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def tls_of(ca: trustme.CA, *, certificate: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if certificate:
        ca.issue_cert("agent.example").configure_cert(context)
    context.set_alpn_protocols(["h2"])
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def big(size: int, revision: int = 1) -> ToAgent:
    return ToAgent(desired=Desired(revision=revision, policies=[Policy(name="p", document="x" * size)]))


def echo(messages: Iterator[FromAgent], _context: grpc.ServicerContext) -> Iterator[ToAgent]:
    """Answers each message with a Desired of the same revision and, where asked, of some size."""
    for message in messages:
        if message.answer.refusal:
            _context.abort(grpc.StatusCode.PERMISSION_DENIED, message.answer.refusal)
        yield big(len(message.answer.document), message.answer.id)


def said(number: int, document: str = "", refusal: str = "") -> bytes:
    return FromAgent(answer=Answer(id=number, document=document, refusal=refusal)).SerializeToString()


@pytest.mark.trio
async def test_messages_of_all_sizes_go_both_ways(ca: trustme.CA) -> None:
    sizes = [0, 1, 9, 16_383, 16_384, 65_535, 200_000, 3_000_000]
    got = []
    with fleet_server(ca, echo) as server:
        async with calling(Address("127.0.0.1", server.port), tls_of(ca), CONNECT) as call:
            for number, size in enumerate(sizes):
                await call.send(said(number, "x" * size))
            while len(got) < len(sizes):
                got.append(ToAgent.FromString(await call.receive()).desired)
            await call.send(said(99))  # nothing of the windows is lost
            assert ToAgent.FromString(await call.receive()).desired.revision == 99
    assert [(each.revision, len(each.policies[0].document)) for each in got] == list(enumerate(sizes))


@pytest.mark.trio
async def test_a_status_is_told_with_its_words(ca: trustme.CA) -> None:
    with fleet_server(ca, echo) as server:
        async with calling(Address("127.0.0.1", server.port), tls_of(ca), CONNECT) as call:
            await call.send(said(1, refusal="This agent was revoked — 50 % of what you ask."))
            with pytest.raises(CallEndedError, match="was revoked — 50 % of what") as ended:
                await call.receive()
    assert ended.value.status == 7
    assert ended.value.refused


@pytest.mark.trio
async def test_a_unary_call_and_its_refusal(ca: trustme.CA) -> None:
    def enrol(request: EnrolRequest, context: grpc.ServicerContext) -> Credentials:
        if request.join_token != "right":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "The join token was used.")
        return Credentials(certificate_chain=request.node, renew_at=7)

    with fleet_server(ca, enrol=enrol, mutual=False) as server:
        to, tls = Address("127.0.0.1", server.port), tls_of(ca, certificate=False)
        asked = EnrolRequest(node="n1", join_token="right")
        answer = Credentials.FromString(await unary(to, tls, ENROL, asked.SerializeToString()))
        assert (answer.certificate_chain, answer.renew_at) == ("n1", 7)
        asked.join_token = "wrong"
        with pytest.raises(CallEndedError, match="The join token was used") as ended:
            await unary(to, tls, ENROL, asked.SerializeToString())
        assert ended.value.status == 16


@pytest.mark.trio
async def test_the_end_of_a_server_is_noticed(ca: trustme.CA) -> None:
    with fleet_server(ca) as server:
        async with calling(Address("127.0.0.1", server.port), tls_of(ca), CONNECT) as call:
            await call.send(said(1))
            server.says.put(big(1))
            await call.receive()
            await trio.to_thread.run_sync(lambda: server.server.stop(0).wait())
            with pytest.raises(CallEndedError) as ended:
                await call.receive()
            assert not ended.value.refused


@pytest.mark.trio
async def test_what_cannot_be_reached_is_told(ca: trustme.CA, server: FleetServer) -> None:
    to = Address("127.0.0.1", server.port)
    stranger = trustme.CA(key_type=trustme.KeyType.ECDSA)
    with pytest.raises(UnreachableError, match=r"127.0.0.1:1: Connection refused"):
        await unary(Address("127.0.0.1", 1), tls_of(ca), CONNECT, b"")
    with pytest.raises(UnreachableError, match=r"certificate cannot be trusted: self-signed"):
        await unary(to, tls_of(stranger), CONNECT, b"")
    with (
        fleet_server(ca, names=["other.example"]) as other,
        pytest.raises(UnreachableError, match=r"trusted: Hostname mismatch"),
    ):
        await unary(Address("127.0.0.1", other.port), tls_of(ca), CONNECT, b"")
    with pytest.raises(CallEndedError, match=r"certificate|has closed the connection"):
        await unary(to, tls_of(ca, certificate=False), CONNECT, b"")


@pytest.fixture(name="server")
def _server(ca: trustme.CA) -> Iterator[FleetServer]:
    with fleet_server(ca) as made:
        yield made


@pytest.mark.parametrize("data", [b"\0" * 40, b""])
def test_what_is_no_http2_ends_the_call(data: bytes) -> None:
    call = GrpcCall("x:1", CONNECT, "test")
    with pytest.raises(CallEndedError):
        list(call.receive(data))
