"""Sentences become policies; verbs act on them; what is wrong is told at once, in the words of the calls."""

from __future__ import annotations

import errno
import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tc_core.apply.execute import ApplyError
from tc_core.builder import ClassBuilder, DefaultBuilder
from tc_core.compile.packet_tree import ifb_name
from tc_core.controller import TrafficController
from tc_core.errors import ForeignQdiscError, HistoryError, InterfaceNotFoundError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.history import MemoryHistory, Outcome
from tc_core.model import Link, Observed, OtherQdisc
from tc_core.probe.capability import ALL_FEATURES, CAKE, Features, absent
from tc_core.stats import ClassStats
from traffic_policy.errors import PolicyError, UnitError
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import load_policy, policy_from_document
from traffic_policy.ports import PortRange
from traffic_policy.units import ByteCount, Duration, Rate

DB, WEB = Handle(1, 0x101), Handle(1, 0x102)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel("eth0")


@pytest.fixture
def controller(kernel: FakeKernel) -> TrafficController:
    return TrafficController("eth0", kernel=kernel, features=ALL_FEATURES)


def problems(made: TrafficController) -> list[str]:
    return [str(problem) for problem in made.validate()]


# --- sentences -----------------------------------------------------------------------------------------------------------


def test_the_sentence_in_the_issue(kernel: FakeKernel, controller: TrafficController) -> None:
    report = (
        controller.total("1Gbit")
        .traffic_class("db").guaranteed("100Mbit").up_to("200Mbit").priority(1).for_port(5432)
        .apply()
    )  # fmt: skip
    assert [change for _, change in report.done] == kernel.applied
    made = kernel.observe("eth0").class_named(DB)
    assert made is not None
    assert (made.rate, made.ceil, made.prio) == (Rate.parse("100Mbit"), Rate.parse("200Mbit"), 1)
    assert controller.apply().done == ()


EVERYTHING: dict[str, Any] = {
    "total": "1Gbit",
    "shaper": "htb",
    "rehearsal": {"delay": "20ms"},
    "ingress": {"total": "500Mbit"},
    "classes": [
        {
            "name": "db", "rate": "100Mbit", "ceil": "200Mbit", "priority": 1, "burst": "64KiB", "queue": "auto",
            "ingress": {"rate": "50Mbit", "ceil": "80Mbit"},
            "match": [
                {"port": [5432, "6000-6010"], "cidr": ["10.0.0.0/8", "fd00::1"], "protocol": ["tcp"]},
                {"mark": ["0x10/0xff"], "source": ["192.0.2.1"]},
            ],
        },
        {
            "name": "calls", "rate": "1Mbit", "queue": "auto",
            "rehearsal": {"delay": "50ms", "jitter": "5ms", "loss": "1%", "duplicate": "0.1%", "corrupt": "0.01%"},
            "match": [{"application": ["sip", "rtp"]}, {"mark": [16]}],
        },
    ],
    "default": {"rate": "5Mbit", "ceil": "50Mbit", "priority": 6, "burst": "32KiB", "ingress": {"rate": "1Mbit"}},
}  # fmt: skip


def say_everything(controller: TrafficController) -> TrafficController:
    (
        controller.total("1Gbit").shaper("htb").rehearsal(delay="20ms").ingress_total("500Mbit")
        .traffic_class("db").guaranteed("100Mbit").up_to("200Mbit").priority(1).burst("64KiB").queue("auto")
        .receives(guaranteed="50Mbit", up_to="80Mbit")
        .for_port(5432, "6000-6010").for_destination("10.0.0.0/8", "fd00::1").for_protocol("tcp")
        .also().for_mark(0x10, 0xFF).for_source("192.0.2.1")
        .traffic_class("calls").guaranteed("1Mbit").queue("auto")
        .rehearsal(delay="50ms", jitter="5ms", loss="1%", duplicate="0.1%", corrupt="0.01%")
        .for_application("sip", "rtp")
        .also().for_mark(16)
        .default_class().guaranteed("5Mbit").up_to("50Mbit").priority(6).burst("32KiB").receives(guaranteed="1Mbit")
    )  # fmt: skip
    return controller


def test_every_call_writes_its_key(controller: TrafficController) -> None:
    assert say_everything(controller).policy() == policy_from_document(EVERYTHING)


def test_every_call_has_its_key_in_this_test() -> None:
    """So that a call that is added comes into the test above."""
    text = Path(__file__).read_text()
    said = text[text.index("def say_everything") : text.index("def test_every_call_writes")]
    wishes = {"low_latency", "fair_queuing"}
    verbs = {"policy", "validate", "explain", "plan", "apply", "statistics", "clear", "save", "close"}
    makers = {"load", "from_policy", "from_profile"}
    for builder in (TrafficController, ClassBuilder, DefaultBuilder):
        calls = {name for name in dir(builder) if not name.startswith("_")} - wishes - verbs - makers
        assert {name for name in calls if f".{name}(" not in said} == set()


def test_values_may_have_types(controller: TrafficController) -> None:
    controller.total(Rate.parse("1Gbit")).traffic_class("db").guaranteed(Rate.parse("1Mbit")).burst(
        ByteCount(65536)
    ).for_port(PortRange(1, 9)).for_source(ipaddress.ip_network("10.0.0.0/8")).rehearsal(delay=Duration.parse("5ms"))
    assert controller.policy() == policy_from_document(
        {"total": "1Gbit", "classes": [{"name": "db", "rate": "1Mbit", "burst": "64KiB", "rehearsal": {"delay": "5ms"},
         "match": [{"port": ["1-9"], "source": ["10.0.0.0/8"]}]}]}
    )  # fmt: skip


def test_wishes_are_queues(controller: TrafficController) -> None:
    controller.total("10Mbit").traffic_class("a").guaranteed("1Mbit").for_port(
        1
    ).low_latency().default_class().fair_queuing()
    policy = controller.policy()
    assert (policy.classes[0].queue, policy.default.queue) == ("low-latency", "fair")


def test_the_same_name_goes_on_with_the_class_and_begins_another_match(controller: TrafficController) -> None:
    controller.total("10Mbit").traffic_class("db").guaranteed("1Mbit").priority(2).for_port(5432)
    controller.traffic_class("other").guaranteed("1Mbit").for_port(1)
    controller.traffic_class("db").guaranteed("2Mbit").for_port(3306).for_protocol("tcp")
    first, second = controller.policy().classes
    assert (first.name, str(first.rate), first.priority) == ("db", "2Mbit", 2)
    assert [str(match) for match in first.match] == ["port 5432", "port 3306 and protocol tcp"]
    assert second.name == "other"


# --- what is wrong -------------------------------------------------------------------------------------------------------


TOLD = """\
classes[0].match[0].port: for_port() was said twice in one match, which could mean either of them or both at once. Give alternatives in one call of for_port(), or begin another match by also().
classes[1].match[0].source: for_source() names nothing, and must not mean everything. Write for_source("10.0.0.0/8").
total: '10' has no unit. Write bits per second with a unit, as in 10Mbit.
classes[0].match[0].port[0]: 'http' is not a port. Write a number from 1 to 65535 or a range such as "8000-8100".
classes[2].name: "default" is the name of the default class. Set it by default_class().
classes[2].match[0].protocol[0]: 'sctp' is not a protocol. Write tcp, udp or icmp.
classes[0]: rate is missing. Add what is guaranteed to the class, as in guaranteed("10Mbit")."""


def test_all_that_is_wrong_is_told_at_once_and_no_call_raises(
    kernel: FakeKernel, controller: TrafficController
) -> None:
    (
        controller.total("10")
        .traffic_class("a").for_port("http").for_port(443)
        .traffic_class("b").guaranteed("1Mbit").for_source()
        .traffic_class("default").guaranteed("1Mbit").for_protocol("sctp")
    )  # fmt: skip
    assert "\n".join(problems(controller)) == TOLD
    for verb in (controller.policy, controller.explain, controller.plan, controller.apply):
        with pytest.raises(PolicyError) as caught:
            verb()
        assert list(caught.value.problems) == controller.validate()
    assert kernel.applied == []


def no_total(made: TrafficController) -> object:
    return made.traffic_class("a").guaranteed("1Mbit").for_port(1)


def nothing_named(made: TrafficController) -> object:
    return made.total("1Mbit").traffic_class("a").guaranteed("1Mbit").for_source()


def no_match(made: TrafficController) -> object:
    return made.total("1Mbit").traffic_class("a").guaranteed("1Mbit")


def dangling(made: TrafficController) -> object:
    return made.total("1Mbit").traffic_class("a").guaranteed("1Mbit").for_port(1).also()


def no_ingress(made: TrafficController) -> object:
    return made.total("1Mbit").default_class().receives(guaranteed="1Mbit")


def receives_no_guarantee(made: TrafficController) -> object:
    return made.total("1Mbit").ingress_total("1Mbit").default_class().receives(guaranteed=None, up_to="1Mbit")  # type: ignore[arg-type]


def receives_too_much(made: TrafficController) -> object:
    return made.total("1Mbit").ingress_total("1Mbit").default_class().receives(guaranteed="2Mbit")


def same_everything(made: TrafficController) -> object:
    return made.total("1Mbit").rehearsal()


def early(made: TrafficController) -> object:
    return made.total("1Mbit").rehearsal(delay="1ms", jitter="2ms")


def priorities_with_rates(made: TrafficController) -> object:
    return made.total("1Mbit").shaper("prio").traffic_class("a").guaranteed("1Mbit").for_port(1)


def pings_with_ports(made: TrafficController) -> object:
    return made.total("2Mbit").traffic_class("a").guaranteed("1Mbit").for_port(1).for_protocol("icmp")


def too_much(made: TrafficController) -> object:
    return made.total("1Mbit").traffic_class("a").guaranteed("2Mbit").for_port(1)


@pytest.mark.parametrize(
    ("say", "told"),
    [
        (no_total, 'total is missing. Add the bandwidth of the interface, as in total("100Mbit").'),
        (nothing_named, 'classes[0].match[0].source: for_source() names nothing, and must not mean everything. Write for_source("10.0.0.0/8").'),
        (no_match, "classes[0].match: The list is empty, so nothing can ever belong to the class. Say what does, as in for_port(443)."),
        (dangling, "classes[0].match[1]: A match of class a has no criterion: it would take all. Add one, or put these limits by default_class()."),
        (no_ingress, 'default.ingress: Class default limits what it receives, but the bandwidth of what arrives is not given. Add it at the top, as in ingress_total("100Mbit").'),
        (receives_no_guarantee, 'default.ingress: rate is missing. Add what is guaranteed to the class of what it receives, as in receives(guaranteed="10Mbit").'),
        (receives_too_much, "default.ingress.rate: Cannot guarantee 2 Mbit/s inside 1 Mbit/s. Lower the rate of class default or raise ingress_total to 2Mbit."),
        (same_everything, 'rehearsal: It is empty, so nothing is worse. Say what is, as in rehearsal(delay="50ms").'),
        (early, 'rehearsal.jitter: A delay of 1ms cannot vary by 2ms: packets would leave before they came. Write delay="2ms" or more.'),
        (priorities_with_rates, 'classes[0].rate: prio gives no guarantees. Remove the rate, or write shaper("htb").'),
        (pings_with_ports, 'classes[0].match[0]: icmp has no ports. Remove port, or write for_protocol("tcp", "udp").'),
        (too_much, "classes[0].rate: Cannot guarantee 2 Mbit/s inside 1 Mbit/s. Lower the rate of class a or raise total to 2Mbit."),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_remedies_are_calls(
    controller: TrafficController, say: Callable[[TrafficController], object], told: str
) -> None:
    say(controller)
    assert problems(controller) == [told]
    assert not re.search(r"\b(rate|total|match|delay|shaper|queue|protocol|ingress): ?[\[{\w]", told.partition(": ")[2])


def test_names_in_the_first_bytes_are_for_the_proxy() -> None:
    policy = policy_from_document(
        {"total": "1Mbit", "classes": [{"name": "a", "rate": "100kbit", "match": [{"sni": "a.example"}]}]}
    )
    made = TrafficController.from_policy("eth0", policy, kernel=FakeKernel("eth0"), features=ALL_FEATURES)
    assert "can be seen only by a proxy" in problems(made)[0]
    with pytest.raises(PolicyError, match="only by a proxy"):
        made.apply()
    assert "a.example" in made.explain()


@pytest.mark.parametrize(
    ("features", "told"),
    [
        pytest.param(replace(ALL_FEATURES, cake=absent(CAKE, "not here")), ["This policy needs CAKE"], id="lacks cake"),
        pytest.param(ALL_FEATURES, [], id="has it"),
        pytest.param(Features(*(absent(f.name, "no", errno.EPERM) for f in ALL_FEATURES)), [], id="may not be asked"),
    ],
)
def test_what_the_kernel_cannot_do_is_a_problem(features: Features, told: list[str]) -> None:
    made = TrafficController("eth0", kernel=FakeKernel("eth0"), features=features).total("1Mbit").shaper("cake")
    assert [problem.message[: len(words)] for problem, words in zip(made.validate(), told, strict=True)] == told


# --- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json", ".JSON"])
def test_what_is_saved_loads_as_the_same(controller: TrafficController, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"policy{suffix}"
    say_everything(controller).save(path)
    assert load_policy(path) == controller.policy()
    assert TrafficController.load("eth0", path).policy() == controller.policy()
    if suffix.lower() == ".json":
        assert json.loads(path.read_text()) == controller.policy().to_document()


def test_a_loaded_policy_goes_on(tmp_path: Path, controller: TrafficController) -> None:
    path = tmp_path / "policy.json"
    say_everything(controller).save(path)
    loaded = TrafficController.load("eth0", str(path))
    loaded.traffic_class("db").up_to("300Mbit").for_port(7000).traffic_class("more").guaranteed("1Mbit").for_port(9)
    classes = loaded.policy().classes
    assert [c.name for c in classes] == ["db", "calls", "more"]
    assert (str(classes[0].ceil), len(classes[0].match)) == ("300Mbit", 3)
    assert controller.policy().classes[0].match == classes[0].match[:2]


def test_files_that_cannot_be_written_are_told(controller: TrafficController, tmp_path: Path) -> None:
    controller.total("1Mbit")
    for path, told in (
        (tmp_path / "policy.txt", ".txt does not say YAML or JSON. Name it .yaml or .json."),
        (tmp_path / "policy", "No suffix does not say YAML or JSON. Name it .yaml or .json."),
        (tmp_path / "missing" / "policy.yaml", "Cannot be written: No such file or directory. Name another file."),
    ):
        with pytest.raises(PolicyError) as caught:
            controller.save(path)
        assert str(caught.value) == f"{path}: {told}"


# --- acting --------------------------------------------------------------------------------------------------------------


def simple(
    kernel: FakeKernel, history: MemoryHistory | None = None, *names: str, total: str = "10Mbit"
) -> TrafficController:
    made = TrafficController("eth0", kernel=kernel, history=history, features=ALL_FEATURES).total(total)
    for port, name in enumerate(names, 1):
        made.traffic_class(name).guaranteed("1Mbit").for_port(port)
    return made


def test_a_plan_touches_nothing_and_is_what_apply_does(kernel: FakeKernel) -> None:
    made = simple(kernel, None, "a")
    planned = made.plan()
    assert kernel.applied == []
    assert planned == [change.command(name) for name, change in made.apply().done]
    assert made.plan() == []


def test_clear_leaves_nothing_and_keeps_the_policy(kernel: FakeKernel) -> None:
    untouched = kernel.observe("eth0"), kernel.interfaces()
    made = simple(kernel, None, "a").ingress_total("5Mbit")
    made.apply()
    assert ifb_name("eth0") in kernel.interfaces()
    assert made.clear().done
    assert (kernel.observe("eth0"), kernel.interfaces()) == untouched
    assert made.clear().done == ()
    assert made.apply().done


def test_somebody_elses_tree_is_replaced_only_on_request(kernel: FakeKernel) -> None:
    kernel.put(Observed(Link("eth0"), (OtherQdisc(Handle(0x8001), ROOT, "hfsc"),)))
    made = simple(kernel, None, "a")
    for verb in (made.plan, made.apply):
        with pytest.raises(ForeignQdiscError, match="did not make"):
            verb()
    assert made.plan(replace=True)
    assert made.apply(replace=True).done


def test_an_interface_that_is_not_there(kernel: FakeKernel) -> None:
    made = TrafficController("eth9", kernel=kernel, features=ALL_FEATURES).total("1Mbit")
    assert made.validate() == []
    for verb in (made.plan, made.apply, made.clear, lambda: made.statistics("1ms")):
        with pytest.raises(InterfaceNotFoundError, match="eth0"):
            verb()


def test_builders_have_the_verbs_too(kernel: FakeKernel, tmp_path: Path) -> None:
    builder = simple(kernel).traffic_class("a").guaranteed("1Mbit").for_port(1)
    assert builder.validate() == []
    assert builder.policy().classes[0].name == "a"
    assert "a is guaranteed 1 Mbit/s" in builder.explain()
    builder.save(tmp_path / "policy.yaml")
    assert len(builder.plan()) == len(builder.apply().done)
    assert [c.name for c in builder.statistics("1us").sending] == ["a", "default"]
    assert builder.default_class().clear().done


def test_only_an_own_kernel_is_closed(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(FakeKernel, "close", lambda self: closed.append(self))
    with TrafficController("eth0", kernel=kernel, features=ALL_FEATURES) as made:
        made.total("1Mbit").apply()
    assert closed == []
    own = FakeKernel("eth0")
    monkeypatch.setattr("tc_core.rtnetlink.kernel.NetlinkKernel", lambda: own)
    with TrafficController("eth0", features=ALL_FEATURES) as made:
        made.total("1Mbit").apply()
        assert closed == []
    assert closed == [own]


# --- history -------------------------------------------------------------------------------------------------------------


def test_changes_are_written_down_and_what_changes_nothing_is_not(kernel: FakeKernel) -> None:
    history = MemoryHistory()
    made = simple(kernel, history, "a")
    commands = made.plan()
    assert history.changes() == []
    made.apply()
    made.apply()
    made.clear()
    made.clear()
    cleared, applied = history.changes()
    state = {"policy": made.policy().to_document(), "ids": {"a": 1, "default": 255}}
    assert (applied.started.action, applied.started.before, applied.started.after) == ("apply", None, state)
    assert applied.started.commands == tuple(commands)
    assert applied.finished is not None
    assert (applied.result, applied.finished.made) == (Outcome.DONE, len(commands))
    assert (cleared.started.action, cleared.started.before, cleared.started.after) == ("clear", state, None)


def test_another_policy_is_written_down_even_if_the_kernel_has_the_same_already(kernel: FakeKernel) -> None:
    history = MemoryHistory()
    made = simple(kernel, history, "a")
    made.apply()
    made.traffic_class("a").up_to("20Mbit")  # which is cut to the total, as before
    assert made.apply().done == ()
    assert [record.started.commands == () for record in history.changes()] == [True, False]


def test_a_history_that_fills_up_in_the_middle_says_that_the_change_was_made(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = MemoryHistory()
    made = simple(kernel, history, "a")

    def full(*_: object, **__: object) -> None:
        raise HistoryError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(history, "finish", full)
        with pytest.raises(HistoryError, match=r"disk is full\. All changes were made\. .*change 1 as interrupted"):
            made.apply()
    assert made.plan() == []
    assert made.apply().number is not None  # settles it
    assert history.changes()[0].result is Outcome.DONE


def test_a_refusal_is_written_down_and_the_next_apply_settles_it(kernel: FakeKernel) -> None:
    history = MemoryHistory()
    made = simple(kernel, history, "a")
    kernel.fail_at(2)
    with pytest.raises(ApplyError) as refusal:
        made.apply()
    [failed] = history.changes()
    assert failed.number == refusal.value.number
    assert failed.finished is not None
    assert (failed.result, failed.finished.made) == (Outcome.FAILED, 2)
    assert "was refused" in failed.finished.error
    assert made.apply().number == history.changes()[0].number
    assert history.changes()[0].result is Outcome.DONE
    assert history.standing("eth0", failed.started.namespace).certain


def test_what_was_settled_by_hand_is_written_down_as_settled(kernel: FakeKernel) -> None:
    history = MemoryHistory()
    simple(kernel, history, "a").apply()
    kernel.fail_at(1)
    with pytest.raises(ApplyError):
        simple(kernel, history, "a", "b").apply()
    simple(kernel, None, "a").apply()
    assert simple(kernel, history, "a").apply().done == ()
    newest = history.changes()[0]
    assert (newest.result, newest.started.commands) == (Outcome.DONE, ())
    assert history.standing("eth0", newest.started.namespace).certain


def test_nothing_is_changed_when_nothing_can_be_written_down(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = MemoryHistory()
    made = simple(kernel, history, "a")
    made.plan()
    monkeypatch.setattr(MemoryHistory, "append", Mock(side_effect=HistoryError("The disk is full.")))
    with pytest.raises(HistoryError, match=r"The disk is full\. Nothing has been changed\."):
        made.apply()
    assert kernel.applied == []


def handles(kernel: FakeKernel) -> set[str]:
    return {str(c.handle) for c in kernel.observe("eth0").classes if not c.is_inner}


def test_classes_that_stay_keep_their_handles_only_with_a_history_that_is_right(kernel: FakeKernel) -> None:
    history = MemoryHistory()
    simple(kernel, history, "a", "b").apply()
    simple(kernel, history, "b").apply()
    assert handles(kernel) == {"1:102", "1:1ff"}
    assert simple(kernel, history, "b").plan() == []
    assert simple(kernel, None, "b").plan() != [], "without a history ids begin at 1"
    # Somebody changes it, or takes it away, behind the history's back.
    simple(kernel, None, "b").apply()
    assert simple(kernel, history, "b").plan() == []
    kernel.put(FakeKernel("eth0").observe("eth0"))
    simple(kernel, history, "b").apply()
    assert handles(kernel) == {"1:101", "1:1ff"}


# --- statistics ----------------------------------------------------------------------------------------------------------


def test_statistics_have_names_limits_and_counters(kernel: FakeKernel) -> None:
    made = simple(kernel, None, "db", "web").ingress_total("5Mbit")
    made.apply()
    kernel.count(DB, ClassStats(bytes=5 * 2**20, packets=4000, drops=7))
    kernel.queue(DB, 3028)
    statistics = made.statistics("1ms")
    assert [c.name for c in statistics.sending] == ["db", "web", "default"]
    assert [c.name for c in statistics.receiving] == ["default"]
    db = statistics["db"]
    assert (db.sent.human, db.packets, db.dropped, db.queued.count) == ("5.0 MiB", 4000, 7, 3028)
    assert (str(db.guaranteed), str(db.ceil), db.rate) == ("1Mbit", "10Mbit", Rate(0))
    assert statistics.over >= Duration.parse("1ms")
    with pytest.raises(KeyError):
        statistics["api"]
    with pytest.raises(UnitError, match="not a duration"):
        made.statistics("1 second")


def test_names_in_statistics_are_those_in_force(kernel: FakeKernel) -> None:
    history = MemoryHistory()
    simple(kernel, history, "db", "web").apply()
    draft = simple(kernel, history, "other", "names", "here")
    assert [c.name for c in draft.statistics("1us").sending] == ["db", "web", "default"], "from the history"
    assert [c.name for c in simple(kernel, None, "x").statistics("1us").sending] == ["1:101", "1:102", "1:1ff"]
    assert TrafficController("eth0", kernel=kernel, features=ALL_FEATURES).statistics("1us").sending[0].name == "1:101"


def test_statistics_of_nothing(kernel: FakeKernel) -> None:
    made = TrafficController("eth0", kernel=kernel, features=ALL_FEATURES)
    assert str(made.statistics("1us")) == "Podlane does not shape eth0."


def test_a_policy_given_is_not_altered(controller: TrafficController) -> None:
    policy = say_everything(controller).policy()
    again = TrafficController.from_policy("eth0", policy)
    again.total("2Gbit").traffic_class("db").for_port(1)
    assert isinstance(policy, TrafficPolicy)
    assert policy == controller.policy()
