"""Names that workloads have: what is kept of them is bounded, and nobody's names take the place of others'."""

from __future__ import annotations

from types import SimpleNamespace

from datapath.ebpf.decided_names import HITS, NAME_KEY, NAME_VALUE, NameSeen, hits_between, judged, read_name
from datapath.ebpf.numbered_matches import numbered
from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.routing.table import RoutingTable
from datapath.stepaside.class_cache import ChosenClass, DetectedFlow
from fleet_api.agent_pb2 import FromAgent, NamesSeen, ToAgent
from fleet_api.limits import MAX_NAMES
from node_agent.counters import FlowCounters
from node_agent.fleet.names import NamesReport
from node_agent.names_seen import MOST_SORTED, MOST_UNSORTED, Judgement, NameSketch, WorkloadNames
from traffic_policy.match_key import MATCH_KEY_BYTES, document_key, match_key
from traffic_policy.policy import Bound, Match
from traffic_policy.policy_file import policy_from_document

POLICY = policy_from_document(
    {
        "total": "10Mbit",
        "classes": [
            {"name": "api", "rate": "1Mbit", "match": [{"sni": ["api.example.com", "*.api.example.com"]}]},
            {
                "name": "web",
                "rate": "1Mbit",
                "match": [{"application": ["https"]}, {"port": [80], "host": ["w.example"]}],
            },
        ],
    }
)
BY_NAME = Judgement("api", POLICY.classes[0].match[0])
BY_NONE = Judgement("default", None)
FLOW = bytes((10, 0, 0, 1, 10, 0, 0, 2, 0x9C, 0x40, 0x01, 0xBB))


def seen(name: str) -> NameSeen:
    return NameSeen(name, Protocol.TLS, 443, Bound.OUTBOUND)


def test_what_is_seen_often_stays_whatever_else_comes() -> None:
    sketch = NameSketch(8)
    for number in range(1000):
        sketch.add(seen(f"{number}.invented.example"), BY_NONE, 1)
        sketch.add(seen("often.example"), BY_NONE, 2)
    assert len(sketch) == 8
    [first, *others] = sketch.take(8)
    assert (first.seen.name, first.connections) == ("often.example", 2000)
    assert all(each.connections == 1 for each in others), "at least so many, and no more is known"
    assert len(sketch) == 0


def test_sorted_and_unsorted_names_have_room_of_their_own() -> None:
    names = WorkloadNames()
    names.see(seen("quiet.example"), BY_NONE)
    for number in range(500):
        names.see(seen(f"{number}.api.example.com"), BY_NAME, 100)
    assert len(names) == MOST_SORTED + 1
    assert names.take_names(1)[0].seen.name == "quiet.example", "what is in no lane is told first"
    for number in range(500):
        names.see(seen(f"{number}.example"), BY_NONE)
    assert len(names) == MOST_SORTED + MOST_UNSORTED


def test_a_name_is_where_it_was_put_last() -> None:
    names = WorkloadNames()
    names.see(seen("api.example.com"), BY_NONE, 5)
    names.see(seen("api.example.com"), BY_NAME)
    [told] = names.take_names(10)
    assert (told.judged, told.connections) == (BY_NAME, 6)


def workload(name: str, counters: FlowCounters, policy: str = "web") -> SimpleNamespace:
    about = SimpleNamespace(name=name, labels={"namespace": name.partition("/")[0]}, fleet_policy=policy)
    return SimpleNamespace(workload=about, counters=counters, plane=SimpleNamespace(policy=POLICY))


def test_a_report_has_all_workloads_and_is_bounded() -> None:
    running = {}
    for number in range(40):
        counters = FlowCounters()
        many = 200 if number == 7 else 3
        for each in range(many):
            counters.names.see(seen(f"{each}.p{number}.example"), BY_NONE, 1000 if many > 3 else 1)
        running[f"shop/p{number}"] = workload(f"shop/p{number}", counters)
    report = NamesReport()
    told = report.take(running)
    by_workload = [each.workload for each in told.names]
    assert len(told.names) == 39 * 3 + MOST_UNSORTED <= MAX_NAMES
    assert all(by_workload.count(f"shop/p{n}") == 3 for n in range(40) if n != 7)
    assert told.ByteSize() < 64 << 10
    assert report.take(running).ByteSize() == 0, "it was told"


def test_the_same_name_of_several_pods_is_told_once() -> None:
    running = {}
    for number in range(3):
        counters = FlowCounters()
        detection = Detection(Protocol.TLS, Reason.FOUND, sni="api.example.com")
        chosen = ChosenClass("api", 0, BY_NAME.match)
        counters.stepped_aside(FLOW, DetectedFlow(detection, Bound.OUTBOUND), chosen)
        running[f"shop/p{number}"] = workload(f"shop/p{number}", counters)
    told = NamesReport().take(running)
    [name] = told.names
    assert (name.name, name.lane, name.decided, name.port, name.connections) == (
        "api.example.com",
        "api",
        "name",
        443,
        3,
    )
    assert (name.protocol, name.direction, name.namespace, name.policy) == ("tls", "outbound", "shop", "web")
    [hits] = told.matches
    assert (hits.policy, hits.lane, hits.connections) == ("web", "api", 3)
    assert hits.match == match_key(POLICY.classes[0].match[0])


def test_a_match_by_service_is_told_as_it_is_written() -> None:
    counters = FlowCounters()
    for _, match in POLICY.rules():
        counters.names.hit(Judgement("web", match))
    counters.names.hit(BY_NONE, 4)
    told = NamesReport().take({"shop/a": workload("shop/a", counters)})
    keys = {hits.match: hits.connections for hits in told.matches}
    written = [match_key(each) for traffic_class in POLICY.classes for each in traffic_class.match]
    assert keys.keys() == {*written, b""}
    assert keys[b""] == 4
    own = NamesReport().take({"shop/a": workload("shop/a", counters, policy="")})
    assert list(own.matches) == [], "of policies that the control plane does not have it is told nothing"


def test_the_key_of_a_match_is_that_of_its_normal_form() -> None:
    for written in POLICY.to_document()["classes"]:
        assert all(len(document_key(each)) == MATCH_KEY_BYTES for each in written["match"])
    first = POLICY.to_document()["classes"][0]["match"][0]
    assert document_key(first) == match_key(POLICY.classes[0].match[0])
    assert document_key(dict(reversed(first.items()))) == document_key(first)
    assert match_key(Match(sni=("a.example",))) != match_key(Match(host=("a.example",)))


def test_what_the_programs_count_is_read_with_the_table() -> None:
    matches = numbered(RoutingTable.from_policy(POLICY))
    before, after = [0] * HITS, [0] * HITS
    after[0], after[HITS - 1] = 3, 7
    assert list(hits_between(matches, before, after)) == [(0, 3), (HITS - 1, 7)]
    assert judged(matches, 0) == ("api", POLICY.classes[0].match[0])
    assert judged(matches, 1024) == ("default", None)
    key = NAME_KEY.pack(b"API.Example.com.", b"\x01\xbb", 0, 0, 0)
    assert read_name(key, NAME_VALUE.pack(9)) == (seen("api.example.com"), 0, 9)
    assert read_name(NAME_KEY.pack(b"\xff", b"\0\0", 0, 0, 0), NAME_VALUE.pack(9)) is None
    assert read_name(NAME_KEY.pack(b"a.example", b"\0\0", 2, 0, 0), NAME_VALUE.pack(9)) is None


def test_messages_of_0_3_and_before_are_read_as_they_were_meant() -> None:
    # As they were on the wire before there were names: Watch{workloads: "front", others: true}, and a Report.
    watch = ToAgent.FromString(bytes.fromhex("12090a0566726f6e741001"))
    assert (list(watch.watch.workloads), watch.watch.others, watch.watch.names_every) == (["front"], True, 0)
    report = FromAgent.FromString(bytes.fromhex("1a05080110e807"))
    assert (report.report.at, report.report.interval_ms) == (1, 1000)
    # Who does not know names leaves them out: fields 3 of Watch and 7 of FromAgent are new.
    assert ToAgent(watch=watch.watch).SerializeToString().hex() == "12090a0566726f6e741001"
    assert FromAgent(names=NamesSeen()).SerializeToString().hex() == "3a00"
