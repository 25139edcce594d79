"""The demo's story and its verdicts, without a kernel: made-up counters in, problems out."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from podlane.demonstration.clients import Upload
from podlane.demonstration.recording import SAMPLE_SECONDS, Recording, judge
from podlane.demonstration.scenario import DEFAULT_SECONDS, LANES, Scenario, Span, make_scenario, policy_text
from podlane.demonstration.view import PlainView, live_table, print_report
from sidecar.routing.flow import Content, Destination
from sidecar.routing.table import RoutingTable
from tc_core.policy_file import parse_policy

EXPECTED = [
    {"backup": 80},
    {"video": 70, "backup": 30},
    {"video": 60, "web": 35, "backup": 5},
    {"video": 40, "web": 25, "events": 30, "backup": 5},
    {"api": 45, "video": 25, "web": 15, "events": 10, "backup": 5},
    {"api": 20, "video": 45, "web": 15, "events": 15, "backup": 5},
    {"api": 20, "web": 45, "events": 30, "backup": 5},
]
"""Mbit/s that HTB gives to each lane, phase by phase: guarantees, then borrowing by priority up to the ceil."""

Distort = Callable[[Span, str, float], float]


def play(distort: Distort = lambda _span, _lane, rate: rate, seconds: float = DEFAULT_SECONDS) -> Recording:
    """A recording of the expected rates, after ``distort`` had its way with them."""
    scenario = make_scenario(seconds)
    recording = Recording(scenario, changed_at=scenario.change_at + 0.03)
    sent = dict.fromkeys((lane.name for lane in scenario.lanes), 0.0)
    for tick in range(int(seconds / SAMPLE_SECONDS) + 1):
        time = tick * SAMPLE_SECONDS
        recording.add(time, {name: int(count) for name, count in sent.items()})
        index = max(i for i, span in enumerate(scenario.spans) if span.start <= time)
        for name, rate in EXPECTED[index].items():
            sent[name] += distort(scenario.spans[index], name, rate) * 1e6 / 8 * SAMPLE_SECONDS
    return recording


def test_the_story_lasts_less_than_a_minute_and_changes_the_limits_at_about_two_thirds() -> None:
    scenario = make_scenario()
    assert scenario.seconds <= 40
    assert 0.6 <= scenario.change_at / scenario.seconds <= 0.7


def test_every_lane_joins_once_and_only_video_ends() -> None:
    spans = make_scenario().spans
    assert sorted(s.phase.join for s in spans if s.phase.join) == sorted(lane.name for lane in LANES)
    assert [s.phase.end for s in spans if s.phase.end] == ["video"]
    assert spans[-1].active == {"api", "web", "events", "backup"}


@pytest.mark.parametrize("seconds", [10.0, 15.0, DEFAULT_SECONDS, 120.0])
def test_every_phase_keeps_time_to_measure_in(seconds: float) -> None:
    for span in make_scenario(seconds).spans:
        assert span.start < span.steady < span.end
        assert span.end - span.steady >= 2 * SAMPLE_SECONDS


@pytest.mark.parametrize("changed", [False, True], ids=["before", "after"])
def test_the_lanes_are_told_apart_as_they_say(changed: bool) -> None:
    table = RoutingTable.of(parse_policy(policy_text(changed=changed)))
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


def test_what_htb_should_do_is_what_the_verdict_accepts() -> None:
    verdict = judge(play())
    assert verdict.problems == ()
    assert len(verdict.measured) == sum(len(rates) for rates in EXPECTED)


def only(lane: str, phase: int, factor: float) -> Distort:
    scenario = make_scenario()
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
    problems = judge(play(distort)).problems
    assert any(found.startswith(problem) for found in problems), problems


def test_small_deviations_are_no_problem() -> None:
    assert judge(play(only("video", 1, 1.04))).problems == ()
    assert judge(play(only("web", 4, 0.96))).problems == ()


def test_a_change_that_never_came_is_a_problem() -> None:
    recording = play()
    recording.changed_at = None
    assert "The change of limits never came into force." in judge(recording).problems


def test_rates_are_means_between_the_readings_next_to_the_moments_asked_for() -> None:
    recording = Recording(make_scenario())
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


def report(recording: Recording, uploads: list[Upload]) -> str:
    protocols = {"api": ("tls",), "web": ("http1",)}
    return rendered(lambda console: print_report(console, recording, judge(recording), uploads, protocols))


def uploads(received: int | None = 1000) -> list[Upload]:
    return [Upload(lane.name, 1000, received) for lane in LANES]


def test_the_report_says_that_all_is_well() -> None:
    text = report(play(), uploads())
    assert "Every lane kept its guarantee and stayed within its ceil" in text
    assert "✗" not in text
    assert "45.0 ✓" in text


def test_the_report_names_what_is_wrong_and_claims_nothing_else() -> None:
    text = report(play(only("api", 5, 1.06)), uploads())
    assert "21.2 ✗" in text
    assert "✗ api: 21.2 Mbit/s is over its ceil of 20 Mbit/s" in text
    assert "Every lane kept" not in text


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Upload("web", 1000, 999), "web: 1000 bytes were sent, 999 arrived."),
        (Upload("web", 1000, None, "curl ended with 55"), "web: curl ended with 55."),
    ],
    ids=["bytes missing", "broken"],
)
def test_uploads_that_did_not_arrive_are_reported(bad: Upload, words: str) -> None:
    text = report(play(), [bad, *(u for u in uploads() if u.lane != "web")])
    assert f"✗ {words}" in text
    assert "every byte" not in text


def test_the_live_table_marks_a_lane_over_its_ceil() -> None:
    scenario = make_scenario()

    def table(distort: Distort) -> str:
        recording = play(distort)
        recording.samples = [s for s in recording.samples if s.time <= scenario.spans[1].end]
        return rendered(lambda console: console.print(live_table(scenario, recording, scenario.spans[1])))

    assert "over!" not in table(lambda _span, _lane, rate: rate)
    assert "over!" in table(only("video", 1, 1.2))


def test_plain_lines_come_every_two_seconds_and_events_at_once() -> None:
    scenario = make_scenario()

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


def test_an_upload_is_complete_only_when_every_byte_arrived() -> None:
    assert Upload("a", 5, 5).complete
    assert not Upload("a", 5, None).complete
    assert not Upload("a", 5, 4).complete
    assert not Upload("a", 5, 5, "late").complete


def test_the_two_policies_have_the_same_classes_so_that_a_change_alters_classes_in_place() -> None:
    before, after = (parse_policy(policy_text(changed=changed)) for changed in (False, True))
    assert [(c.name, c.match, c.priority) for c in before.classes] == [
        (c.name, c.match, c.priority) for c in after.classes
    ]
    assert [c.rate for c in before.classes] != [c.rate for c in after.classes]


def test_scenario_is_immutable_data() -> None:
    first, second = make_scenario(), make_scenario()
    assert isinstance(first, Scenario)
    assert first == second
