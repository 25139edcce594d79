"""``podlane mesh``: patches and marks, what overlaps, and what is refused instead of left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from podlane.main import main
from traffic_policy.errors import PolicyError
from traffic_policy.mesh.istio import ALL, envoy_filter
from traffic_policy.mesh.lanes import for_packets
from traffic_policy.policy_file import parse_policy

NAMES = """
total: 1Gbit
requests: follow
classes:
  - {name: api, rate: 10Mbit, match: [{host: api.example.com, port: 80}, {sni: api.example.com}]}
  - {name: db, rate: 10Mbit, match: [{port: 5432}, {sni: db.example.com}, {host: db.example.com}, {application: ssh}]}
  - {name: rest, rate: 1Mbit, match: [{sni: ["*.example.com"]}, {host: ["*.example.com"], port: "80-81"}]}
"""


def patches(policy: str, kind: str = "CLUSTER", **options: Any) -> list[dict[str, Any]]:
    made = envoy_filter(parse_policy(policy), **options).document
    return [each for each in made["spec"]["configPatches"] if each["applyTo"] == kind]


def mark(patch: dict[str, Any]) -> int:
    (option,) = patch["patch"]["value"]["upstream_bind_config"]["socket_options"]
    assert (option["level"], option["name"], option["state"]) == (1, 36, "STATE_PREBIND")
    value = option["int_value"]
    assert isinstance(value, int)
    return value >> 24


def test_a_host_of_the_mesh_is_its_clusters_and_the_first_match_comes_last() -> None:
    """Of two marks a socket keeps the last; of two patches for the same clusters only the first match's is written."""
    found = [(each["match"]["cluster"], mark(each)) for each in patches(NAMES)]
    assert found == [
        ({"service": "*.example.com"}, 3),
        ({"service": "db.example.com"}, 2),
        ({"service": "api.example.com"}, 1),
        ({"service": "api.example.com", "portNumber": 80}, 1),
    ]


def test_hosts_outside_get_clusters_chains_and_virtual_hosts_of_their_own() -> None:
    added = patches(NAMES, external={ALL})
    assert [(each["patch"]["operation"], each["patch"]["value"]["name"], mark(each)) for each in added] == [
        ("ADD", "podlane-api", 1),
        ("ADD", "podlane-db", 2),
        ("ADD", "podlane-rest", 3),
    ]
    chains = patches(NAMES, "FILTER_CHAIN", external={ALL})
    assert [
        (c["match"]["listener"]["name"], c["patch"]["value"]["filter_chain_match"]["server_names"]) for c in chains
    ] == [
        (listener, [name])
        for name in ("api.example.com", "db.example.com", "*.example.com")
        for listener in ("virtualOutbound", "0.0.0.0_443")
    ]
    hosts = patches(NAMES, "VIRTUAL_HOST", external={ALL})
    assert [(h["match"]["routeConfiguration"]["name"], h["patch"]["value"]["domains"][0]) for h in hosts] == [
        ("80", "api.example.com"), ("80", "db.example.com"), ("80", "*.example.com"), ("81", "*.example.com"),
    ]  # fmt: skip
    names = [each["patch"]["value"]["name"] for each in (*chains[::2], *hosts)]
    assert len(set(names)) == len(names)


def test_a_name_that_an_earlier_one_covers_gets_nothing_of_its_own() -> None:
    policy = """
total: 1Gbit
classes:
  - {name: wide, rate: 1Mbit, match: [{sni: "*.a.example"}, {host: "*.a.example"}]}
  - {name: late, rate: 1Mbit, match: [{sni: [x.a.example, b.example]}]}
"""
    chains = patches(policy, "FILTER_CHAIN", external={ALL}, tls_ports=(8443,))
    assert [(c["match"]["listener"]["name"], c["patch"]["value"]["filter_chain_match"]["server_names"]) for c in chains] == [
        ("virtualOutbound", ["*.a.example"]), ("0.0.0.0_8443", ["*.a.example"]),
        ("virtualOutbound", ["b.example"]), ("0.0.0.0_8443", ["b.example"]),
    ]  # fmt: skip


def test_the_catch_all_listener_looks_at_first_bytes_on_given_ports_alone() -> None:
    one, two = (patches(NAMES, "LISTENER_FILTER", external={ALL}, tls_ports=ports) for ports in ((443,), (443, 8443)))
    assert [each["patch"]["value"]["name"].rsplit(".")[-1] for each in one] == ["original_dst", "tls_inspector"]
    assert one[1]["patch"]["value"]["filter_disabled"] == {
        "not_match": {"destination_port_range": {"start": 443, "end": 444}}
    }
    assert len(two[1]["patch"]["value"]["filter_disabled"]["not_match"]["or_match"]["rules"]) == 2
    assert patches(NAMES, "LISTENER_FILTER") == []


def test_the_kernel_gets_marks_for_names_and_the_rest_as_it_is() -> None:
    document = for_packets(parse_policy(NAMES)).to_document()
    assert [c["match"] for c in document["classes"]] == [
        [{"mark": ["0x1000000/0xff000000"]}],
        [{"port": [5432]}, {"mark": ["0x2000000/0xff000000"]}, {"application": ["ssh"]}],
        [{"mark": ["0x3000000/0xff000000"]}],
    ]
    assert "requests" not in document


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ("{sni: a.example, alpn: h2}", "cannot be asked for alpn"),
        ("{sni: a.example, cidr: 10.0.0.0/8}", "cannot be asked for cidr"),
        ("{host: a.example, source: 10.0.0.0/8}", "cannot be asked for source"),
        ("{host: a.example, direction: inbound}", "not the answers"),
        ('{host: a.example, port: "1-1000"}', "128 ports"),
        ("[{host: a.example}, {mark: 0x1000000/0xff000000}]", "are those that the mesh's proxy sets"),
        ("{sni: a.example, protocol: udp}", "names in TCP alone"),
        ("{sni: a.example, host: b.example}", "both at once"),
        ("{port: 80}", "nothing to mark"),
    ],
    ids=["alpn", "cidr", "source", "inbound", "many ports", "marks", "UDP", "two names", "no names"],
)
def test_what_envoy_cannot_do_is_refused(match: str, words: str) -> None:
    policy = parse_policy(f"total: 1Gbit\nclasses: [{{name: a, rate: 1Mbit, match: {match}}}]")
    with pytest.raises(PolicyError, match=words):
        envoy_filter(policy)


def test_quic_cannot_be_refused() -> None:
    policy = parse_policy("{total: 1Gbit, quic: block, classes: [{name: a, rate: 1Mbit, match: {sni: a.example}}]}")
    for refusing in (envoy_filter, for_packets):
        with pytest.raises(PolicyError, match="nobody is there to refuse it"):
            refusing(policy)


def test_what_a_class_receives_is_not_told_by_marks() -> None:
    policy = parse_policy(
        "{total: 1Gbit, ingress: {total: 1Gbit}, classes: [{name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {host: a.example}}]}"
    )
    for refusing in (envoy_filter, for_packets):
        with pytest.raises(PolicyError, match="carries no mark"):
            refusing(policy)


def test_names_outside_must_be_the_policys_and_their_ports_those_that_are_looked_at() -> None:
    with pytest.raises(PolicyError, match=r"'x\.example' is none of the names in the policy"):
        patches(NAMES, external={"x.example"})
    policy = "total: 1Gbit\nclasses: [{name: a, rate: 1Mbit, match: {sni: a.example, port: 8443}}]"
    with pytest.raises(PolicyError, match="Name the same ports by --tls-port"):
        patches(policy, external={ALL})
    assert patches(policy, external={ALL}, tls_ports=(8443,))


def test_the_verbs_print_yaml_and_say_what_to_know(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(NAMES)
    options = [
        "--policy",
        str(path),
        "--namespace",
        "shop",
        "--label",
        "app=web",
        "--name",
        "lanes",
        "--external",
        "*.example.com",
    ]
    done = CliRunner().invoke(main, ["mesh", "envoyfilter", *options])
    document = yaml.safe_load(done.stdout)
    assert document["metadata"] == {"name": "lanes", "namespace": "shop"}
    assert document["spec"]["workloadSelector"] == {"labels": {"app": "web"}}
    assert "&" not in done.stdout, "no aliases"
    for words in ("NET_ADMIN", "waits for the client's first bytes", "all of its ports"):
        assert words in done.stderr
    done = CliRunner().invoke(main, ["mesh", "policy", "--policy", str(path)])
    assert parse_policy(done.stdout) == for_packets(parse_policy(NAMES))


@pytest.mark.parametrize("option", ["--label=app", "--name=Web", "--namespace=-", "--tls-port=0"])
def test_odd_options_are_refused(option: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(NAMES)
    done = CliRunner().invoke(main, ["mesh", "envoyfilter", "--policy", str(path), option])
    assert done.exit_code == 2
    assert option.partition("=")[2] in done.stderr
