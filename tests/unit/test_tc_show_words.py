"""What ``podlane tc show`` makes of trees: of every kind that Podlane makes, and of others'."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podlane.tc.records import Knowledge, Recorded, fits, knowledge
from podlane.tc.report import report
from podlane.tc.show import read_interface
from podlane.tc.tree import Node, TreeOwner, TreeReading, side_of
from podlane.tc.words import filter_lines, filter_words, node_document, queue_words, tree_lines
from tc_core.apply.execute import Report, apply
from tc_core.apply.journal import Intent
from tc_core.bpf.packet_program import PACKET_PRIO
from tc_core.compile.packet_tree import lanes_of
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.history import Standing
from tc_core.kernel import SetLink
from tc_core.model import (
    INGRESS_HOOK,
    Bfifo,
    BpfFilter,
    Cake,
    Clsact,
    Filter,
    FqCodel,
    FwFilter,
    HtbClass,
    HtbQdisc,
    Link,
    Netem,
    Observed,
    OtherFilter,
    OtherQdisc,
    Qdisc,
    RedirectFilter,
    Sfq,
)
from tc_core.probe.capability import ALL_FEATURES
from tc_core.trees import Lanes
from traffic_policy.marks import Mark
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import ByteCount, Duration, Rate

H, P = Handle(0x101), Handle(1, 0x101)
MS = 10**6


@pytest.mark.parametrize(
    ("qdisc", "words"),
    [
        (Bfifo(H, P, ByteCount(34816)), "fifo of 34.0 KiB"),
        (FqCodel(H, P, 100, Duration(5 * MS), Duration(100 * MS), ByteCount(1)), "fq_codel, target 5ms"),
        (FqCodel(H, P, 100, Duration(4_999_168), Duration(100 * MS), ByteCount(1)), "fq_codel, target 5ms"),
        (FqCodel(H, P, 100, Duration(4_542_464), Duration(40 * MS), ByteCount(1)), "fq_codel, target 4.54ms"),
        (Sfq(H, P, 127, ByteCount(1514), Duration(0)), "sfq of 127 packets"),
        (Cake(H, P), "cake"),
        (Cake(H, P, Rate(10**7)), "cake at 10 Mbit/s"),
        (Netem(H, P, delay=Duration(50 * MS), jitter=Duration(5 * MS)), "netem: 50ms ± 5ms later"),
        (Netem(H, P, loss_ppm=10_000, duplicate_ppm=500, corrupt_ppm=1), "netem: 1% lost, 0.05% sent twice, 0.0001% corrupted"),
        (Netem(H, P), "netem: as it is"),
        (OtherQdisc(H, P, "hhf"), "hhf"),
    ],
    ids=["fifo", "fq_codel", "fq_codel as read back", "fq_codel of a slow class", "sfq", "cake", "shaping cake", "delay", "chances", "idle netem", "other"],
)  # fmt: skip
def test_queues_in_words(qdisc: Qdisc, words: str) -> None:
    assert queue_words(qdisc) == words


@pytest.mark.parametrize(
    ("existing", "words"),
    [
        (FwFilter(Handle(1), Mark(0x1000000, 0xFF000000), P), "mark 0x1000000/0xff000000 → db (1:101)"),
        (FwFilter(Handle(1), Mark(0x2000000, 0xFF000000), Handle(1, 0x102)), "mark 0x2000000/0xff000000 → 1:102"),
        (RedirectFilter(INGRESS_HOOK, "ifb-eth0"), "everything → ifb-eth0"),
        (RedirectFilter(INGRESS_HOOK, ""), "everything → a device that is gone: it is lost"),
        (BpfFilter(Handle(1), "abc"), "BPF program abc chooses the class by the mark (bits 24-31)"),
        (
            BpfFilter(Handle(1), "abc", prio=PACKET_PRIO),
            "BPF program abc chooses the class by packets (its policy is not recorded)",
        ),
        (OtherFilter(Handle(1), "u32", 49152, 0x800), "u32 at prio 49152 → not Podlane's, not looked into"),
    ],
    ids=["known class", "unknown class", "redirect", "lost", "marks", "packets", "other"],
)
def test_filters_in_words(existing: Filter, words: str) -> None:
    assert filter_words(existing, {P: "db"}) == words


def test_programs_on_others_trees_are_not_guessed_at() -> None:
    program = BpfFilter(Handle(5), "abc", prio=PACKET_PRIO)
    assert filter_words(program, {}, ours=False) == "a BPF program at prio 10 → not Podlane's, not looked into"


def drawn(observed: Observed) -> list[str]:
    """The left column of the drawing."""
    return [line.rstrip() for line in tree_lines(side_of(TreeReading(observed, {})))]


def _class(minor: int, parent: Handle, *, is_inner: bool = False) -> HtbClass:
    size = ByteCount(3028)
    return HtbClass(Handle(1, minor), parent, Rate(10**6), Rate(10**7), size, size, 3, size, is_inner)


def test_others_trees_are_drawn_by_what_hangs_where() -> None:
    """Of hfsc only the qdiscs can be seen: they hang on the qdisc whose classes they are on."""
    observed = Observed(
        Link("eth0"),
        (
            OtherQdisc(Handle(5), ROOT, "hfsc"),
            OtherQdisc(Handle(7), Handle(5, 0x10), "prio"),
            OtherQdisc(Handle(8), Handle(7, 1), "pfifo"),
            OtherQdisc(Handle(9), Handle(5, 0x20), "sfq"),
        ),
    )
    assert drawn(observed) == ["hfsc 5:", "├─ prio 7:", "│  └─ pfifo 8:", "└─ sfq 9:"]
    assert side_of(TreeReading(observed, {})).owner is TreeOwner.OTHER


def test_the_queues_of_a_network_card_are_drawn_too() -> None:
    queues = tuple(OtherQdisc(Handle(0), Handle(0, number), "fq_codel") for number in (1, 2))
    observed = Observed(Link("eth0"), (OtherQdisc(Handle(0), ROOT, "mq"), *queues))
    assert drawn(observed) == ["mq", "├─ fq_codel", "└─ fq_codel"]
    assert side_of(TreeReading(observed, {})).owner is TreeOwner.KERNEL


def test_classes_within_classes_are_drawn_once_each_whatever_their_order() -> None:
    classes = (
        _class(0x20, Handle(1, 2)),
        _class(2, Handle(1, 1), is_inner=True),
        _class(0x10, Handle(1, 1)),
        _class(1, Handle(1), is_inner=True),
    )
    qdiscs = (HtbQdisc(Handle(1), 0x20), Bfifo(Handle(0x20), Handle(1, 0x20), ByteCount(1024)))
    observed = Observed(Link("eth0"), qdiscs, classes)
    side = side_of(TreeReading(observed, {}))
    assert side.root is not None
    assert [str(node.handle) for node in side.root.walk()] == ["1:", "1:1", "1:2", "1:20", "1:10"]
    inner, leaf = side.root.children[0], side.root.children[0].children[0].children[0]
    assert (inner.priority, leaf.priority) == (None, 3)
    assert leaf.queue == qdiscs[1]
    assert node_document(side.root)["children"][0]["children"][0]["children"][0]["handle"] == "1:20"


def shown(text: str) -> tuple[Node, list[str]]:
    """What there is to see after a policy has been applied to a kernel that has everything."""
    kernel = FakeKernel("eth0")
    lanes = lanes_of(parse_policy(text), "eth0", ALL_FEATURES)
    apply(kernel, "eth0", lanes)
    assert read_interface(kernel, "eth0", knowledge(Standing(None), "eth0")).sends.owner is TreeOwner.PODLANE
    named = side_of(TreeReading(kernel.observe("eth0"), {}), lanes.tree.names)
    assert named.root is not None
    return named.root, list(tree_lines(named))


@pytest.mark.parametrize(
    ("policy", "lines"),
    [
        (
            "{total: 20Mbit, shaper: tbf}",
            ["                   at most  queue", "default tbf 70d1:  20 Mbit/s", "└─ fq_codel 1ff:              fq_codel, target 5ms"],
        ),
        ("{total: 20Mbit, shaper: cake}", ["                    at most  queue", "default cake 70d1:  20 Mbit/s  cake at 20 Mbit/s"]),
    ],
    ids=["tbf", "cake"],
)  # fmt: skip
def test_shapers_without_classes(policy: str, lines: list[str]) -> None:
    _, drawing = shown(policy)
    assert [line.rstrip() for line in drawing[1:]] == lines[1:]


def test_strict_priority_shows_its_bands() -> None:
    root, drawing = shown(
        """{total: 20Mbit, shaper: prio, classes: [
        {name: web, priority: 3, match: {port: 443}}, {name: calls, priority: 0, ceil: 5Mbit, match: {port: 5060}}]}"""
    )
    bands = [node for node in root.walk() if node.what == "band"]
    assert [(node.name, node.priority) for node in bands] == [("calls", 1), ("web", 2), ("default", 3)]
    assert bands[0].ceiling == Rate(5_000_000)
    assert bands[0].children[0].kind == "tbf"
    assert any("calls band 1 70d2:1" in line for line in drawing)


PRIORITIES = """{total: 20Mbit, shaper: prio, classes: [
{name: web, priority: 3, match: {port: 443}}, {name: calls, priority: 0, match: {port: 5060}}]}"""


@pytest.mark.parametrize(
    ("policy", "words"),
    [(PRIORITIES, "everything else → default (70d2:3)"), ("{total: 20Mbit, classes: []}", "everything else → default (1:1ff)")],
    ids=["prio", "htb"],
)  # fmt: skip
def test_where_the_rest_goes(policy: str, words: str) -> None:
    kernel = FakeKernel("eth0")
    lanes = lanes_of(parse_policy(policy), "eth0", ALL_FEATURES)
    apply(kernel, "eth0", lanes)
    side = side_of(TreeReading(kernel.observe("eth0"), {}), lanes.tree.names)
    assert list(filter_lines(side, parse_policy(policy)))[-1] == words


def test_without_a_default_class_the_rest_is_not_shaped() -> None:
    side = side_of(TreeReading(Observed(Link("eth0"), (HtbQdisc(Handle(5), 0),)), {}))
    assert list(filter_lines(side, None)) == ["everything else → at full speed, past all classes"]


def test_a_rehearsal_shows_what_it_does() -> None:
    _, drawing = shown(
        """{total: 20Mbit, rehearsal: {delay: 80ms, jitter: 10ms, loss: 1%},
        classes: [{name: web, rate: 5Mbit, match: {port: 443}}]}"""
    )
    [line] = [line for line in drawing if "web 1:101" in line]
    assert line.endswith("netem: 80ms ± 10ms later, 1% lost")


# --- what the history knows, and whether it is still so ---------------------------------------------------------------

WRITTEN = """{total: 20Mbit, classes: [
{name: web, rate: 5Mbit, match: {port: 443}}, {name: calls, rate: 1Mbit, match: {port: 5060}}]}"""


@pytest.fixture
def followed() -> tuple[Lanes, Observed]:
    """A policy's lanes, and the interface that has been brought to them."""
    kernel = FakeKernel("eth0")
    lanes = lanes_of(parse_policy(WRITTEN), "eth0", ALL_FEATURES)
    apply(kernel, "eth0", lanes)
    return lanes, kernel.observe("eth0")


def test_an_interface_that_was_altered_does_not_fit_any_more(followed: tuple[Lanes, Observed]) -> None:
    lanes, observed = followed
    tree = lanes.tree
    assert fits(tree, observed)
    faster = replace(observed.classes[-1], ceil=Rate(19_000_000))
    assert not fits(tree, replace(observed, classes=(*observed.classes[:-1], faster)))
    assert not fits(tree, replace(observed, classes=observed.classes[:-1]))
    more = replace(faster, handle=Handle(1, 0x177))
    assert not fits(tree, replace(observed, classes=(*observed.classes, more)))
    assert not fits(tree, replace(observed, filters=()))
    assert fits(tree, replace(observed, qdiscs=observed.qdiscs[:1]))  # queues differ from kernel to kernel


def test_a_bucket_that_was_altered_does_not_fit_any_more() -> None:
    kernel = FakeKernel("eth0")
    lanes = lanes_of(parse_policy("{total: 20Mbit, shaper: tbf}"), "eth0", ALL_FEATURES)
    apply(kernel, "eth0", lanes)
    assert fits(lanes.tree, kernel.observe("eth0"))
    assert not fits(
        lanes_of(parse_policy("{total: 30Mbit, shaper: tbf}"), "eth0", ALL_FEATURES).tree, kernel.observe("eth0")
    )


def test_classes_are_listed_as_the_policy_has_them(followed: tuple[Lanes, Observed]) -> None:
    lanes, observed = followed
    shuffled = replace(observed, classes=tuple(reversed(observed.classes)))
    for names, expected in ((lanes.tree.names, ["total", "web", "calls", "default"]), ({}, ["", "", "", ""])):
        root = side_of(TreeReading(shuffled, {}), names).root
        assert root is not None
        classes = [node for node in root.walk() if node.what == "class"]
        assert [node.name for node in classes] == expected
        assert [node.handle.minor for node in classes] == [1, 0x101, 0x102, 0x1FF]


def test_filters_by_mark_are_told_one_by_one_whatever_the_policy_says(followed: tuple[Lanes, Observed]) -> None:
    lanes, observed = followed
    marked = replace(observed, filters=(FwFilter(Handle(1), Mark(0x1000000, 0xFF000000), P),))
    side = side_of(TreeReading(marked, {}), lanes.tree.names)
    said = list(filter_lines(side, parse_policy(WRITTEN)))
    assert said == ["mark 0x1000000/0xff000000 → web (1:101)", "everything else → default (1:1ff)"]


def _known(lanes: Lanes) -> Knowledge:
    return Knowledge(Standing(None), Recorded(1, parse_policy(WRITTEN), lanes))


def test_names_are_not_given_to_what_others_made(followed: tuple[Lanes, Observed]) -> None:
    _, observed = followed
    lanes = lanes_of(parse_policy(WRITTEN.replace("{total", "{ingress: {total: 5Mbit}, total")), "eth0", ALL_FEATURES)
    kernel = FakeKernel("eth0", "ifb7")
    root = HtbQdisc(Handle(1), 0x10)
    redirect = RedirectFilter(INGRESS_HOOK, "ifb7")
    kernel.put(replace(observed, qdiscs=(root, Clsact()), ingress=(redirect,)))
    kernel.put(replace(observed, link=Link("ifb7", kind="ifb")))  # the shape of ours, not the alias
    seen = read_interface(kernel, "eth0", _known(lanes))
    for side in (seen.sends, seen.arrives.side):
        assert side is not None
        assert side.root is not None
        assert {node.name for node in side.root.walk()} == {""}


# --- one sentence at the end ------------------------------------------------------------------------------------------


def test_packets_that_were_dropped_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    intent = Intent("eth0", "apply", None, None, (("eth0", SetLink(tx_queue_len=5)),), is_recorded=True)
    report(
        intent,
        (Report("eth0", intent.steps, dropped_packets=3, number=7), None),
        as_json=False,
        state="eth0 follows policy.yaml",
    )
    said = capsys.readouterr()
    assert said.out == "~ ip link set dev eth0 txqueuelen 5\n"
    assert said.err == (
        "podlane: eth0 follows policy.yaml: 1 change made (change 7 of the history).\n"
        "podlane: 3 packets that waited in classes which had to go were dropped.\n"
    )
