"""Sentences in force on a real kernel: what is said is there, packets find their class, and 10 Mbit/s are 10 Mbit/s."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tclab import DEVICE, SERVER, Pair, inside, veth_pair
from trafficlab import ATTEMPTS, settles_at
from waiting import until

from tc_core.compile.packet_tree import lanes_of
from tc_core.controller import TrafficController
from tc_core.errors import ForeignQdiscError, MissingFeatureError
from tc_core.history import Outcome, SqliteHistory
from tc_core.probe import features
from traffic_policy.profiles import Profile, profiles
from traffic_policy.units import Rate

pytestmark = pytest.mark.root

HERE = features.probe() if os.geteuid() == 0 else features.ALL_FEATURES


def _runs_here(profile: Profile) -> bool:
    try:
        lanes_of(profile.policy(), DEVICE, HERE)
    except MissingFeatureError:
        return False
    return True


RUN_HERE = [profile for profile in profiles() if _runs_here(profile)]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with veth_pair() as made:
        yield made


@pytest.fixture
def controller(pair: Pair) -> TrafficController:
    return TrafficController(DEVICE, kernel=pair.kernel, features=HERE)


def send(pair: Pair, port: int, *, source_port: int = 0) -> None:
    """One UDP datagram from the client; nobody has to listen."""
    with inside(pair.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.bind(("", source_port))
        sender.sendto(b"x", (SERVER, port))


def test_the_sentence_in_the_issue(pair: Pair, controller: TrafficController) -> None:
    controller.total("1Gbit")
    sentence = controller.traffic_class("db").guaranteed("100Mbit").up_to("200Mbit").priority(1).for_port(5432)
    assert sentence.validate() == []
    planned = sentence.plan()
    report = sentence.apply()
    assert [change.command(name) for name, change in report.done] == planned
    assert sentence.apply().done == ()
    shown = pair.on_client("tc", "class", "show", "dev", DEVICE)
    assert "class htb 1:101 parent 1:1 leaf 101: prio 1 rate 100Mbit ceil 200Mbit" in shown
    assert sentence.clear().done
    assert pair.on_client("tc", "class", "show", "dev", DEVICE) == ""


def test_packets_find_the_class_that_was_said(pair: Pair, controller: TrafficController) -> None:
    controller.total("100Mbit").traffic_class("dns").guaranteed("1Mbit").for_application("dns")
    controller.traffic_class("both").guaranteed("1Mbit").for_port(9000).for_protocol("udp").for_destination(SERVER)
    controller.traffic_class("other").guaranteed("1Mbit").for_port(9000).for_destination("192.0.2.0/24")
    controller.apply()

    def packets() -> dict[str, int]:
        return {c.name: c.packets for c in controller.statistics("1ms").sending}

    for port, source_port, name in ((53, 0, "dns"), (9000, 0, "both"), (9001, 0, "default"), (40000, 53, "default")):
        before = packets()
        send(pair, port, source_port=source_port)
        until(f"a packet in {name}", lambda name=name, before=before: packets()[name] > before[name])
        assert {n for n, count in packets().items() if count > before[n]} == {name}, port
    assert packets()["other"] == 0


def test_a_controller_opens_a_kernel_where_it_is_used(pair: Pair) -> None:
    def act() -> int:
        with TrafficController(DEVICE, features=HERE).total("10Mbit") as controller:
            return len(controller.apply().done)

    assert inside(pair.client, act)
    assert "class htb 1:1 root rate 10Mbit" in pair.on_client("tc", "class", "show", "dev", DEVICE)


def test_both_ways_and_nothing_left(pair: Pair, controller: TrafficController) -> None:
    untouched = pair.kernel.observe(DEVICE), set(pair.kernel.interfaces())
    controller.total("10Mbit").ingress_total("5Mbit").default_class().receives(guaranteed="1Mbit")
    controller.apply()
    assert [c.name for c in controller.statistics("1ms").receiving] == ["default"]
    controller.clear()
    assert (pair.kernel.observe(DEVICE), set(pair.kernel.interfaces())) == untouched


def test_somebody_elses_qdisc(pair: Pair, controller: TrafficController) -> None:
    pair.on_client("tc", "qdisc", "add", "dev", DEVICE, "root", "handle", "5:", "pfifo", "limit", "9")
    controller.total("10Mbit")
    with pytest.raises(ForeignQdiscError, match="pfifo"):
        controller.apply()
    controller.clear()
    assert "qdisc pfifo 5: root" in pair.on_client("tc", "qdisc", "show", "dev", DEVICE)
    controller.apply(replace=True)
    assert "qdisc htb 1: root" in pair.on_client("tc", "qdisc", "show", "dev", DEVICE)


@pytest.mark.parametrize("profile", RUN_HERE, ids=lambda profile: profile.name)
def test_profiles_can_be_applied(pair: Pair, profile: Profile) -> None:
    made = TrafficController.from_profile(DEVICE, profile.name, total="20Mbit", kernel=pair.kernel, features=HERE)
    assert made.validate() == []
    made.apply()
    assert made.plan() == []


def test_what_this_kernel_lacks_is_told(controller: TrafficController) -> None:
    kinds = {"fq_codel": HERE.fq_codel, "sfq": HERE.sfq, "cake": HERE.cake}
    for kind, feature in kinds.items():
        controller.total("10Mbit").default_class().queue(kind)
        found = controller.validate()
        assert (found == []) == feature.available
        assert all(problem.remedy.startswith("Load it on the node") for problem in found)


def test_changes_are_written_down_for_their_namespace(pair: Pair, tmp_path: Path) -> None:
    with SqliteHistory(tmp_path / "history.db") as history:
        made = inside(
            pair.client, lambda: TrafficController(DEVICE, kernel=pair.kernel, history=history, features=HERE)
        )
        made.total("10Mbit").traffic_class("b").guaranteed("2Mbit").for_port(2).apply()
        made.clear()
        changes = history.changes()
    assert [(r.started.action, r.result) for r in changes] == [("clear", Outcome.DONE), ("apply", Outcome.DONE)]
    inode = pair.on_client("readlink", "/proc/self/ns/net").strip()
    assert all(inode in record.started.namespace for record in changes)
    assert all(command.startswith(("tc ", "ip ")) for record in changes for command in record.started.commands)


@pytest.mark.measure
def test_ten_megabits_are_ten_megabits(pair: Pair, controller: TrafficController) -> None:
    """The seed project accepted 5 to 15."""
    controller.total("100Mbit").traffic_class("slow").guaranteed("10Mbit").up_to("10Mbit").for_port(5201)
    controller.apply()
    stream = pair.stream(5201)
    settles_at(stream, "10Mbit", 3.0)
    for attempt in range(1, ATTEMPTS + 1):
        slow = controller.statistics("2s")["slow"]
        assert slow.rate <= Rate.parse("10.5Mbit"), "headers are counted here"
        if slow.rate >= Rate.parse("9.5Mbit"):
            break
        assert attempt < ATTEMPTS, f"only {slow.rate.human}"
    stream.close()
