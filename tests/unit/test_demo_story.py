"""The demo's story and its verdicts, without a kernel: made-up counters in, problems out."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from datapath.routing.flow import Content, Destination
from datapath.routing.table import RoutingTable
from podlane.demo.clients import Transfer
from podlane.demo.parts import AGENT, BOTH_WAYS, PARTS, UPLOADS
from podlane.demo.recording import SAMPLE_SECONDS, Recording, assess
from podlane.demo.report import print_report
from podlane.demo.scenario import Part, PhaseSpan, Scenario, TransferDirection, TransferKind, make_scenario
from podlane.demo.view import PlainView, live_table
from traffic_policy.policy import Bound, TransportProtocol
from traffic_policy.policy_file import parse_policy

EXPECTED = {}
EXPECTED[UPLOADS.name] = [
    {"backup": 80},
    {"video": 70, "backup": 30},
    {"video": 60, "web": 35, "backup": 5},
    {"video": 40, "web": 25, "events": 30, "backup": 5},
    {"api": 45, "video": 25, "web": 15, "events": 10, "backup": 5},
    {"api": 20, "video": 45, "web": 15, "events": 15, "backup": 5},
    {"api": 20, "web": 45, "events": 30, "backup": 5},
]
EXPECTED[BOTH_WAYS.name] = [
    {"shop": 60},
    {"shop": 60, "media": 40},
    {"shop": 60, "media": 40, "updates": 60},
    {"shop": 60, "media": 40, "updates": 40, "dataset": 40},
    {"shop": 60, "media": 25, "live": 15, "updates": 40, "dataset": 40},
    {"shop": 50, "media": 15, "live": 15, "reports": 20, "updates": 40, "dataset": 40},
    {"shop": 30, "media": 15, "live": 15, "orders": 40, "updates": 40, "dataset": 40},
]
_BATCH = {"backup": 4, "dataset": 16}
EXPECTED[AGENT.name] = [
    {"backup": 15},
    _BATCH,
    {**_BATCH, "pages": 30},
    {**_BATCH, "pages": 10, "orders": 30},
    {**_BATCH, "pages": 10, "orders": 30, "stream": 40},
    {**_BATCH, "pages": 10, "orders": 30, "stream": 25, "events": 15},
    {**_BATCH, "pages": 20, "orders": 20, "stream": 25, "events": 15},
    {**_BATCH, "pages": 30, "stream": 25, "events": 15},
]
"""Mbit/s that HTB gives to each lane, phase by phase: guarantees, then borrowing by priority up to the ceil."""

ALL = (*PARTS.values(), AGENT)
Distort = Callable[[PhaseSpan, str, float], float]


def play(distort: Distort = lambda _span, _lane, rate: rate, part: Part = UPLOADS) -> Recording:
    """A recording of the expected rates, after ``distort`` had its way with them."""
    scenario = make_scenario(part)
    recording = Recording(scenario, changed_at=None if scenario.change_at is None else scenario.change_at + 0.03)
    sent = dict.fromkeys((lane.name for lane in scenario.lanes), 0.0)
    for tick in range(int(scenario.seconds / SAMPLE_SECONDS) + 1):
        time = tick * SAMPLE_SECONDS
        recording.add(time, {name: int(count) for name, count in sent.items()})
        index = max(i for i, span in enumerate(scenario.spans) if span.start <= time)
        for name, rate in EXPECTED[part.name][index].items():
            sent[name] += distort(scenario.spans[index], name, rate) * 1e6 / 8 * SAMPLE_SECONDS
    return recording


def test_the_stories_last_little_more_than_a_minute() -> None:
    assert sum(part.seconds for part in PARTS.values()) <= 65


def test_the_limits_change_at_about_two_thirds_of_the_uploads() -> None:
    scenario = make_scenario(UPLOADS)
    assert scenario.seconds <= 40
    assert scenario.change_at is not None
    assert 0.6 <= scenario.change_at / scenario.seconds <= 0.7
    assert make_scenario(BOTH_WAYS).change_at is None


@pytest.mark.parametrize(
    ("part", "ended"),
    [(UPLOADS, ["video"]), (BOTH_WAYS, ["reports"]), (AGENT, ["orders"])],
    ids=lambda p: getattr(p, "name", ""),
)
def test_every_lane_joins_once_and_one_ends(part: Part, ended: list[str]) -> None:
    spans = make_scenario(part).spans
    assert sorted(s.phase.join for s in spans if s.phase.join) == sorted(lane.name for lane in part.lanes)
    assert [s.phase.end for s in spans if s.phase.end] == ended
    assert spans[-1].active == {lane.name for lane in part.lanes} - {*ended}
    assert len({lane.colour for lane in part.lanes}) == len(part.lanes)


@pytest.mark.parametrize("part", ALL, ids=[*PARTS, AGENT.name])
@pytest.mark.parametrize("scale", [0.26, 0.4, 1.0, 3.0])
def test_every_phase_keeps_time_to_measure_in(part: Part, scale: float) -> None:
    scenario = make_scenario(part, scale)
    assert scenario.seconds == pytest.approx(part.seconds * scale)
    for span in scenario.spans:
        assert span.start < span.steady < span.end
        assert span.end - span.steady >= 2 * SAMPLE_SECONDS


@pytest.mark.parametrize("changed", [False, True], ids=["before", "after"])
def test_the_lanes_are_told_apart_as_they_say(changed: bool) -> None:
    table = RoutingTable.from_policy(parse_policy(UPLOADS.policy_text(changed=changed)))
    server = "10.0.0.1"
    seen = {
        "api": table.route(Destination.parse(server, 443), Content(sni="api.shop.test")),
        "video": table.route(Destination.parse(server, 443), Content(sni="eu.video.test")),
        "web": table.route(Destination.parse(server, 80), Content(host="www.shop.test")),
        "events": table.route(Destination.parse(server, 8080), Content(host="events.shop.test")),
        "backup": table.route(Destination.parse(server, 8730)),
        "default": table.route(Destination.parse(server, 443), Content(sni="elsewhere.test")),
    }
    assert {name: route.class_name for name, route in seen.items()} == {name: name for name in seen}
    assert not table.undecided(Destination.parse(server, 8730)), "backup is for the kernel alone"
    assert all(table.undecided(Destination.parse(server, port)) for port in (80, 443, 8080))


def test_both_ways_are_told_apart_as_they_say() -> None:
    table = RoutingTable.from_policy(parse_policy(BOTH_WAYS.policy_text()))
    server = "10.0.0.1"

    def here(port: int) -> Destination:
        return Destination.parse("10.0.0.2", port, bound=Bound.INBOUND)

    quic = Destination.parse(server, 443, TransportProtocol.UDP)
    seen = {
        "shop": table.route(here(80), Content(host="www.shop.test")),
        "media": table.route(here(8080)),
        "updates": table.route(Destination.parse(server, 80), Content(host="updates.os.test")),
        "dataset": table.route(Destination.parse(server, 443), Content(sni="data.lab.test")),
        "live": table.route(quic, Content(sni="live.shop.test")),
        "other-quic": table.route(quic, Content(sni="elsewhere.test")),
        "reports": table.route(Destination.parse(server, 80), Content(host="reports.shop.test")),
        "orders": table.route(Destination.parse(server, 80), Content(host="orders.shop.test")),
        "default": table.route(Destination.parse(server, 80), Content(host="www.shop.test")),
    }
    assert {name: route.class_name for name, route in seen.items()} == {name: name for name in seen}
    assert not table.undecided(here(8080)), "media is for the kernel alone"
    by_port = parse_policy(BOTH_WAYS.policy_text()).resolved()
    assert [c.ceil.human for c in by_port if c.name == "other-quic"] == ["2 Mbit/s"], "the story says so"
    assert table.route(quic).class_name == "other-quic", "by port alone QUIC would be in another lane"
    assert table.route(Destination.parse(server, 443), Content(sni="live.shop.test")).class_name == "default", "TCP"


@pytest.mark.parametrize("changed", [False, True], ids=["before", "after"])
def test_the_lanes_of_the_agents_pods_are_told_apart_as_they_say(changed: bool) -> None:
    server = "10.0.0.1"
    tables = {pod: RoutingTable.from_policy(p) for pod, p in AGENT.policies_by_pod(changed=changed).items()}
    assert tuple(tables) == AGENT.pods
    seen = {
        "orders": tables["web"].route(Destination.parse(server, 443), Content(sni="api.shop.test")),
        "pages": tables["web"].route(Destination.parse(server, 80), Content(host="www.shop.test")),
        "stream": tables["video"].route(Destination.parse(server, 443), Content(sni="eu.video.test")),
        "events": tables["video"].route(Destination.parse(server, 8080), Content(host="events.shop.test")),
        "backup": tables["batch"].route(Destination.parse(server, 8730)),
        "dataset": tables["batch"].route(Destination.parse(server, 443), Content(sni="data.lab.test")),
    }
    assert {name: route.class_name for name, route in seen.items()} == {lane.name: lane.name for lane in AGENT.lanes}


def test_without_a_lane_there_is_no_phase_in_which_it_joins() -> None:
    part = BOTH_WAYS.without(["live"])
    assert part.lanes == tuple(lane for lane in BOTH_WAYS.lanes if lane.name != "live")
    assert [phase.join for phase in part.story] == ["shop", "media", "updates", "dataset", "reports", "orders"]
    make_scenario(part)


def test_every_kind_of_traffic_and_both_ways_are_shown() -> None:
    assert {lane.kind for part in PARTS.values() for lane in part.lanes} == {*TransferKind}
    assert {way for part in PARTS.values() for way in make_scenario(part).totals} == {*TransferDirection}


@pytest.mark.parametrize("part", ALL, ids=[*PARTS, AGENT.name])
def test_what_htb_should_do_is_what_the_verdict_accepts(part: Part) -> None:
    verdict = assess(play(part=part))
    assert verdict.problems == ()
    assert len(verdict.measured) == sum(len(rates) for rates in EXPECTED[part.name])


def only(lane: str, phase: int, factor: float, part: Part = UPLOADS) -> Distort:
    scenario = make_scenario(part)
    return lambda span, name, rate: rate * factor if name == lane and span == scenario.spans[phase] else rate


@pytest.mark.parametrize(
    ("distort", "problem"),
    [
        (only("video", 1, 1.06), "video: 74.2 Mbit/s is over its ceil of 70 Mbit/s"),
        (only("api", 5, 1.06), "api: 21.2 Mbit/s is over its ceil of 20 Mbit/s"),
        (only("web", 4, 0.94), "web: 14.1 Mbit/s is below its guarantee of 15 Mbit/s"),
        (only("video", 5, 0.6), "video: 27 Mbit/s is below its guarantee of 45 Mbit/s"),
        (only("backup", 0, 0.9), "Only 90% of 80 Mbit/s was used"),
        (only("web", 6, 0), "web: 0 bit/s is below its guarantee"),
    ],
    ids=["over ceil", "over the new ceil", "guarantee", "new guarantee", "not lent", "stalled"],
)
def test_what_is_wrong_is_found(distort: Distort, problem: str) -> None:
    problems = assess(play(distort)).problems
    assert any(found.startswith(problem) for found in problems), problems


@pytest.mark.parametrize(
    ("distort", "problem"),
    [
        (only("shop", 1, 1.06, BOTH_WAYS), "shop: 63.6 Mbit/s is over its ceil of 60 Mbit/s"),
        (only("dataset", 3, 0.94, BOTH_WAYS), "dataset: 37.6 Mbit/s is below its guarantee of 40 Mbit/s"),
        (only("updates", 2, 0.9, BOTH_WAYS), "Only 90% of 60 Mbit/s was used"),
        (only("live", 4, 0.1, BOTH_WAYS), "live: 1.5 Mbit/s is below its guarantee of 5 Mbit/s"),
        (only("orders", 6, 0.4, BOTH_WAYS), "orders: 16 Mbit/s is below its guarantee of 20 Mbit/s"),
    ],
    ids=[
        "answer over ceil",
        "download below guarantee",
        "less than could arrive",
        "QUIC by port",
        "request in the wrong lane",
    ],
)
def test_what_is_wrong_with_both_ways_is_found(distort: Distort, problem: str) -> None:
    problems = assess(play(distort, BOTH_WAYS)).problems
    assert any(found.startswith(problem) for found in problems), problems


def test_small_deviations_are_no_problem() -> None:
    assert assess(play(only("video", 1, 1.04))).problems == ()
    assert assess(play(only("web", 4, 0.96))).problems == ()


def test_a_change_that_never_came_is_a_problem() -> None:
    recording = play()
    recording.changed_at = None
    assert "The change of limits never came into force." in assess(recording).problems


def test_rates_are_means_between_the_readings_next_to_the_moments_asked_for() -> None:
    recording = Recording(make_scenario(UPLOADS))
    for time, sent in ((0.0, 0), (0.25, 1000), (0.5, 3000), (1.0, 3000)):
        recording.add(time, {"api": sent})
    assert recording.rate("api", 0.0, 0.5) == pytest.approx(48_000)
    assert recording.rate("api", 0.3, 1.05) == pytest.approx(2000 * 8 / 0.75)
    assert recording.rate("api", 0.6, 0.62) is None
    assert recording.current("api") == pytest.approx(24_000)


def rendered(show: Callable[[Console], None]) -> str:
    console = Console(file=StringIO(), width=160, no_color=True)
    show(console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def report(recording: Recording, transfers: list[Transfer], *, clients_known: bool = True) -> str:
    protocols, verdict = {"api": ("tls",), "web": ("http1",)}, assess(recording)
    return rendered(lambda c: print_report(c, recording, verdict, transfers, protocols, clients_known))


def transfers(part: Part = UPLOADS) -> list[Transfer]:
    return [Transfer(lane.name, 1000, 1000) for lane in part.lanes]


def test_the_report_says_that_all_is_well() -> None:
    text = report(play(), transfers())
    assert "✓ What the Pod uploads: within guarantees and ceils (api 20.0–45.0, video 25.0–70.0, web" in text
    assert "✓ Limits changed at 23 s" in text
    assert "✗" not in text
    assert "45.0 ✓" in text


def test_the_report_of_both_ways_has_a_line_for_each_kind_of_traffic() -> None:
    text = report(play(part=BOTH_WAYS), transfers(BOTH_WAYS))
    assert "✗" not in text
    assert (
        "✓ Answers to what clients open: within guarantees and ceils (shop 30.0–60.0, media 15.0–40.0 Mbit/s)." in text
    )
    assert "✓ Downloads into the Pod: within guarantees and ceils (updates 40.0–60.0, dataset 40.0 Mbit/s)." in text
    assert "✓ What the Pod uploads: within guarantees and ceils (live 15.0 Mbit/s)." in text
    assert "each in its own lane: within guarantees and ceils (reports 20.0, orders 40.0 Mbit/s)." in text
    assert "✓ The Pod's server saw its clients' own addresses." in text
    assert "Limits changed" not in text
    widest = max(len(line) for line in text.splitlines() if not line.startswith(("✓", "Mbit")))
    assert widest <= 80, "on a terminal of 80 columns nothing is cut off"


def test_the_report_of_the_agents_part_has_a_line_for_each_pod() -> None:
    recording = play(part=AGENT)
    text = rendered(
        lambda c: print_report(
            c, recording, assess(recording), transfers(AGENT), {}, more=((True, "Nothing runs."), (False, "No."))
        )
    )
    assert "✓ What the Pod web uploads: within guarantees and ceils (orders 20.0–30.0, pages 10.0–30.0 Mbit/s)." in text
    assert "✓ What the Pod batch uploads: within guarantees and ceils (backup 4.0–15.0, dataset 16.0 Mbit/s)." in text
    assert "✓ Limits changed at 24 s" in text
    assert text.endswith("✓ Nothing runs.\n✗ No.\n")
    widest = max(len(line) for line in text.splitlines() if not line.startswith(("✓", "Mbit")))
    assert widest <= 80, "on a terminal of 80 columns nothing is cut off"


def test_what_a_pod_does_not_get_is_told() -> None:
    found = assess(play(only("stream", 4, 0.5, AGENT), AGENT)).problems
    assert found[0] == "stream: 20 Mbit/s is below its guarantee of 25 Mbit/s in the phase “stream”."
    assert found[1].startswith("Only 80% of 100 Mbit/s was used in the phase “stream”")


def test_a_server_that_saw_others_than_its_clients_is_reported() -> None:
    text = report(play(part=BOTH_WAYS), transfers(BOTH_WAYS), clients_known=False)
    assert "✗ The Pod's server saw NOT only its clients' own addresses." in text


def test_the_report_names_what_is_wrong_and_claims_nothing_else() -> None:
    text = report(play(only("api", 5, 1.06)), transfers())
    assert "21.2 ✗" in text
    assert "✗ api: 21.2 Mbit/s is over its ceil of 20 Mbit/s" in text
    assert "✗ What the Pod uploads: NOT within guarantees and ceils (api 20.0–45.0" in text
    assert "✓ What the Pod" not in text


def test_what_never_ran_is_not_called_kept() -> None:
    recording = Recording(make_scenario(BOTH_WAYS))
    recording.add(0.0, dict.fromkeys((lane.name for lane in BOTH_WAYS.lanes), 0))
    text = report(recording, [])
    assert "✗ Downloads into the Pod: NOT within guarantees and ceils (updates nothing, dataset nothing" in text
    assert "✓" not in text


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Transfer("web", 1000, 999), "web: 1000 bytes were sent, 999 arrived."),
        (Transfer("web", 1000, None, "curl ended with 55"), "web: curl ended with 55."),
    ],
    ids=["bytes missing", "broken"],
)
def test_transfers_that_did_not_arrive_are_reported(bad: Transfer, words: str) -> None:
    text = report(play(), [bad, *(t for t in transfers() if t.lane != "web")])
    assert f"✗ {words}" in text
    assert "every byte" not in text


def test_the_live_table_marks_a_lane_over_its_ceil() -> None:
    scenario = make_scenario(UPLOADS)

    def table(distort: Distort) -> str:
        recording = play(distort)
        recording.samples = [s for s in recording.samples if s.time <= scenario.spans[1].end]
        return rendered(lambda console: console.print(live_table(scenario, recording, scenario.spans[1])))

    assert "over!" not in table(lambda _span, _lane, rate: rate)
    assert "over!" in table(only("video", 1, 1.2))


def test_the_live_table_of_both_ways_has_a_sum_for_each() -> None:
    scenario = make_scenario(BOTH_WAYS)
    recording = play(part=BOTH_WAYS)
    text = rendered(lambda console: console.print(live_table(scenario, recording, scenario.spans[-1])))
    sums = [line.split() for line in text.splitlines() if line.startswith(("sent", "received"))]
    assert sums == [["sent", "100.0", "100.0", "100%", "Mbit/s"], ["received", "80.0", "80.0", "100%", "Mbit/s"]]


def test_plain_lines_come_every_two_seconds_and_events_at_once() -> None:
    scenario = make_scenario(UPLOADS)

    def show(console: Console) -> None:
        view = PlainView(console, scenario)
        view.announce(0.0, "backup joins")
        recording = Recording(scenario)
        for sample in play().samples:
            recording.add(sample.time, sample.sent)
            view.show(recording, scenario.spans[0])

    lines = rendered(show).splitlines()
    assert lines[0].endswith("backup joins")
    assert len(lines) == 1 + scenario.seconds // 2 + 1


def test_a_transfer_is_complete_only_when_every_byte_arrived() -> None:
    assert Transfer("a", 5, 5).complete
    assert not Transfer("a", 5, None).complete
    assert not Transfer("a", 5, 4).complete
    assert not Transfer("a", 5, 5, "late").complete


def test_the_two_policies_have_the_same_classes_so_that_a_change_alters_classes_in_place() -> None:
    before, after = (parse_policy(UPLOADS.policy_text(changed=changed)) for changed in (False, True))
    assert [(c.name, c.match, c.priority) for c in before.classes] == [
        (c.name, c.match, c.priority) for c in after.classes
    ]
    assert [c.rate for c in before.classes] != [c.rate for c in after.classes]


def test_scenario_is_immutable_data() -> None:
    first, second = make_scenario(UPLOADS), make_scenario(UPLOADS)
    assert isinstance(first, Scenario)
    assert first == second
