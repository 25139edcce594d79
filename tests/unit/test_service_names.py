"""Istio's names of services: read where they are, and told from every other name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.mesh.check import mesh_notes
from datapath.mesh.types import ISTIO, LINKERD, MeshProxy
from datapath.routing.flow import Content, Destination
from datapath.routing.service_names import ServiceName, service_name, understood
from datapath.routing.table import RoutingTable
from traffic_policy.names import normalise_host
from traffic_policy.policy import Quic, TransportProtocol
from traffic_policy.policy_file import parse_policy
from traffic_policy.settings import Datapath

REVIEWS = "reviews.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("sni", "meant"),
    [
        (f"outbound_.9080_._.{REVIEWS}", ServiceName(REVIEWS, 9080)),
        (f"outbound_.80_.v1_.{REVIEWS}", ServiceName(REVIEWS, 80, "v1")),
        ("outbound_.443_._.example.com", ServiceName("example.com", 443)),
        ("outbound_.65535_._.a", ServiceName("a", 65535)),
        ("outbound_.80_._.10.0.0.1", ServiceName("10.0.0.1", 80)),
        (REVIEWS, None),
        ("outbound_.0_._.a.example", None),
        ("outbound_.65536_._.a.example", None),
        ("outbound_.080_._.a.example", None),
        ("outbound_.http_._.a.example", None),
        ("outbound_.80_.v1.a.example", None),
        ("outbound_.80_._.", None),
        ("inbound_.80_._.a.example", None),
        ("x.outbound_.80_._.a.example", None),
        ("outbound|80||a.example", None),
        ("", None),
    ],
)
def test_names(sni: str, meant: ServiceName | None) -> None:
    assert service_name(sni) == meant


labels = st.text("az09", min_size=1, max_size=3).flatmap(lambda ends: st.sampled_from([ends, f"{ends}-{ends}"]))
hosts = st.lists(labels, min_size=1, max_size=5).map(".".join)


@settings(max_examples=50)
@given(hosts, st.integers(1, 65535), st.one_of(st.just(""), labels))
def test_what_istio_writes_is_read_back(host: str, port: int, subset: str) -> None:
    written = f"outbound_.{port}_.{subset}_.{host}"
    assert normalise_host(written) == written, "detection passes such names on as they are"
    assert service_name(written) == ServiceName(host, port, subset)
    assert understood(Content(sni=written, alpn=("istio",))) == Content(host, host, ("istio",), port)


@given(st.text("outbnd_.:0189-x|", max_size=40))
def test_any_other_text_is_no_service_and_no_error(text: str) -> None:
    found = service_name(text)
    if found is not None:
        assert text == f"outbound_.{found.port}_.{found.subset}_.{found.host}"
    else:
        assert understood(Content(sni=text)) == Content(sni=text)


POLICY = parse_policy(
    f"""
total: 10Mbit
classes:
  - {{name: by-sni, rate: 1Mbit, match: {{sni: "*.shop.svc.cluster.local"}}}}
  - {{name: by-host, rate: 1Mbit, match: {{host: {REVIEWS}, port: 9080}}}}
  - {{name: other-port, rate: 1Mbit, match: {{sni: {REVIEWS}, port: 443}}}}
  - {{name: as-it-is, rate: 1Mbit, match: {{sni: "outbound_.80_._.{REVIEWS}"}}}}
  - {{name: pods-port, rate: 1Mbit, match: {{port: 7000}}}}
"""
)


@pytest.mark.parametrize(
    ("sni", "port", "beside_istio", "elsewhere"),
    [
        ("outbound_.80_._.cart.shop.svc.cluster.local", 8080, "by-sni", "by-sni"),
        ("outbound_.80_.v1_.cart.shop.svc.cluster.local", 7000, "by-sni", "by-sni"),
        (f"outbound_.9080_._.{REVIEWS}", 8080, "by-host", "default"),
        (f"outbound_.80_._.{REVIEWS}", 9080, "by-host", "as-it-is"),
        (f"outbound_.443_._.{REVIEWS}", 8443, "other-port", "default"),
        (f"outbound_.80_._.{REVIEWS}", 8080, "default", "as-it-is"),
        (f"outbound_.80_._.{REVIEWS}", 7000, "pods-port", "as-it-is"),
        (REVIEWS, 443, "other-port", "other-port"),
        (REVIEWS, 8443, "default", "default"),
        ("outbound_.7000_._.a.example", 8080, "default", "default"),
    ],
)
@pytest.mark.parametrize("mesh", [ISTIO, LINKERD, None], ids=["Istio", "Linkerd", "no mesh"])
def test_only_beside_istio_a_name_stands_for_its_service(
    sni: str, port: int, beside_istio: str, elsewhere: str, mesh: MeshProxy | None
) -> None:
    table = RoutingTable.from_policy(POLICY, (), mesh)
    destination = Destination.parse("192.0.2.1", port)
    expected = beside_istio if mesh is ISTIO else elsewhere
    assert table.route(destination, Content(sni=sni)).class_name == expected
    if expected in ("by-sni", "by-host", "other-port"):
        assert table.undecided(destination)


@pytest.mark.parametrize(("quic", "read"), [("classify", True), ("block", False)])
def test_what_is_said_of_quic_beside_a_mesh(quic: str, read: bool) -> None:
    notes = list(mesh_notes(POLICY.model_copy(update={"quic": Quic(quic)}), ISTIO, Datapath.RELAY))
    assert ("QUIC does not go through the mesh: it is read as the program sends it." in notes) == read
    assert notes[0].startswith("Beside Istio, in TCP, names decide about what its proxy sends")
    (programs, *_) = mesh_notes(POLICY, ISTIO, Datapath.EBPF)
    assert programs.startswith(
        "Beside Istio, in TCP, names decide about all that leaves, which is what its proxy sends"
    )


def test_in_quic_a_name_is_what_it_is() -> None:
    """Meshes are about TCP: whoever says such a name in QUIC is no proxy of theirs."""
    named = parse_policy(f"{{total: 10Mbit, classes: [{{name: a, rate: 1Mbit, match: {{sni: {REVIEWS}}}}}]}}")
    table = RoutingTable.from_policy(named, (), ISTIO)
    classes = {
        protocol: table.route(Destination.parse("192.0.2.1", 443, protocol), Content(sni=f"outbound_.443_._.{REVIEWS}"))
        for protocol in TransportProtocol
    }
    assert classes[TransportProtocol.TCP].class_name == "a"
    assert classes[TransportProtocol.UDP].class_name == "default"
