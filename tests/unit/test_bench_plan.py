"""Policies, the candidates' configurations made from them, and the order of a run."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.candidates import CANDIDATES, Ability
from benchmarks.candidates.envoy import EnvoyHcm, EnvoyTcp
from benchmarks.candidates.haproxy import binding_configuration, marking_configuration
from benchmarks.candidates.nginx import configuration
from benchmarks.errors import BenchmarkError
from benchmarks.metrics import METRICS
from benchmarks.plan import applicable, choose_candidates, choose_metrics, turns
from benchmarks.policies import shaped, wide
from traffic_policy.marks import OWN, class_id_of
from traffic_policy.policy import TrafficPolicy

SOURCES = {None: "10.0.0.10", "web": "10.0.0.11"}


@pytest.mark.parametrize("classes", [1, 2, 10, 100, 200])
def test_every_policy_is_valid_and_its_target_comes_last(classes: int) -> None:
    policy = wide(classes)
    made = policy.policy()
    assert isinstance(made, TrafficPolicy)
    assert len(made.classes) == classes
    assert made.classes[-1].name == policy.target.name == "web"
    assert {c.name for c in made.classes} | {"default"} == set(policy.ids)


def test_classes_are_told_by_name_or_by_port() -> None:
    policy = shaped(50)
    inside = policy.of("inside")
    named = {c.name: c for c in policy.policy().classes}["inside"]
    assert {name for match in named.match for name in (*match.sni, *match.host)} == {inside.host}
    ported = {c.name: c for c in policy.policy(by_port=True).classes}["inside"]
    assert {p.first for match in ported.match for p in match.port} == {inside.port, inside.http_port}
    assert ported.ceil is not None
    assert ported.ceil.bits_per_second == 50_000_000


def test_marks_have_the_class_and_the_proxys_own_bit() -> None:
    policy = wide(3)
    assert class_id_of(policy.mark("web")) == policy.ids["web"] == 3
    assert class_id_of(policy.mark()) == policy.ids["default"]
    assert policy.mark("web") & OWN.mask == OWN.value


def test_haproxy_marks_every_class() -> None:
    policy = wide(3)
    marks = re.findall(r"set-bc-mark (0x[0-9a-f]+)(?: if { req.ssl_sni -i (\S+) })?", marking_configuration(policy, ()))
    assert {host: int(mark, 16) for mark, host in marks} == {
        "": policy.mark(), **{c.host: policy.mark(c.name) for c in policy.classes},
    }  # fmt: skip


def test_proxies_that_cannot_mark_send_from_the_classs_address() -> None:
    policy = wide(3)
    haproxy = binding_configuration(policy, SOURCES, ["splice-auto"])
    assert "\n  option splice-auto\nfrontend" in haproxy
    assert haproxy.index("source 10.0.0.11") < haproxy.index("\nbackend original\n")
    assert f"use_backend target if {{ req.ssl_sni -i {policy.target.host} }}" in haproxy
    nginx = configuration(Path("/tmp/x"), policy, SOURCES)
    assert f"{policy.target.host} 10.0.0.11; default 10.0.0.10;" in nginx


@pytest.mark.parametrize("envoy", [EnvoyTcp(), EnvoyHcm()], ids=lambda e: e.name)
def test_envoy_has_a_chain_and_a_marking_cluster_per_class(envoy: EnvoyTcp) -> None:
    policy = wide(3)
    resources = envoy.configuration(policy)["static_resources"]
    clusters = {c["name"]: c["upstream_bind_config"]["socket_options"][0]["int_value"] for c in resources["clusters"]}
    assert clusters == {"default": policy.mark(), **{c.name: policy.mark(c.name) for c in policy.classes}}
    chains = resources["listeners"][0]["filter_chains"]
    assert [chain["filter_chain_match"]["server_names"] for chain in chains] == [[c.host] for c in policy.classes]


def test_rounds_are_interleaved() -> None:
    candidates = choose_candidates(CANDIDATES, ["direct", "podlane-relay"])
    metrics = choose_metrics(METRICS, ["conn", "keepalive-50"])
    plan = list(turns(candidates, metrics, 2))
    assert [(t.round, t.candidate.name) for t in plan] == [
        (1, "direct"), (1, "podlane-relay"), (2, "direct"), (2, "podlane-relay"),
    ]  # fmt: skip
    assert all([m.name for m in t.metrics] == ["conn", "keepalive-50"] for t in plan)


def test_a_turn_has_one_policy_and_only_what_the_candidate_can_do() -> None:
    plan = list(turns(list(CANDIDATES.values()), list(METRICS.values()), 1))
    for turn in plan:
        assert {m.policy for m in turn.metrics} == {turn.policy}
        assert all(applicable(turn.candidate, m) for m in turn.metrics)
    assert {m.name for t in plan for m in t.metrics} == set(METRICS)
    for before, after in pairwise(plan):
        assert (before.candidate, before.policy) != (after.candidate, after.policy)


def test_only_the_library_is_measured_as_one() -> None:
    for candidate in CANDIDATES.values():
        assert (Ability.LIBRARY in candidate.abilities) == (candidate.name == "podlane-library")
        assert applicable(candidate, METRICS["detection"]) == (candidate.name == "podlane-library")


def test_names_and_groups_choose_metrics() -> None:
    assert [m.name for m in choose_metrics(METRICS, ["reconcile", "conn"])] == [
        "conn", "reconcile-1", "reconcile-10", "reconcile-100", "reconcile-200",
    ]  # fmt: skip
    assert choose_metrics(METRICS, []) == list(METRICS.values())


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(BenchmarkError, match=r"no candidate squid.*haproxy"):
        choose_candidates(CANDIDATES, ["squid"])
    with pytest.raises(BenchmarkError, match=r"no metric speed.*bulk"):
        choose_metrics(METRICS, ["speed"])
